//! `local-grid demo`: a grid comes up, an ordinary MPI program runs over its sites, the grid
//! goes away. What is printed is what one would type and see.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::account::Account;
use crate::install;
use crate::process;
use crate::state::Plan;
use crate::world::{self, Grid};

/// The program that is run: a token goes round over all ranks, then an all-reduce.
const RING: &str = include_str!("../programs/ring.c");

/// The two families of MPI, as Debian names their commands.
pub const FAMILIES: [&str; 2] = ["openmpi", "mpich"];

/// A directory of its own in the account's home, removed when this goes.
#[derive(Debug)]
pub struct Workplace {
    pub path: PathBuf,
}

impl Workplace {
    /// Makes the directory; it belongs to the account.
    pub fn new(account: &Account, name: &str) -> Result<Self> {
        let path = account.home.join(format!("gridpilot-{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let place = Self { path };
        place.hand_over(&place.path, account)?;
        Ok(place)
    }

    /// Puts a file of the account's into the directory.
    pub fn put(&self, account: &Account, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        self.hand_over(&path, account)?;
        Ok(path)
    }

    fn hand_over(&self, path: &Path, account: &Account) -> Result<()> {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), account.name))
    }

    /// Compiles ring.c with one family's compiler, as the account, and returns the program.
    pub fn compile_ring(&self, account: &Account, family: &str) -> Result<PathBuf> {
        let source = self.put(account, "ring.c", RING.as_bytes())?;
        let program = self.path.join(format!("ring-{family}"));
        let compiler = format!("mpicc.{family}");
        process::run(account.command(&compiler).args(["-O1", "-Wall", "-o"]).arg(&program).arg(&source))
            .with_context(|| format!("cannot compile ring.c (package lib{family}-dev)"))?;
        Ok(program)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The whole demonstration. Down again in any case; an error when anything was not as it should.
pub fn run(plan: Plan) -> Result<()> {
    let begin = Instant::now();
    let directory = plan.directory.clone();
    let interrupted = note_interrupts()?;
    let mut say = |step: &str| println!("# {step}");
    // When this fails it has already taken down what it made, and nothing else.
    let grid = Grid::up(plan, &install::programs()?, &mut say)?;
    println!("# up after {:.1} s\n", begin.elapsed().as_secs_f64());
    let outcome = show(&grid, &interrupted);
    println!("# taking the grid down");
    let killed = world::down(&directory, &mut |_| ())?;
    outcome?;
    ensure!(killed.is_empty(), "not everything ended by itself: {}", killed.join("; "));
    println!("# down, nothing is left; {:.1} s in all", begin.elapsed().as_secs_f64());
    Ok(())
}

/// From now on an interrupt does not end this program: the grid is taken down first.
fn note_interrupts() -> Result<Arc<AtomicBool>> {
    let noted = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let flag = Arc::clone(&noted);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => (),
                    _ = terminate.recv() => (),
                }
                flag.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(noted)
}

fn show(grid: &Grid, interrupted: &AtomicBool) -> Result<()> {
    let account = grid.account()?.clone();
    let place = Workplace::new(&account, "demo")?;
    let programs =
        FAMILIES.iter().map(|family| place.compile_ring(&account, family)).collect::<Result<Vec<_>>>()?;
    type_and_see(grid, &account, &place.path, &["sites"])?;
    let plan = &grid.state.plan;
    let nodes: Vec<String> =
        (0..plan.sites).map(|site| format!("{}={}", crate::netns::site_name(site), plan.nodes)).collect();
    let nodes = nodes.join(",");
    for (family, program) in FAMILIES.iter().zip(&programs) {
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        println!("# ring.c, as it came from mpicc.{family}");
        let ring = format!("./{}", program.file_name().and_then(|n| n.to_str()).context("a strange name")?);
        let mpirun = mpirun(family);
        let words = ["submit", "--wait", "--nodes", &nodes, "--", &mpirun, &ring];
        type_and_see(grid, &account, &place.path, &words)?;
    }
    type_and_see(grid, &account, &place.path, &["jobs"])
}

/// How one types the launcher of a family: Debian calls one of them plain `mpirun`.
fn mpirun(family: &str) -> String {
    let full = format!("mpirun.{family}");
    let file = |name: &str| fs::canonicalize(Path::new("/usr/bin").join(name)).ok();
    if file("mpirun").is_some() && file("mpirun") == file(&full) { "mpirun".into() } else { full }
}

/// Prints a command as typed, runs it as the account, prints what it says.
fn type_and_see(grid: &Grid, account: &Account, directory: &Path, words: &[&str]) -> Result<()> {
    println!("{}$ gridpilot {}", account.name, words.join(" "));
    std::io::stdout().flush()?;
    let begin = Instant::now();
    let mut command: Command = grid.gridpilot_as_user()?;
    let status = command
        .args(words)
        .current_dir(directory)
        .stdin(std::process::Stdio::null())
        .status()
        .context("cannot start gridpilot")?;
    println!("# exit code {}, {:.1} s\n", status.code().unwrap_or(-1), begin.elapsed().as_secs_f64());
    ensure!(status.success(), "gridpilot {} ended with {status}", words.join(" "));
    Ok(())
}
