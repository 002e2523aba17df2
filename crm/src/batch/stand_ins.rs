//! Stand-ins for the commands of a batch system, for tests of its adapter: shell scripts that keep
//! what they were told and what they shall say in a directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::commands::Commands;
use super::names::{Group, member};
use super::{Batch, BatchJob, Config, Standing};
use crate::pilot::PilotId;
use crate::site::{Account, Submit};

/// The directory: `bin` for the commands, and a file for whatever they say or were told.
pub struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    pub fn new() -> Self {
        let bed = Self { dir: tempfile::tempdir().unwrap() };
        for below in ["bin", "state", "lib"] {
            fs::create_dir(bed.path(below)).unwrap();
        }
        bed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Nothing, of what is not there.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A command; in its body `$D` is the directory.
    pub fn put(&self, name: &str, body: &str) {
        let text = format!("#!/bin/sh\nD={}\n{body}\n", self.dir.path().display());
        let path = self.path("bin").join(name);
        // Aside and renamed: a program that is open for writing cannot be started.
        fs::write(path.with_extension("new"), text).unwrap();
        fs::set_permissions(path.with_extension("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// The configuration of a site with these commands; `batch` = what else stands in `[batch]`.
    pub fn config(&self, batch: &str) -> Config {
        let here = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "site = \"a\"\nstate = {:?}\ngrc = \"10.0.0.1:7400\"\nlisten = \"10.0.0.2:7401\"\n\
             launcher = {:?}\nranges = [\"10.71.128.0/17\"]\nprefix_len = 16\n[batch]\nnodes = 4\n\
             commands = {:?}\n{batch}",
            here("state"),
            here("lib/launcher"),
            here("bin"),
        );
        self.write("crm.toml", &text);
        Config::load(&self.path("crm.toml")).unwrap()
    }

    /// As the account that runs the test.
    pub fn commands(&self) -> Commands {
        Commands::of_nobody_else(&self.path("bin"))
    }
}

/// `alice`, with the numbers of the account that runs the test.
pub fn alice() -> Account {
    Account {
        name: "alice".parse().unwrap(),
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
    }
}

/// A batch job of this many pilots of alice's, for five minutes.
pub fn job(group: Group, pilots: u32) -> BatchJob {
    let pilot = |number| {
        let submit = Submit {
            pilot: member(group, number),
            node: format!("place-{number}").parse().unwrap(),
            exclude: Vec::new(),
            account: alice(),
            limits: protocol::reservation::Limits::default(),
            begin_in_s: 0,
            lifetime_s: 300,
        };
        (submit, format!("secret {number}").into_bytes())
    };
    BatchJob { pilots: (0..pilots).map(pilot).collect() }
}

/// Looks until some pilot is gone, as the task of a site does.
pub async fn gone(batch: &impl Batch) -> Vec<(PilotId, Standing)> {
    loop {
        let standings = batch.status().await.unwrap().unwrap_or_default();
        if standings.iter().any(|(_, standing)| matches!(standing, Standing::Gone(_))) {
            return standings;
        }
        batch.changed().await;
    }
}
