//! Attacks from inside: jobs in sandboxes of a whole grid, beside the sandbox of a victim on the
//! same node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use super::attacks::{Outcome, Verdict, scripts_directory, verdict};
use super::log::Log;
use super::script::{SWEPT, Script};
use crate::demo::Workplace;
use crate::process::{Identity, run, wait_until};
use crate::residue::Residue;
use crate::state::Plan;
use crate::world::Grid;

/// By when the victim has said what it has.
const VICTIM_TIME: Duration = Duration::from_secs(20);
/// No attack takes longer.
const SHORT_TIME: Duration = Duration::from_secs(90);
const FULL_TIME: Duration = Duration::from_secs(1800);
/// What every job of a script is given as a variable and as a word. No log may hold it as it is.
const STRANGE: &str = "a\nb\x1b[31m\x01\tc";
/// What a script in a sandbox of its own says when all but its last step was refused.
const LAST_STEP: &str = "last step";
/// So long may a neighbour wait for what takes him a tenth of a second.
const NEIGHBOUR_TIME: Duration = Duration::from_secs(2);

/// Runs the scripts that belong inside, in a grid made for them, which is gone afterwards.
pub fn inside_grid(
    scripts: &[Script],
    full: bool,
    programs: &Path,
    directory: Option<PathBuf>,
) -> Result<Vec<Outcome>> {
    if scripts.is_empty() {
        return Ok(vec![]);
    }
    let pid = std::process::id();
    let directory = directory.unwrap_or_else(|| format!("/var/lib/gridpilot-test-{pid}-attacks").into());
    let plan = Plan { sites: 1, nodes: 1, ..Plan::new(directory) };
    let mut grid = Grid::up_for(&format!("gridpilot-s{pid}"), plan, programs, &mut |_| ())?;
    let outcomes = besiege(&grid, scripts, full);
    let killed = grid.down(&mut |_| ())?;
    let outcomes = outcomes?;
    ensure!(killed.is_empty(), "not everything ended by itself: {killed:?}");
    Ok(outcomes)
}

/// The grid with what the scripts find there.
struct Siege<'a> {
    grid: &'a Grid,
    place: Workplace,
    /// The victim's reservation and the one of most attacks.
    victim: String,
    attacker: String,
    full: bool,
}

fn besiege(grid: &Grid, scripts: &[Script], full: bool) -> Result<Vec<Outcome>> {
    let log = listen(grid)?;
    let mut residue = Residue::before(grid)?;
    let place = Workplace::new(grid.account()?, "siege")?;
    for entry in fs::read_dir(scripts_directory())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a strange name")?;
        place.put(grid.account()?, name, &fs::read(&path)?)?;
    }
    let [victim, attacker] = [reserve(grid, &[])?, reserve(grid, &[])?];
    let siege = Siege { grid, place, victim, attacker, full };
    let mut held = siege.place_the_victim()?;
    let mut pilots = 2;
    let mut outcomes = Vec::new();
    for script in scripts {
        let begin = Instant::now();
        let own = script.alone.then(|| {
            pilots += 1;
            // Small, so that what it fills is soon full.
            reserve(grid, &["--disk", "64MiB", "--memory", "256MiB"])
        });
        let own = own.transpose()?;
        residue.observe(grid);
        let mut verdict = siege.attack(script, own.as_deref().unwrap_or(&siege.attacker))?;
        if let Some(own) = own {
            release(grid, &own)?;
        } else if verdict == Verdict::Refused && !siege.answers(&siege.attacker) {
            verdict = Verdict::Fell("the sandbox no longer answers".into());
        }
        if verdict == Verdict::Refused && !siege.answers(&siege.victim) {
            verdict = Verdict::Fell("the victim's sandbox no longer answers".into());
        }
        let outcome = Outcome { script: script.clone(), verdict, took: begin.elapsed() };
        eprint!("{}", outcome.row());
        outcomes.push(outcome);
    }
    for reservation in [&siege.victim, &siege.attacker] {
        release(grid, reservation)?;
    }
    let _ = held.kill();
    held.wait()?;
    residue.expect_none(grid)?;
    check_log(&log.lines()?, pilots)?;
    check_daemons_logs(grid)?;
    Ok(outcomes)
}

