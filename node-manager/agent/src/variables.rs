//! The environment of every command and ssh login: made from nothing, so that no variable of the
//! batch system gets in, with which mpirun would use the scheduler's launcher instead of ssh.

use std::net::Ipv4Addr;

use protocol::ids::{JobId, ReservationId};
use protocol::keys::KeyRing;
use protocol::names::{UserName, VariableName};

use crate::render::environment::Variables;

const HOSTFILE: &str = "/etc/gridpilot/hostfile";
const MACHINEFILE: &str = "/etc/gridpilot/machinefile";
const NODES: &str = "/etc/gridpilot/nodes";
/// A second net under the barrier: every sshd answers before the first command starts.
const SSH_OPTIONS: &str = "-o ConnectionAttempts=10 -o BatchMode=yes";

/// The user's home inside every sandbox of the grid.
pub fn home(user: &UserName) -> String {
    format!("/home/{user}")
}

/// What all variables of one member follow from.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    pub reservation: ReservationId,
    /// The member's own address: what tells it from the others in the ring.
    pub address: Ipv4Addr,
    /// The account's login shell.
    pub shell: &'a str,
    /// Given with SETUP; they win over the standard ones.
    pub extra: &'a [(VariableName, String)],
}

/// The variables of every command and ssh login. `None` when the ring does not hold this member.
pub fn standard(surroundings: Surroundings<'_>, ring: &KeyRing) -> Option<Variables> {
    let number = ring.members.iter().position(|member| member.address == surroundings.address)?;
    let member = &ring.members[number];
    let head = &ring.members[0];
    let home = home(&ring.user);
    let user = ring.user.as_str();
    let slots = member.slots.to_string();
    let members = ring.members.len().to_string();
    let (number, head) = (number.to_string(), head.address.to_string());
    let reservation = surroundings.reservation.to_string();
    let standard = [
        ("HOME", home.as_str()),
        ("USER", user),
        ("LOGNAME", user),
        ("SHELL", surroundings.shell),
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"),
        ("LANG", "C.UTF-8"),
        ("GRIDPILOT_HOSTFILE", HOSTFILE),
        ("GRIDPILOT_MACHINEFILE", MACHINEFILE),
        ("GRIDPILOT_NODE_FILE", NODES),
        ("GRIDPILOT_RESERVATION", &reservation),
        ("GRIDPILOT_MEMBER", &number),
        ("GRIDPILOT_MEMBERS", &members),
        ("GRIDPILOT_SLOTS", &slots),
        // PyTorch and its like.
        ("MASTER_ADDR", &head),
        ("NODE_RANK", &number),
        ("NNODES", &members),
        // Open MPI 4 by its orte names, 5 by its prte names.
        ("OMPI_MCA_orte_default_hostfile", HOSTFILE),
        ("OMPI_MCA_plm_rsh_args", SSH_OPTIONS),
        ("PRTE_MCA_prte_default_hostfile", HOSTFILE),
        ("PRTE_MCA_plm_ssh_args", SSH_OPTIONS),
        // MPICH.
        ("HYDRA_HOST_FILE", MACHINEFILE),
        ("HYDRA_LAUNCHER", "ssh"),
        ("HYDRA_LAUNCHER_EXTRA_ARGS", SSH_OPTIONS),
        // Intel MPI.
        ("I_MPI_HYDRA_HOST_FILE", MACHINEFILE),
        ("I_MPI_HYDRA_BOOTSTRAP", "ssh"),
        ("I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS", SSH_OPTIONS),
    ];
    let mut variables: Variables =
        standard.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    add(&mut variables, surroundings.extra);
    Some(variables)
}

/// The environment of one command: the standard variables, its job, what its user set; as `execve`
/// wants them. A name stands in it once.
pub fn of_command(standard: &Variables, job: JobId, set: &[(VariableName, String)]) -> Vec<Vec<u8>> {
    let mut variables = standard.clone();
    variables.insert("GRIDPILOT_JOB".to_owned(), job.to_string());
    add(&mut variables, set);
    variables.into_iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect()
}

fn add(variables: &mut Variables, more: &[(VariableName, String)]) {
    variables.extend(more.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::samples::two_sites;

    fn of_second_member(extra: &[(VariableName, String)]) -> Variables {
        let ring = two_sites();
        let surroundings = Surroundings {
            reservation: ReservationId(12),
            address: ring.members[1].address,
            shell: "/bin/sh",
            extra,
        };
        standard(surroundings, &ring).unwrap()
    }

    #[test]
    fn every_member_knows_its_place_and_the_head() {
        let variables = of_second_member(&[]);
        for (name, value) in [
            ("GRIDPILOT_MEMBER", "1"),
            ("GRIDPILOT_MEMBERS", "2"),
            ("GRIDPILOT_RESERVATION", "r12"),
            ("MASTER_ADDR", "10.71.128.1"),
            ("HOME", "/home/grid"),
            ("OMPI_MCA_orte_default_hostfile", "/etc/gridpilot/hostfile"),
        ] {
            assert_eq!(variables[name], value, "{name}");
        }
    }

    #[test]
    fn nothing_of_the_agents_own_environment_gets_in() {
        let variables = of_second_member(&[]);
        assert!(!variables.keys().any(|name| {
            ["SLURM", "PBS", "SGE", "PMI", "CARGO"].iter().any(|prefix| name.starts_with(prefix))
        }));
    }

    #[test]
    fn what_the_user_sets_wins_and_no_name_stands_twice() {
        let set = |name: &str, value: &str| (name.parse::<VariableName>().unwrap(), value.to_owned());
        let standard = of_second_member(&[set("LANG", "C"), set("EXTRA", "1")]);
        let environment = of_command(&standard, JobId(3), &[set("EXTRA", "2")]);
        let text: Vec<String> =
            environment.into_iter().map(|pair| String::from_utf8(pair).unwrap()).collect();
        for wanted in ["LANG=C", "EXTRA=2", "GRIDPILOT_JOB=j3"] {
            assert_eq!(text.iter().filter(|pair| *pair == wanted).count(), 1, "{wanted} in {text:?}");
        }
        assert_eq!(text.iter().filter(|pair| pair.starts_with("EXTRA=")).count(), 1);
    }

    #[test]
    fn a_member_that_is_not_in_the_ring_gets_no_variables() {
        let surroundings = Surroundings {
            reservation: ReservationId(1),
            address: Ipv4Addr::LOCALHOST,
            shell: "/bin/sh",
            extra: &[],
        };
        assert_eq!(standard(surroundings, &two_sites()), None);
    }
}
