//! Starting one program: its own session, clean signals, the given descriptors and
//! nothing else. No shell, no search but along the PATH it was given.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::{Errno, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, prlimit, set_dumpable_behavior, setrlimit, setsid, umask,
};

use super::record::{Command, SpawnStage};
use crate::sys;
use crate::sys::process::fork;

const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";
/// How soon a process is killed when memory runs out, in thousandths of all of it: a number that its
/// children inherit (`proc_pid_oom_score_adj(5)`).
const OOM_FILE: &str = "/proc/self/oom_score_adj";
/// By so much a command goes before init.
const OOM_STEP: i32 = 100;
/// The kernel's largest.
const OOM_MAX: i32 = 1000;
/// Where the child's end of the pipe sits while it prepares.
const REPORT: i32 = 3;

/// A command in the form that the kernel takes.
pub struct Program {
    cwd: Vec<CString>,
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

/// A child on its way to the exec.
pub struct Starting {
    pub pid: i32,
    /// Closed by the exec; an error comes through it before.
    pub pipe: OwnedFd,
}

impl Program {
    pub fn new(command: &Command) -> Result<Program> {
        let texts = |list: &[Vec<u8>]| -> Result<Vec<CString>> {
            list.iter().map(|text| CString::new(text.as_slice()).map_err(|_| Errno::INVAL)).collect()
        };
        let name = command.argv.first().ok_or(Errno::INVAL)?;
        Ok(Program {
            cwd: texts(&command.cwd)?,
            candidates: texts(&candidates(name, &command.env))?,
            argv: texts(&command.argv)?,
            env: texts(&command.env)?,
        })
    }

    /// Forks; the outcome comes through the pipe. All that comes of it bears the tag.
    pub fn start(&self, standard: [BorrowedFd<'_>; 3], tag: u64) -> Result<Starting> {
        let (pipe, report) = pipe_with(PipeFlags::CLOEXEC)?;
        match fork()? {
            Some(pid) => {
                // Before anybody asks whose it is; its children may be there before this.
                let _ = prlimit(Some(pid), Resource::Locks, only(tag));
                Ok(Starting { pid: pid.as_raw_nonzero().get(), pipe })
            }
            None => {
                let Err((stage, errno)) = self.become_it(standard, report.as_fd(), tag);
                let mut message = vec![stage as u8];
                message.extend_from_slice(&errno.raw_os_error().to_be_bytes());
                // The copy at its fixed number is the one that is surely open.
                if let Ok(report) = sys::fd::adopt(REPORT) {
                    let _ = rustix::io::write(&report, &message);
                }
                sys::process::exit_now(127)
            }
        }
    }

    fn become_it(
        &self,
        standard: [BorrowedFd<'_>; 3],
        report: BorrowedFd<'_>,
        tag: u64,
    ) -> std::result::Result<Infallible, (SpawnStage, Errno)> {
        let prepare = || -> Result<()> {
            let [input, output, error] = standard;
            sys::fd::arrange(&[input, output, error, report])?;
            rustix::io::fcntl_setfd(sys::fd::borrow(REPORT), rustix::io::FdFlags::CLOEXEC)?;
            sys::process::reset_signals();
            setsid()?;
            setrlimit(Resource::Locks, only(tag))?;
            // Without it the kernel may choose worse; nothing else depends on it.
            let _ = goes_before_init();
            umask(Mode::from_raw_mode(0o022));
            Ok(())
        };
        prepare().map_err(|errno| (SpawnStage::Fork, errno))?;
        self.enter().map_err(|errno| (SpawnStage::Cwd, errno))?;
        Err((SpawnStage::Exec, self.execute()))
    }

    fn enter(&self) -> Result<()> {
        let mut last = Errno::INVAL;
        for directory in &self.cwd {
            match chdir(directory.as_c_str()) {
                Ok(()) => return Ok(()),
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }

    /// The rules of `execvp`: what is missing is skipped, what is forbidden is remembered.
    fn execute(&self) -> Errno {
        let mut answer = Errno::NOENT;
        for candidate in &self.candidates {
            match execute(candidate, &self.argv, &self.env) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => answer = Errno::ACCESS,
                other => return other,
            }
        }
        answer
    }
}

/// Where memory is short inside, a command is killed and not init, whose end is everybody's.
fn goes_before_init() -> std::io::Result<()> {
    // Else its own file is root's: init once was root. The program will be dumpable as well.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    let own: i32 = std::fs::read_to_string(OOM_FILE)?.trim().parse().unwrap_or(0);
    std::fs::write(OOM_FILE, (own + OOM_STEP).min(OOM_MAX).to_string())
}

fn only(tag: u64) -> Rlimit {
    Rlimit { current: Some(tag), maximum: Some(tag) }
}

fn execute(program: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let Err(errno) = nix::unistd::execve(program, argv, env);
    Errno::from_raw_os_error(errno as i32)
}

impl Starting {
    /// Reads the pipe, which is readable: nothing means that the program runs.
    pub fn outcome(self) -> std::result::Result<(), (SpawnStage, Errno)> {
        let mut message = Vec::new();
        let _ = std::fs::File::from(self.pipe).take(5).read_to_end(&mut message);
        match message[..] {
            [stage, a, b, c, d] => {
                let stage = if stage == SpawnStage::Cwd as u8 {
                    SpawnStage::Cwd
                } else if stage == SpawnStage::Exec as u8 {
                    SpawnStage::Exec
                } else {
                    SpawnStage::Fork
                };
                Err((stage, Errno::from_raw_os_error(i32::from_be_bytes([a, b, c, d]))))
            }
            _ => Ok(()),
        }
    }
}

/// The files that a name can mean.
fn candidates(name: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if name.contains(&b'/') || name.is_empty() {
        return vec![name.to_vec()];
    }
    let path = env.iter().rev().find_map(|text| text.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(|&b| b == b':')
        .map(|directory| if directory.is_empty() { &b"."[..] } else { directory })
        .map(|directory| [directory, b"/", name].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_along_its_own_path() {
        let env = [b"A=b".to_vec(), b"PATH=/x::/y".to_vec()];
        assert_eq!(candidates(b"prog", &env), [b"/x/prog".to_vec(), b"./prog".to_vec(), b"/y/prog".to_vec()]);
        assert_eq!(candidates(b"./prog", &env), [b"./prog".to_vec()]);
        assert_eq!(candidates(b"prog", &[])[0], b"/usr/local/bin/prog");
        assert_eq!(candidates(b"", &env), [b"".to_vec()]);
    }
}
