//! The files of ssh and sshd.

use std::fmt::Write;
use std::net::Ipv4Addr;

use protocol::keys::{KeyRing, PublicKey};
use protocol::names::UserName;
use ssh_key::public::{Ed25519PublicKey, KeyData};

use super::environment::{Variables, set_env};

/// `ssh-ed25519 AAAA...`, as in every public key file, without a comment.
pub fn public_key(key: PublicKey) -> String {
    // The comment is where text could hide; with an empty one the line is algorithm and base64.
    let data = KeyData::Ed25519(Ed25519PublicKey(key.0));
    ssh_key::PublicKey::new(data, "").to_openssh().unwrap_or_default().trim_end().to_owned()
}

/// `~/.ssh/id_ed25519.pub`.
pub fn public_key_file(key: PublicKey) -> String {
    public_key(key) + "\n"
}

/// `~/.ssh/known_hosts`: every member by name and by address.
pub fn known_hosts(ring: &KeyRing) -> String {
    let mut text = String::with_capacity(ring.members.len() * 128);
    for member in &ring.members {
        let _ = writeln!(text, "{},{} {}", member.host, member.address, public_key(member.keys.host));
    }
    text
}

/// `~/.ssh/authorized_keys`: each member's user key, good from that member's address only.
pub fn authorized_keys(ring: &KeyRing) -> String {
    let mut text = String::with_capacity(ring.members.len() * 128);
    for member in &ring.members {
        let _ = writeln!(text, "from=\"{}\" {}", member.address, public_key(member.keys.user));
    }
    text
}

/// `/etc/gridpilot/sshd_config`, for an sshd that runs as the user, one process per login.
///
/// Strict modes are off: the keys lie on a file system of this sandbox's own that nobody else can
/// reach, and a home that the site keeps group-writable would shut everybody out.
pub fn sshd_config(user: &UserName, address: Ipv4Addr, variables: &Variables) -> String {
    format!(
        "# Rendered by gridpilot; replaced by the next RUN.
ListenAddress {address}
HostKey /etc/gridpilot/ssh_host_ed25519_key
AllowUsers {user}
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile .ssh/authorized_keys
StrictModes no
UsePAM no
UseDNS no
X11Forwarding no
PermitTTY yes
PrintMotd no
PidFile none
LogLevel ERROR
MaxStartups 1000
MaxSessions 1000
Subsystem sftp internal-sftp
AcceptEnv LANG LC_* GRIDPILOT_JOB
{set_env}",
        set_env =
            if variables.is_empty() { String::new() } else { format!("SetEnv {}\n", set_env(variables)) },
    )
}

/// `~/.ssh/config`: strict, silent, without a prompt. What the site's own `/etc/ssh/ssh_config`
/// says comes after it and changes nothing that stands here.
pub fn ssh_config() -> &'static str {
    "# Rendered by gridpilot: members know each other's keys beforehand.
Host *
    AddressFamily inet
    BatchMode yes
    StrictHostKeyChecking yes
    UserKnownHostsFile ~/.ssh/known_hosts
    GlobalKnownHostsFile /dev/null
    HashKnownHosts no
    UpdateHostKeys no
    VerifyHostKeyDNS no
    HostKeyAlgorithms ssh-ed25519
    IdentityFile ~/.ssh/id_ed25519
    IdentitiesOnly yes
    PreferredAuthentications publickey
    GSSAPIAuthentication no
    ProxyCommand none
    ConnectionAttempts 10
    ConnectTimeout 10
    SendEnv GRIDPILOT_JOB
    LogLevel ERROR
