//! The script of a batch job that a system runs on the first of its hosts: one Launcher on each.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How a batch system says which hosts a job has, and starts something on the others so that it is
/// its to limit and to kill.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// A file with a host a line, and `qrsh -inherit`.
    GridEngine,
    /// A file with a line for each processor, and `pbs_tmrsh` (OpenPBS) or `pbsdsh -h` (Torque). Those
    /// pass no standard input on: the other hosts get their invocations in files.
    Pbs,
}

/// What the script is made of.
#[derive(Clone, Debug)]
pub struct Script<'a> {
    pub dialect: Dialect,
    pub launcher: &'a Path,
    /// A file of mode 0600 where head and hosts see it, with what [`invocations`] made.
    pub invocations: &'a Path,
    /// What Launchers say is written here.
    pub words: &'a Path,
}

/// The invocations as lines, in the order of the pilots.
pub fn invocations<'a>(all: impl Iterator<Item = &'a [u8]>) -> String {
    all.map(|invocation| STANDARD.encode(invocation) + "\n").collect()
}

impl Script<'_> {
    /// For `/bin/sh`. The first Launcher runs beside the script, the others are started by the batch
    /// system on the other hosts; no host gets two. The script ends when all have ended, with the
    /// first code that is not 0: signals are the Launchers' to act on, and reach them without it.
    ///
    /// No secret is in it, for Grid Engine lets everybody on a host read the scripts that run
    /// there. Builtins of the shell pass the secrets on: no process has one as an argument.
    pub fn text(&self) -> String {
        let Self { dialect, launcher, invocations, words } = self;
        let (launcher, invocations, words) = (quoted(launcher), quoted(invocations), quoted(words));
        let hosts = match dialect {
            Dialect::GridEngine => "cat \"$PE_HOSTFILE\"",
            Dialect::Pbs => "awk '!seen[$1]++' \"$PBS_NODEFILE\"",
        };
        let there = match dialect {
            Dialect::GridEngine => format!(
                r#"printf %s "$invocation" | base64 -d | qrsh -inherit "$host" {launcher} --invocation - 4<&- 5<&- &"#
            ),
            // The Launcher removes the file when it has read it.
            Dialect::Pbs => format!(
                r#"printf %s "$invocation" | base64 -d >{invocations}."$host"
        if command -v pbs_tmrsh >/dev/null; then
            pbs_tmrsh "$host" {launcher} --invocation {invocations}."$host" </dev/null 4<&- 5<&- &
        else
            pbsdsh -h "$host" {launcher} --invocation {invocations}."$host" </dev/null 4<&- 5<&- &
        fi"#
            ),
        };
        format!(
            r#"trap : HUP INT TERM USR1 USR2
umask 077
[ -r {invocations} ] || exit 65
hosts=$({hosts})
exec 4<{invocations} 5<<hosts >>{words} 2>&1
$hosts
hosts
rm -f {invocations}
pids=
while read -r host rest <&5 && IFS= read -r invocation <&4; do
    if [ -z "$pids" ]; then
        printf %s "$invocation" | base64 -d | {launcher} --invocation - 4<&- 5<&- &
    else
        {there}
    fi
    pids="$pids $!"
done
invocation=
if read -r rest <&4; then echo "gridpilot: this batch job has fewer hosts than pilots"; fi
exec 4<&- 5<&-
code=0
for pid in $pids; do
    while :; do
        wait "$pid"
        last=$?
        # Above 128 a signal may have ended the waiting and not the pilot.
        [ $last -gt 128 ] && kill -0 "$pid" 2>/dev/null || break
    done
    [ $code -ne 0 ] || code=$last
done
exit $code
"#
        )
    }
}

