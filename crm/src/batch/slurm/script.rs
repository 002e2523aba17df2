//! What `sbatch` is given for a batch job: its arguments and, on standard input, its script. Pure.
//!
//! The script runs on the first node and starts one step for each pilot, one to a node: the Launcher
//! is the direct task of its step. The invocations stand in the script, which Slurm keeps readable
//! for the user and itself only; from there they go into the steps' standard input by a built-in of
//! the shell, so that none is ever on a command line, in a variable or in a file of ours.

use std::fmt::Write;
use std::path::Path;

use protocol::names::SiteName;

use crate::batch::BatchJob;
use crate::batch::names::{group, job_name, pilot_name};
use crate::config::Batch;

/// What Launcher and NodeManager need beside the sandbox.
const OVERHEAD_BYTES: u64 = 64 << 20;
const MIB: u64 = 1 << 20;

/// The words behind `sbatch`. `reservation` = Slurm's own advance reservation, if there is one.
pub fn arguments(site: &SiteName, config: &Batch, job: &BatchJob, reservation: Option<&str>) -> Vec<String> {
    let Some((first, _)) = job.pilots.first() else { return Vec::new() };
    let nodes = job.pilots.len();
    let mut words = vec![
        "--parsable".into(),
        format!("--job-name={}", job_name(site, group(first.pilot))),
        format!("--nodes={nodes}-{nodes}"),
        "--ntasks-per-node=1".into(),
        format!("--time={}", first.walltime().as_secs() / 60),
        // A pilot that is started anew would be a stale one.
        "--no-requeue".into(),
        // A node that fails takes its own pilot with it, not those of the others.
        "--no-kill".into(),
        "--chdir=/".into(),
        "--output=/dev/null".into(),
    ];
    if first.limits.cpus_milli > 0 {
        words.push(format!("--cpus-per-task={}", first.limits.cpus_milli.div_ceil(1000)));
    }
    if first.limits.memory_bytes > 0 {
        let bytes = first.limits.memory_bytes.saturating_add(OVERHEAD_BYTES);
        words.push(format!("--mem={}M", bytes.div_ceil(MIB)));
    }
    if first.begin_in_s > 0 {
        words.push(format!("--begin=now+{}", first.begin_in_s));
    }
    let exclude: Vec<&str> = first.exclude.iter().map(|node| node.as_str()).collect();
    let reservation = reservation.map(str::to_owned);
    let exclude = (!exclude.is_empty()).then(|| exclude.join(","));
    for (option, value) in [
        ("partition", &config.partition),
        ("account", &config.account),
        ("qos", &config.qos),
        ("constraint", &config.constraint),
        ("reservation", &reservation),
        ("exclude", &exclude),
    ] {
        words.extend(value.as_ref().map(|value| format!("--{option}={value}")));
    }
    // Last, so that the administrator has the last word.
    words.extend(config.extra.iter().cloned());
    words
}

/// The script.
pub fn script(site: &SiteName, launcher: &Path, job: &BatchJob) -> String {
    let launcher = quoted(&launcher.to_string_lossy());
    let mut script = String::from(HEAD);
    for (place, (submit, invocation)) in job.pilots.iter().enumerate() {
        let name = pilot_name(site, submit.pilot);
        script.push_str("printf '");
        for byte in invocation {
            // Writing to a string cannot fail.
            let _ = write!(script, "\\{byte:03o}");
        }
        let _ = writeln!(
            script,
            "' | srun --nodes=1 --ntasks=1 --relative={place} --job-name={name} {STEP} {launcher} --invocation - &\n\
             set -- \"$@\" $!"
        );
    }
    script.push_str(TAIL);
    script
}

/// Slurm signals the script along with the steps; it must not end before they have.
const HEAD: &str = "\
#!/bin/sh
# gridpilot: the pilots of one part of a reservation, one to a node.
trap : TERM USR1 USR2 INT HUP
set --
";
/// One pilot that fails is no reason to end the others; no binding, for the sandbox is the user's.
const STEP: &str = "--kill-on-bad-exit=0 --mpi=none --cpu-bind=none";
/// A signal interrupts `wait`, not what is waited for. The worst code is the batch job's.
const TAIL: &str = r#"code=0
for pid; do
    while :; do
        wait "$pid"
        one=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    [ "$one" -le "$code" ] || code=$one
done
exit "$code"
"#;

