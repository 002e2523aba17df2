//! The script of a batch job: one Launcher on each of its hosts.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use protocol::names::NodeName;

/// What the script is made of. Everything of it is ours or was checked by the configuration.
#[derive(Clone, Debug)]
pub struct Script<'a> {
    pub launcher: &'a Path,
    /// Files with the invocations, of mode 0600 and in the order of the pilots, where head and hosts
    /// see them.
    pub invocations: &'a [PathBuf],
    /// What Launchers say is written here.
    pub words: &'a Path,
}

impl Script<'_> {
    /// For `/bin/sh`. The first Launcher runs beside the script, the others are started by Grid
    /// Engine on the other hosts; no host gets two. The script ends when all have ended, with the
    /// first code that is not 0: signals are the Launchers' to act on, and Grid Engine sends them
    /// to everybody.
    ///
    /// No secret is in it: Grid Engine lets everybody on a host read the scripts that run there.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "trap : HUP INT TERM USR1 USR2\n\
             umask 077\n",
        );
        let _ = writeln!(text, "launcher={}\nexec >>{} 2>&1", quoted(self.launcher), quoted(self.words));
        text.push_str("set --");
        for file in self.invocations {
            let _ = write!(text, " {}", quoted(file));
        }
        text.push_str(
            r#"
pids=
while read -r host rest; do
    [ $# -gt 0 ] || break
    if [ -z "$pids" ]; then
        "$launcher" --invocation "$1" </dev/null &
    else
        # Opened before it is removed: the other host need not see the file.
        exec 3<"$1" && rm -f "$1"
        qrsh -inherit "$host" "$launcher" --invocation - <&3 &
        exec 3<&-
    fi
    pids="$pids $!"
    shift
done <"$PE_HOSTFILE"
[ $# -eq 0 ] || echo "gridpilot: $# pilots found no host in this batch job"
code=0
for pid in $pids; do
    while :; do
        wait "$pid"
        last=$?
        # Interrupted by a signal, and the pilot is still there.
        [ $last -gt 128 ] && kill -0 "$pid" 2>/dev/null || break
    done
    [ $code -ne 0 ] || code=$last
done
exit $code
"#,
        );
        text
    }
}

/// As one word of a shell, whatever it holds.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// The request for hosts: none of those that are not clean. `None` = any host.
pub fn without(hosts: &[NodeName]) -> Option<String> {
    let all: Vec<String> = hosts.iter().map(|host| format!("!{host}")).collect();
    (!all.is_empty()).then(|| format!("h={}", all.join("&")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// A directory with stand-ins for Launcher and qrsh, which write down how they were called.
    struct Bed(tempfile::TempDir);

    impl Bed {
        fn new(launcher: &str, hosts: &str) -> Self {
            let bed = Self(tempfile::tempdir().unwrap());
            bed.put("launcher", &format!("#!/bin/sh\n{launcher}\n"));
            // Runs here what Grid Engine runs there.
            bed.put("qrsh", "#!/bin/sh\n[ $1 = -inherit ] && echo \"to $2\"\nshift 2\nexec \"$@\"\n");
            bed.put("hosts", hosts);
            bed
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn put(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o700)).unwrap();
        }

        /// Runs a script for two pilots; what was said, in the order of the alphabet, and the code.
        fn run(&self) -> (Vec<String>, Option<i32>) {
            let invocations = [self.path("it's 0"), self.path("1")];
            for (number, file) in invocations.iter().enumerate() {
                fs::write(file, format!("secret {number}")).unwrap();
            }
            let words = self.path("words");
            let launcher = self.path("launcher");
            let script = Script { launcher: &launcher, invocations: &invocations, words: &words };
            let text = script.text();
            assert!(!text.contains("secret"));
            let path = format!("{}:/usr/bin:/bin", self.0.path().display());
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &text]).env("PATH", path).env("PE_HOSTFILE", self.path("hosts"));
            let code = command.status().unwrap().code();
            let said = fs::read_to_string(words).unwrap();
            let mut said: Vec<String> = said.lines().map(String::from).collect();
            said.sort();
            (said, code)
        }
    }

    const SAYS: &str = "[ \"$2\" = - ] && echo \"given $(cat)\" || echo \"file $(cat \"$2\")\"";

    #[test]
    fn the_first_pilot_runs_here_and_the_others_on_the_other_hosts() {
        let bed = Bed::new(SAYS, "a1 1 all.q@a1 UNDEFINED\na2 1 all.q@a2 UNDEFINED\na3 1 x y\n");
        let (said, code) = bed.run();
        assert_eq!((said, code), (vec!["file secret 0".into(), "given secret 1".into(), "to a2".into()], Some(0)));
        assert!(!bed.path("1").exists(), "what goes to another host is not left");
    }

    #[test]
    fn a_batch_job_with_too_few_hosts_says_so() {
        let (said, _) = Bed::new(SAYS, "a1 1 all.q@a1 UNDEFINED\n").run();
        assert_eq!(said, ["file secret 0", "gridpilot: 1 pilots found no host in this batch job"]);
    }

    #[test]
    fn the_first_code_that_says_something_is_that_of_the_job() {
        let bed = Bed::new("[ \"$2\" = - ] && exit 70\nexit 0", "a1\na2\n");
        assert_eq!(bed.run().1, Some(70));
    }

    #[test]
    fn signals_end_launchers_and_not_the_script() {
        // The stand-in signals the script and ends in its own time after that.
        let bed = Bed::new("[ \"$2\" = - ] && exit 0\nkill -USR2 $PPID\nkill -TERM $PPID\nexit 5", "a1\na2\n");
        assert_eq!(bed.run().1, Some(5));
    }

    #[test]
    fn hosts_that_are_not_clean_are_excluded_together() {
        let hosts = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(without(&[]), None);
        assert_eq!(without(&hosts(&["a1"])).unwrap(), "h=!a1");
        assert_eq!(without(&hosts(&["a1", "b.c"])).unwrap(), "h=!a1&!b.c");
    }
}
