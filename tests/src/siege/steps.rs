//! `pilot STEP ...`: what attack scripts drive a pilot with, as an ordinary user. Every argument
//! is one step; the first that is not as said ends the program with code 1.
//!
//! ```text
//! via SHELL              shell text that runs where the node manager will be executed; before start
//! file PATH              execute this file instead of the installed one; before start
//! start                  implied by the first step that needs a pilot
//! refused TEXT           the node manager ends with code 1 and says TEXT, and no agent arrives
//! build [KEY=VALUE ...]  ask for a sandbox; keys: address prefix gateway uid user site driver nonce
//!                        (one number for all its bytes, or 32 hexadecimal digits) lifetime lease
//!                        pids memory mtu flip (a bit of the record)
//! expect built | failed STEP [TEXT] | ended REASON | gone | state NAME
//! raw HEX [TIMES]        send these bytes to the monitor
//! raw-fds HEX            the same with descriptors
//! teardown | status      ask for it
//! heard                  say that the CRM was heard
//! tether TEXT            say this as the Launcher; `tether` alone closes it
//! inside SHELL           run inside as the user; must end with 0
//! verbatim               words that are no text, or look like options, reach a program unchanged, or
//!                        are refused
//! frames                 what no peer may send is refused by the decoders, in bounded memory
//! node SHELL             run on the node with MONITOR, AGENT, INIT and NONCE (of this start of the node
//!                        manager) in the environment; must end with 0
//! exit CODE              the node manager ends with it
//! ```

use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use grant::{Driver, Grant, SiteName, UserName};
use node_manager::channel;
use node_manager::init::record::ExitStatus;
use node_manager::operation::{Notice, Request};

use super::pilot::{Inside, Manner, Pilot, sign};

/// One run of the tool.
#[derive(Default)]
struct Scene {
    manner: Manner,
    pilot: Option<Pilot>,
    inside: Option<Inside>,
}

/// Does the steps in order.
pub fn run(steps: &[String]) -> Result<()> {
    let mut scene = Scene::default();
    for step in steps {
        let (verb, rest) = step.split_once(char::is_whitespace).unwrap_or((step, ""));
        scene.step(verb, rest.trim()).with_context(|| format!("at `{step}`"))?;
    }
    Ok(())
}

impl Scene {
    fn step(&mut self, verb: &str, rest: &str) -> Result<()> {
        match verb {
            "via" => self.manner.via = rest.to_owned(),
            "file" => self.manner.file = Some(rest.to_owned()),
            "start" => drop(self.pilot()?),
            "refused" => self.refused(rest)?,
            "build" => {
                let pilot = self.pilot()?;
                let (grant, flip) = changed(pilot.grant(), rest)?;
                let Request::Build { grant: mut record, signature } = sign(&grant) else { unreachable!() };
                if let Some(bit) = flip {
                    record[bit / 8] ^= 1 << (bit % 8);
                }
                pilot.ask(&Request::Build { grant: record, signature })?;
            }
            "expect" => self.expect(rest)?,
            "raw" => {
                let (hex, times) = rest.split_once(' ').unwrap_or((rest, "1"));
                for _ in 0..times.parse::<u32>()? {
                    // It may hang up at any moment; what it answers is what counts.
                    if channel::send(&self.pilot()?.operations, &bytes(hex)?, &[]).is_err() {
                        break;
                    }
                }
            }
            "raw-fds" => {
                let file = std::fs::File::open("/dev/null")?;
                channel::send(&self.pilot()?.operations, &bytes(rest)?, &[file.as_fd(), file.as_fd()])?;
            }
            "teardown" => self.pilot()?.ask(&Request::TearDown)?,
            "heard" => self.pilot()?.ask(&Request::Heard)?,
            "tether" if rest.is_empty() => drop(self.pilot()?.tether.take()),
            "tether" => {
                let tether = self.pilot()?.tether.as_ref().context("it is closed")?;
                channel::send(tether, rest.as_bytes(), &[])?;
            }
            "inside" => {
                let inside = self.inside.as_mut().context("there is no sandbox")?;
                let (status, output) = inside.run(&["sh", "-c", rest])?;
                print!("{output}");
                ensure!(status == ExitStatus::Code(0), "inside it ended as {status:?}");
            }
            "verbatim" => verbatim(self.inside.as_mut().context("there is no sandbox")?)?,
            "frames" => frames()?,
            "node" => self.on_node(rest)?,
            "exit" => {
                let code = self.pilot()?.exit_code()?;
                ensure!(code == rest.parse::<i32>()?, "it ended with {code}");
            }
            _ => bail!("no such step"),
        }
        Ok(())
    }

    fn pilot(&mut self) -> Result<&mut Pilot> {
        if self.pilot.is_none() {
            match Pilot::start(&self.manner)? {
                Ok(pilot) => self.pilot = Some(pilot),
                Err(refused) => bail!("it did not start: {:?}: {}", refused.code, refused.said),
            }
        }
        self.pilot.as_mut().context("no pilot")
    }

    fn refused(&mut self, text: &str) -> Result<()> {
        let Err(refused) = Pilot::start(&self.manner)? else { bail!("it started") };
        ensure!(refused.code == Some(1), "it ended with {:?}: {}", refused.code, refused.said);
        ensure!(refused.said.contains(text), "it said: {}", refused.said);
        ensure!(!refused.said.contains("panicked"), "it crashed: {}", refused.said);
        Ok(())
    }

    fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut words = wanted.splitn(3, ' ');
        let (what, first, rest) = (words.next(), words.next().unwrap_or(""), words.next().unwrap_or(""));
        let pilot = self.pilot.as_mut().context("there is no pilot")?;
        if what == Some("built") {
            match pilot.built()? {
                Ok(inside) => self.inside = Some(inside),
                Err(other) => bail!("it said {other:?}"),
            }
            return Ok(());
        }
        let (notice, _) = pilot.answer()?;
        let fits = match (&notice, what) {
            (Notice::Failed { step, detail, .. }, Some("failed")) => {
                format!("{step:?}") == first && detail.contains(rest)
            }
            (Notice::Ended { reason }, Some("ended")) => format!("{reason:?}") == first,
            (Notice::Gone, Some("gone")) => true,
            _ => false,
        };
        ensure!(fits, "it said {notice:?}");
        Ok(())
    }

    fn on_node(&mut self, script: &str) -> Result<()> {
        let init = self.inside.as_ref().map_or(0, |inside| inside.init);
        let pilot = self.pilot()?;
        let mut command = Command::new("bash");
        command.args(["-c", script]).env("MONITOR", pilot.monitor.to_string());
        command.env("AGENT", pilot.agent.to_string()).env("INIT", init.to_string());
        command.env("NONCE", hex(&pilot.welcome.nonce));
        let status = command.status()?;
        ensure!(status.success(), "on the node it ended as {status}");
        Ok(())
    }
}

/// Strange words, one after another and all at once.
fn verbatim(inside: &mut Inside) -> Result<()> {
    let strange: [&[u8]; 7] =
        [b"-rf", b"--", b"$(id)`id`", b"a\nb\x1b[31m", b"\xff\xfe\x80", b"", b"; id | id && id"];
    let mut words = vec![b"printf".to_vec(), b"[%s]".to_vec()];
    words.extend(strange.iter().map(|word| word.to_vec()));
    let expected: Vec<u8> = strange.iter().flat_map(|word| [b"[", *word, b"]"].concat()).collect();
    let (status, output) = inside.run_words(&words)?;
    ensure!(status == ExitStatus::Code(0) && output == expected, "{status:?} {output:?}");
    // A program whose name is an option is not found; nothing is taken for an option of ours.
    for name in [&b"-c"[..], b"--help", b"no such; id"] {
        ensure!(inside.run_words(&[name.to_vec()]).is_err(), "{name:?} was started");
    }
    // With a zero byte it is another command than was meant, and two megabytes are too much.
    ensure!(inside.run_words(&[b"true".to_vec(), b"a\0b".to_vec()]).is_err(), "a zero byte");
    ensure!(inside.run_words(&[b"true".to_vec(), vec![b'x'; 2 << 20]]).is_err(), "2 MB");
    Ok(())
}

/// What the agent's side of the wire refuses before it means anything.
fn frames() -> Result<()> {
    use bytes::BytesMut;
    use protocol::{codec, frame, names, node};
    for length in [u32::MAX, 1 << 31, (protocol::limits::FRAME_BYTES_MAX + 1) as u32] {
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(&length.to_be_bytes());
        buffer.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        ensure!(frame::take(&mut buffer, usize::MAX).is_err(), "a frame of {length} bytes");
        ensure!(buffer.capacity() < 1 << 20, "memory for a frame that will not come");
    }
    for kind in 0..=255u8 {
        // A count of 2^64 of whatever, behind every possible kind of request.
        let body = [&[kind][..], &[0xfd; 1], &[0xff; 64]].concat();
        if let Ok(request) = codec::decode::<node::Request>(&body) {
            bail!("it was taken for {request:?}");
        }
    }
    for name in ["../../etc", "a\nb", "a b", "", "a/b", "-o", "a\0"] {
        ensure!(name.parse::<names::NodeName>().is_err(), "a node called {name:?}");
        ensure!(name.parse::<names::UserName>().is_err(), "a user called {name:?}");
    }
    Ok(())
}

/// The grant with what the words say changed, and the bit to flip in its record.
fn changed(mut grant: Grant, words: &str) -> Result<(Grant, Option<usize>)> {
    let mut flip = None;
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').context("not KEY=VALUE")?;
        match key {
            "address" => grant.address = value.parse()?,
            "prefix" => grant.prefix_len = value.parse()?,
            "gateway" => grant.gateway = Some(value.parse()?),
            "uid" => grant.uid = value.parse()?,
            "user" => grant.user = UserName::new(value).map_err(|error| anyhow::anyhow!("{error}"))?,
            "site" => grant.site = SiteName::new(value).map_err(|error| anyhow::anyhow!("{error}"))?,
            "driver" => grant.driver = Driver::from_name(value).context("no such driver")?,
            "nonce" if value.len() == 32 => grant.nonce = bytes(value)?.as_slice().try_into()?,
            "nonce" => grant.nonce = [value.parse()?; 16],
            "lease" => grant.lease_s = value.parse()?,
            "lifetime" => grant.lifetime_s = value.parse()?,
            "pids" => grant.pids = value.parse()?,
            "memory" => grant.memory_bytes = value.parse()?,
            "mtu" => grant.mtu = value.parse()?,
            "flip" => flip = Some(value.parse()?),
            _ => bail!("{key} is no field"),
        }
    }
    Ok((grant, flip))
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    ensure!(hex.is_ascii() && hex.len().is_multiple_of(2), "not hexadecimal");
    let pair = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).context("not hexadecimal");
    (0..hex.len()).step_by(2).map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