/// What the daemons write of jobs is one line each, without control characters.
fn check_daemons_logs(grid: &Grid) -> Result<()> {
    for entry in fs::read_dir(grid.state.path("log"))? {
        let path = entry?.path();
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let strange = text.lines().find(|line| line.chars().any(char::is_control) || *line == "c");
        ensure!(strange.is_none(), "{} has the line {strange:?}", path.display());
    }
    Ok(())
}

/// One line for each build, one for each end, nothing left, and nothing else.
fn check_log(lines: &[String], pilots: usize) -> Result<()> {
    let all = || lines.join("\n  ");
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    ensure!(count(": build a-") == pilots, "not {pilots} builds in the log:\n  {}", all());
    ensure!(count("; left: nothing") == pilots, "not {pilots} clean ends in the log:\n  {}", all());
    let swept = count(SWEPT);
    ensure!(lines.len() - swept == 2 * pilots, "more lines in the log than builds and ends:\n  {}", all());
    ensure!(!lines.iter().any(|line| line.chars().any(char::is_control)), "control characters:\n  {}", all());
    Ok(())
}

/// Gives the node a system log of its own: its machine shares `/dev` with this one.
fn listen(grid: &Grid) -> Result<Log> {
    let path = grid.state.path("run/system-log");
    let log = Log::listen(&path)?;
    let script = format!(
        "set -e; mount -t tmpfs -o mode=755 siege /mnt
        cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/kmsg /mnt/
        for part in pts shm; do mkdir /mnt/$part; mount --bind /dev/$part /mnt/$part; done
        ln -s pts/ptmx /mnt/ptmx; ln -s /proc/self/fd /mnt/fd; ln -s {} /mnt/log
        mount --move /mnt /dev",
        path.display()
    );
    for node in grid.state.nodes() {
        let enter = node.enter();
        run(Command::new(&enter[0]).args(&enter[1..]).args(["sh", "-c", &script]))?;
    }
    Ok(log)
}

fn reserve(grid: &Grid, more: &[&str]) -> Result<String> {
    let words = ["--output-mode", "quiet", "reserve", "--wait", "--nodes", "a=1"];
    let id = run(grid.gridpilot_as_user()?.args(words).args(more))?;
    Ok(id.trim().to_owned())
}

fn release(grid: &Grid, reservation: &str) -> Result<()> {
    run(grid.gridpilot_as_user()?.args(["release", reservation]))?;
    let mut state = String::new();
    let ended = wait_until(Duration::from_secs(30), || {
        let view = grid
            .gridpilot_as_user()
            .and_then(|mut c| run(c.args(["--output-mode", "json", "show", reservation])));
        let view: serde_json::Value = serde_json::from_str(&view.unwrap_or_default()).unwrap_or_default();
        state = view["state"].as_str().unwrap_or_default().to_owned();
        ["ended", "failed"].contains(&state.as_str())
    });
    ensure!(ended, "{reservation} is {state} long after its release");
    Ok(())
}