/// One word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use protocol::ids::ReservationId;
    use protocol::reservation::Limits;

    use super::*;
    use crate::pilot::{PilotId, Round};
    use crate::site::{Account, Submit};

    fn submit(member: u32) -> Submit {
        Submit {
            pilot: PilotId { reservation: ReservationId(12), round: Round(3), member },
            node: format!("place-{member}").parse().unwrap(),
            exclude: Vec::new(),
            account: Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1002 },
            limits: Limits::default(),
            begin_in_s: 0,
            lifetime_s: 610,
        }
    }

    fn job(invocations: &[&[u8]]) -> BatchJob {
        let pilots = invocations.iter().enumerate();
        BatchJob { pilots: pilots.map(|(member, bytes)| (submit(member as u32), bytes.to_vec())).collect() }
    }

    fn config(more: &str) -> Batch {
        toml::from_str(&format!("system = \"slurm\"\nnodes = 4\n{more}")).unwrap()
    }

    #[test]
    fn what_the_administrator_and_the_part_ask_reaches_sbatch() {
        let site = "a".parse().unwrap();
        let plain = arguments(&site, &config(""), &job(&[b"x", b"y"]), None);
        let expected = "--parsable --job-name=gridpilot-a-r12.3 --nodes=2-2 --ntasks-per-node=1 --time=12 \
                        --no-requeue --no-kill --chdir=/ --output=/dev/null";
        assert_eq!(plain.join(" "), expected);
        let mut asks = job(&[b"x"]);
        asks.pilots[0].0.limits =
            Limits { memory_bytes: (1 << 30) + 1, cpus_milli: 1500, ..Limits::default() };
        asks.pilots[0].0.exclude = vec!["n1".parse().unwrap(), "n7".parse().unwrap()];
        asks.pilots[0].0.begin_in_s = 300;
        let config = config(
            "partition = \"p\"\naccount = \"a\"\nqos = \"q\"\nconstraint = \"c\"\nextra = [\"--exclusive\"]",
        );
        let words = arguments(&site, &config, &asks, Some("gridpilot-a-r12")).join(" ");
        let expected = "--cpus-per-task=2 --mem=1089M --begin=now+300 --partition=p --account=a --qos=q \
                        --constraint=c --reservation=gridpilot-a-r12 --exclude=n1,n7 --exclusive";
        assert!(words.ends_with(expected), "{words}");
        assert!(words.contains("--time=7 "), "{words}");
    }

    /// The script under a real shell, with stand-ins for `srun` and the Launcher.
    fn run(invocations: &[&[u8]], launcher: &str, signal: Option<&str>) -> (Option<i32>, tempfile::TempDir) {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let at = dir.path().display();
        put(
            "srun",
            format!(
                "#!/bin/sh\necho \"$*\" >> {at}/calls\nwhile [ \"${{1#--}}\" != \"$1\" ]; do export ARG=\"$ARG $1\"; shift; done\nexec \"$@\"\n"
            ),
        );
        let launcher = put(
            "it's the launcher",
            format!("#!/bin/sh\nN=${{ARG#*--relative=}}; N=${{N%% *}}\n{launcher}\n"),
        );
        let script = script(&"a".parse().unwrap(), &launcher, &job(invocations));
        let mut child = Command::new("sh")
            .args(["-s", "--"])
            .env("PATH", format!("{at}:/usr/bin:/bin"))
            .env("DIR", dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        if let Some(signal) = signal {
            while !dir.path().join("up").exists() {
                std::thread::yield_now();
            }
            Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            std::fs::write(dir.path().join("signalled"), "").unwrap();
        }
        (child.wait().unwrap().code(), dir)
    }

    #[test]
    fn every_launcher_gets_its_own_invocation_byte_by_byte_and_nothing_else_does() {
        let all: Vec<u8> = (0..=255).collect();
        let percent = b"%s %d \\n ' \" $HOME `id`\n";
        let (code, dir) = run(&[&all, percent], "[ \"$*\" = '--invocation -' ] && cat > $DIR/got-$N", None);
        assert_eq!(code, Some(0));
        assert_eq!(std::fs::read(dir.path().join("got-0")).unwrap(), all);
        assert_eq!(std::fs::read(dir.path().join("got-1")).unwrap(), percent);
        let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
        assert_eq!(calls.lines().count(), 2);
        for place in 0..2 {
            let step = format!("--relative={place} --job-name=gridpilot-a-r12.3-{place} ");
            assert!(calls.contains(&step) && !calls.contains("HOME"), "{calls}");
        }
    }

    #[test]
    fn the_worst_code_is_the_batch_jobs() {
        let (code, _dir) = run(&[b"1", b"2", b"3"], "case $N in 1) exit 69;; 2) exit 2;; esac", None);
        assert_eq!(code, Some(69));
    }

    #[test]
    fn a_signalled_script_waits_for_its_pilots() {
        let wait = "touch $DIR/up; until [ -e $DIR/signalled ]; do :; done; touch $DIR/ended; exit 75";
        for signal in ["-TERM", "-USR1", "-USR2"] {
            let (code, dir) = run(&[b"1"], wait, Some(signal));
            assert_eq!(code, Some(75), "{signal}");
            assert!(dir.path().join("ended").exists(), "{signal}");
        }
    }
}