"
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::keys::Keys;
    use crate::render::samples::{any_ring, two_sites};

    const NOBODY: u32 = 65534;

    fn private_file(directory: &Path, name: &str, content: &[u8]) -> String {
        let path = directory.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if nix::unistd::geteuid().is_root() {
            chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        path.to_str().unwrap().to_owned()
    }

    fn output(program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        if nix::unistd::geteuid().is_root() {
            // As in the sandbox: run by root, sshd would want a directory of the system's.
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    proptest! {
        #[test]
        fn one_line_per_member_and_no_option_but_ours(ring in any_ring()) {
            let known = known_hosts(&ring);
            let authorized = authorized_keys(&ring);
            prop_assert_eq!(known.lines().count(), ring.members.len());
            prop_assert_eq!(authorized.lines().count(), ring.members.len());
            for (line, member) in known.lines().zip(&ring.members) {
                let names = format!("{},{}", member.host, member.address);
                prop_assert_eq!(line.split(' ').collect::<Vec<_>>().len(), 3);
                let start = format!("{} ssh-ed25519 ", names);
                prop_assert!(line.starts_with(&start));
            }
            for (line, member) in authorized.lines().zip(&ring.members) {
                let start = format!("from=\"{}\" ssh-ed25519 ", member.address);
                prop_assert!(line.starts_with(&start));
                prop_assert_eq!(line.split(' ').collect::<Vec<_>>().len(), 3);
            }
        }
    }

    #[test]
    fn keys_are_read_by_ssh_keygen_with_the_fingerprints_that_were_made() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::generate().unwrap();
        let private = private_file(directory.path(), "key", keys.user.private());
        assert_eq!(output("ssh-keygen", &["-y", "-f", &private]).trim_end(), public_key(keys.user.public()));
        let public =
            private_file(directory.path(), "key.pub", public_key_file(keys.user.public()).as_bytes());
        let fingerprint = |file: &str| {
            let shown = output("ssh-keygen", &["-lf", file]);
            shown.split(' ').nth(1).unwrap().to_owned()
        };
        assert_eq!(fingerprint(&public), fingerprint(&private));
    }

    #[test]
    fn known_hosts_answers_for_every_member_by_name_and_by_address() {
        let directory = tempfile::tempdir().unwrap();
        let ring = two_sites();
        let file = private_file(directory.path(), "known_hosts", known_hosts(&ring).as_bytes());
        assert_eq!(output("ssh-keygen", &["-lf", &file]).lines().count(), 2);
        for member in &ring.members {
            for name in [member.host.to_string(), member.address.to_string()] {
                let found = output("ssh-keygen", &["-F", &name, "-f", &file]);
                assert!(found.contains(&public_key(member.keys.host)), "{name}: {found}");
            }
        }
    }

    #[test]
    fn authorized_keys_is_read_whole_by_ssh_keygen() {
        let directory = tempfile::tempdir().unwrap();
        let file = private_file(directory.path(), "authorized", authorized_keys(&two_sites()).as_bytes());
        assert_eq!(output("ssh-keygen", &["-lf", &file]).lines().count(), 2);
    }

    #[test]
    fn sshd_accepts_its_configuration_and_reads_the_variables_back() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::generate().unwrap();
        let key = private_file(directory.path(), "host", keys.host.private());
        let variables = Variables::from([("A".into(), "one two".into()), ("B".into(), "q\"\\ # x".into())]);
        let config = sshd_config(&"grid".parse().unwrap(), Ipv4Addr::LOCALHOST, &variables)
            .replace("/etc/gridpilot/ssh_host_ed25519_key", &key);
        let config = private_file(directory.path(), "sshd_config", config.as_bytes());
        output("/usr/sbin/sshd", &["-t", "-f", &config]);
        let effective = output("/usr/sbin/sshd", &["-T", "-f", &config]);
        for line in ["passwordauthentication no", "usepam no", "allowusers grid", "strictmodes no"] {
            assert!(effective.lines().any(|have| have == line), "{line} is missing in {effective}");
        }
        assert!(effective.contains("A=one two"), "{effective}");
        assert!(effective.contains("B=q\"\\ # x"), "{effective}");
    }

    #[test]
    fn ssh_accepts_its_configuration_and_checks_strictly() {
        let directory = tempfile::tempdir().unwrap();
        let config = private_file(directory.path(), "config", ssh_config().as_bytes());
        let effective = output("ssh", &["-G", "-F", &config, "a-0"]);
        for line in ["stricthostkeychecking true", "batchmode yes", "identitiesonly yes"] {
            assert!(effective.lines().any(|have| have == line), "{line} is missing in {effective}");
        }
    }
}