impl Siege<'_> {
    fn job(&self, reservation: &str, words: &[&str]) -> Result<Command> {
        let mut command = self.grid.gridpilot_as_user()?;
        command.args(["submit", "--wait", "--in", reservation, "--"]).args(words).stdin(Stdio::null());
        Ok(command)
    }

    fn answers(&self, reservation: &str) -> bool {
        self.job(reservation, &["true"]).is_ok_and(|mut command| run(&mut command).is_ok())
    }

    fn path(&self, name: &str) -> String {
        self.place.path.join(name).display().to_string()
    }

    /// Somebody else's job on the same node, with everything that could be seen or reached.
    fn place_the_victim(&self) -> Result<Child> {
        let (script, facts) = (self.path("victim.sh"), self.path("victim"));
        let child = self.job(&self.victim, &["bash", &script, &facts])?.stdout(Stdio::null()).spawn()?;
        let there = wait_until(VICTIM_TIME, || Path::new(&facts).exists());
        ensure!(there, "the victim does not get ready");
        Ok(child)
    }

    fn attack(&self, script: &Script, reservation: &str) -> Result<Verdict> {
        let name = script.path.file_name().and_then(|name| name.to_str()).context("a strange name")?;
        let [turns, full] = [script.turns(self.full).to_string(), u8::from(self.full).to_string()];
        let (path, place) = (self.path(name), self.place.path.display().to_string());
        let settings = [
            format!("LOOPS={turns}"),
            format!("FULL={full}"),
            format!("ATTACKS={place}"),
            format!("STRANGE={STRANGE}"),
        ];
        let mut words: Vec<&str> = ["env"].into_iter().chain(settings.iter().map(String::as_str)).collect();
        words.extend(["bash", &path, STRANGE]);
        if script.alone {
            self.forget_waits()?;
        }
        let mut command = self.job(reservation, &words)?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // Not waited for yet, so it is still there to be named.
        let guard = Identity::of(i32::try_from(child.id())?).context("no such process")?;
        let time = if self.full { FULL_TIME } else { SHORT_TIME };
        let watch = std::thread::spawn(move || {
            if !wait_until(time, || !guard.alive()) {
                guard.signal(nix::sys::signal::Signal::SIGKILL);
            }
        });
        let probe = script.alone.then(|| self.worst_waits(&mut child)).transpose()?;
        let output = child.wait_with_output()?;
        let _ = watch.join();
        let outcome = verdict(output.status.code(), &output.stdout, &output.stderr);
        // The limits of its own sandbox may end the attacker himself, at the last thing that it tries.
        let said = String::from_utf8_lossy(&output.stdout);
        let ended_by_limits =
            script.alone && output.status.code() == Some(137) && said.lines().any(|line| line == LAST_STEP);
        let outcome = if ended_by_limits { Verdict::Refused } else { outcome };
        match probe {
            Some([victim, we]) if victim > NEIGHBOUR_TIME && victim > 3 * we => {
                let [victim, we] = [victim, we].map(|time| time.as_secs_f64());
                Ok(Verdict::Fell(format!("a neighbour waited {victim:.1} s, the node itself {we:.1} s")))
            }
            _ => Ok(outcome),
        }
    }

    /// The victim's waits count from now on: what the attack before did to him is not counted again.
    fn forget_waits(&self) -> Result<()> {
        let beats = self.path("victim.beat");
        let says = || wait_until(VICTIM_TIME, || Path::new(&beats).exists());
        ensure!(says(), "the victim does not say how long it waits");
        fs::remove_file(&beats)?;
        ensure!(says(), "the victim says nothing any more");
        Ok(())
    }

    /// How long a trifle took at worst while an attack went on: the victim, and us, who are in no
    /// sandbox and know by it what the machine itself is worth just now. What the victim began
    /// during the attack is waited for.
    fn worst_waits(&self, attack: &mut Child) -> Result<[Duration; 2]> {
        let beats = self.path("victim.beat");
        let read = || fs::read_to_string(&beats).ok().and_then(|text| text.trim().parse().ok());
        let said = || fs::metadata(&beats).and_then(|meta| meta.modified()).ok();
        let mut worst = [Duration::ZERO; 2];
        let mut over: Option<SystemTime> = None;
        while over.is_none_or(|over| said().is_none_or(|said| said < over)) {
            let begin = Instant::now();
            std::thread::sleep(Duration::from_millis(100));
            Command::new("true").status()?;
            worst[1] = worst[1].max(begin.elapsed());
            if over.is_none() && attack.try_wait()?.is_some() {
                over = Some(SystemTime::now());
            }
            let silent = over.and_then(|over| over.elapsed().ok()).unwrap_or_default();
            ensure!(silent < VICTIM_TIME, "the victim says nothing any more");
        }
        worst[0] = read().map_or(Duration::ZERO, Duration::from_millis);
        Ok(worst)
    }
}
