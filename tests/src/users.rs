//! A second user of a local grid: one who comes in over the network by ssh key, from any machine. The
//! first, the account's, is let in by a key too.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::account::Account;
use crate::netns::GRC_ADDRESS;
use crate::process::run;
use crate::site::write_public;
use crate::state::State;

/// Port on which the GRC waits for users of other machines.
pub const USERS_PORT: u16 = 7402;
/// The grid user whose jobs run as the same account, and who is somebody else to the GRC.
pub const GUEST: &str = "guest";

/// The users file of the GRC.
pub fn users_file(state: &State) -> PathBuf {
    state.path("etc/users")
}

/// Root's alone, for keys are there.
fn keys(state: &State) -> PathBuf {
    state.path("etc/keys")
}

/// The private key of a grid user.
pub fn key(state: &State, user: &str) -> PathBuf {
    keys(state).join(user)
}

/// Makes both users' keys and the file that lets them in.
pub fn make(state: &State, account: &Account) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(keys(state))?;
    let mut lines = String::new();
    for user in [account.grid_user(), GUEST] {
        let path = key(state, user);
        let words = ["-q", "-t", "ed25519", "-N", "", "-C", user, "-f"];
        run(Command::new("ssh-keygen").args(words).arg(&path)).context("cannot make a user's key")?;
        let public = fs::read_to_string(path.with_extension("pub")).context("ssh-keygen left no key")?;
        lines.push_str(&format!("{user} {}\n", public.trim_end()));
    }
    write_public(&users_file(state), &lines)
}

/// A command on a machine of the grid, as somebody with nothing but a home of his own there. The
/// home is in the grid's directory and goes with it.
pub fn far_away(state: &State, machine: &str, user: &str) -> Result<Command> {
    let home = keys(state).join(format!("home-{user}"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&home)?;
    let enter = state.machine(machine)?.enter();
    let mut command = Command::new(&enter[0]);
    command
        .args(&enter[1..])
        .arg(state.path("bin/gridpilot"))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", home)
        .current_dir("/");
    Ok(command)
}

/// Where users of other machines dial.
pub fn address() -> String {
    format!("{GRC_ADDRESS}:{USERS_PORT}")
}
