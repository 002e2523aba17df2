//! The installed setuid program from outside, with the test in the agent's place.
//! Needs root, `ip` and `tc` (iproute2), `nsenter` and perl. Every test is a process of its own, in namespaces
//! of its own.

mod attacks;
mod ends;
mod inside;
mod refusals;
mod roles;
mod serve;
mod shaping;
mod signals;
mod world;

use std::process::{Command, ExitCode};

macro_rules! tests {
    ($($file:ident: $($name:ident)*;)*) => {
        const TESTS: &[(&str, fn())] = &[$($((stringify!($name), $file::$name),)*)*];
    };
}

tests! {
    attacks: directories_closed_to_the_user_are_not_opened_by_the_sandbox the_limits_of_the_caller_hold_inside a_low_limit_on_file_locks_is_raised_or_named a_process_group_leader_is_refused an_alarm_set_before_the_start_does_not_ring a_standard_error_that_nobody_reads_holds_nothing_up descriptors_that_cannot_be_closed_do_not_hold_the_monitor an_agent_that_never_stops_asking_lives_no_longer a_namespace_kept_by_somebody_does_not_keep_the_address the_sweep_leaves_alone_what_is_not_roots_or_not_ours agents_cannot_trace_each_other a_pipe_in_the_place_of_sshds_log_does_not_hold_init a_death_during_a_build_leaves_nothing;
    inside: a_sandbox_shows_what_it_should_and_nothing_else what_is_written_to_system_directories_stays_inside home_and_shares_are_the_nodes_and_ssh_is_private ranks_read_each_others_memory a_routed_sandbox_reaches_its_node limits_are_kept;
    shaping: a_shaped_sandbox_has_no_network_before_its_rates nothing_is_sent_faster_than_the_rate_of_its_class rates_change_in_place_and_connections_live_on only_newer_rates_of_the_site_for_this_start_are_accepted rates_at_a_wrong_time_end_everything the_counters_can_be_read_and_nothing_be_changed_by_their_socket an_address_that_is_not_free_yet_can_be_asked_for_again a_counters_socket_that_is_kept_does_not_keep_the_sandbox rates_that_name_nobody_move_the_end_of_the_lifetime_only;
    serve: files_appear_whole_at_their_places commands_start_once_and_report_how_they_ended;
    signals: a_signal_finds_every_process_of_a_command_and_no_other sigterm_wakes_what_is_stopped who_is_just_starting_is_nobody_elses a_fork_bomb_is_ended_whole everything_inside_can_be_asked_to_end memory_that_runs_out_ends_a_command_before_init a_full_disk_is_told_with_its_size;
    refusals: grants_are_checked_before_anything_is_built a_second_build_ends_everything garbage_ends_everything hand_started_and_misinstalled_programs_refuse a_policy_that_others_can_write_is_refused a_failed_build_names_its_step_and_leaves_nothing;
    ends: an_orderly_end_leaves_nothing killing_any_process_leaves_nothing the_end_of_the_lifetime_is_the_end a_monitor_that_hears_nothing_ends_the_sandbox_with_the_lease a_dead_sandbox_is_reported the_sweep_removes_what_a_killed_monitor_left a_process_that_cannot_die_is_named_and_a_later_sweep_finds_the_node_clean;
}

fn main() -> ExitCode {
    roles::other_roles();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, name] = &arguments[..]
        && role == "--run"
    {
        TESTS.iter().find(|(test, _)| test == name).expect("a test").1();
        return ExitCode::SUCCESS;
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = TESTS.iter().filter(|(name, _)| wanted.is_none_or(|wanted| name.contains(wanted.as_str())));
    let mut failed = Vec::new();
    for (name, _) in chosen {
        let passed = Command::new("/proc/self/exe")
            .args(["--run", name])
            .status()
            .is_ok_and(|status| status.success());
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    if world::launchers_remain() {
        failed.push("a Launcher outlived its test");
    }
    println!("failed: {failed:?}");
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