/// As one word of a shell, whatever it holds.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// A directory with stand-ins for Launcher, qrsh, pbs_tmrsh and pbsdsh, which say how they were
    /// called.
    struct Bed(tempfile::TempDir);

    impl Bed {
        fn new(launcher: &str, hosts: &str) -> Self {
            let bed = Self(tempfile::tempdir().unwrap());
            bed.put("pbsdsh", "#!/bin/sh\n[ $1 = -h ] && echo \"to $2\"\nshift 2\nexec \"$@\"\n");
            bed.put("the launcher", &format!("#!/bin/sh\n{launcher}\n"));
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

        /// Runs a script for two pilots: what was said, in the order of the alphabet, and the code.
        fn run(&self) -> (Vec<String>, Option<i32>) {
            self.run_as(Dialect::GridEngine)
        }

        fn run_as(&self, dialect: Dialect) -> (Vec<String>, Option<i32>) {
            let all: [&[u8]; 2] = [b"secret 0", b"secret 1"];
            self.put("it's invocations", &invocations(all.into_iter()));
            let (launcher, invocations) = (self.path("the launcher"), self.path("it's invocations"));
            let words = self.path("words");
            let script = Script { dialect, launcher: &launcher, invocations: &invocations, words: &words };
            let path = format!("{}:/usr/bin:/bin", self.0.path().display());
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &script.text()]).env("PATH", path);
            command.env("PE_HOSTFILE", self.path("hosts")).env("PBS_NODEFILE", self.path("hosts"));
            let code = command.status().unwrap().code();
            assert!(!invocations.exists(), "secrets stay no longer than needed");
            let said = fs::read_to_string(&words).unwrap();
            fs::remove_file(words).unwrap();
            let mut said: Vec<String> = said.lines().map(String::from).collect();
            said.sort();
            (said, code)
        }
    }

    const SAYS: &str = "echo \"$* $(cat)\"";
    const HOSTS: &str = "a1 1 all.q@a1 UNDEFINED\na2 1 all.q@a2 UNDEFINED\n";

    #[test]
    fn the_first_pilot_runs_here_and_the_others_on_the_other_hosts() {
        let (said, code) = Bed::new(SAYS, &format!("{HOSTS}a3 1 x y\n")).run();
        assert_eq!(said, ["--invocation - secret 0", "--invocation - secret 1", "to a2"]);
        assert_eq!(code, Some(0));
    }

    #[test]
    fn under_pbs_every_host_gets_one_however_often_it_is_listed() {
        let says = "echo \"$(basename \"$2\") $(cat \"$2\")\"; [ \"$2\" = - ] || rm \"$2\"";
        let hosts = "a1.site\na1.site\na2.site\na2.site\n";
        let bed = Bed::new(says, hosts);
        let expected = ["- secret 0", "it's invocations.a2.site secret 1", "to a2.site"];
        assert_eq!(bed.run_as(Dialect::Pbs), (expected.map(String::from).into(), Some(0)), "Torque");
        bed.put("pbs_tmrsh", "#!/bin/sh\necho \"by tm to $1\"\nshift\nexec \"$@\"\n");
        let expected = ["- secret 0", "by tm to a2.site", "it's invocations.a2.site secret 1"];
        assert_eq!(bed.run_as(Dialect::Pbs), (expected.map(String::from).into(), Some(0)), "OpenPBS");
    }

    #[test]
    fn a_batch_job_with_too_few_hosts_says_so() {
        let (said, _) = Bed::new(SAYS, "a1 1 all.q@a1 UNDEFINED\n").run();
        assert_eq!(
            said,
            ["--invocation - secret 0", "gridpilot: this batch job has fewer hosts than pilots"]
        );
    }

    #[test]
    fn the_first_code_that_says_something_is_that_of_the_job() {
        assert_eq!(Bed::new("grep -q 1 && exit 70\nexit 0", HOSTS).run().1, Some(70));
    }

    #[test]
    fn signals_are_the_launchers_to_act_on() {
        // The stand-in signals the script and ends in its own time.
        let bed = Bed::new("grep -q 1 && exit 0\nkill -USR2 $PPID\nkill -TERM $PPID\nexit 5", HOSTS);
        assert_eq!(bed.run().1, Some(5));
    }
}
