//! The ordinary user whose jobs run: the one who called sudo, else an account made here.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::User;
use serde::{Deserialize, Serialize};

use crate::process::run;

/// Name of the account that is made when nobody called sudo.
pub const MADE_NAME: &str = "gridpilot-user";

/// A local account.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

impl Account {
    /// The name inside the sandboxes: the account's own where the grid can carry it.
    pub fn grid_user(&self) -> &str {
        let fits = self.name.parse::<protocol::names::UserName>().is_ok();
        if fits { &self.name } else { "grid" }
    }

    /// A command that runs as this account with the environment of a login and nothing else.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={}", self.uid), format!("--regid={}", self.gid)])
            .args(["--init-groups", "--inh-caps=-all", "--", program])
            .env_clear()
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("LANG", "C.UTF-8")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir(&self.home);
        command
    }
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), home: user.dir }
    }
}

/// The account of this name, if there is one.
pub fn find(name: &str) -> Result<Option<Account>> {
    let user = User::from_name(name).with_context(|| format!("cannot look up account {name}"))?;
    Ok(user.map(Account::from))
}

/// Who called sudo, if it was sudo and not root.
pub fn caller() -> Result<Option<Account>> {
    let (Ok(name), Ok(uid)) = (std::env::var("SUDO_USER"), std::env::var("SUDO_UID")) else {
        return Ok(None);
    };
    Ok(find(&name)?.filter(|account| account.uid != 0 && account.uid.to_string() == uid))
}

/// Makes an account with a home.
pub fn make(name: &str) -> Result<Account> {
    let options = ["--create-home", "--user-group", "--shell", "/bin/bash"];
    // Away from where people and packages get their numbers, so that nobody's process has it.
    let range = ["--key", "UID_MIN=20000", "--key", "UID_MAX=29999"];
    run(Command::new("useradd").args(options).args(range).arg(name))
        .context("cannot make an account for the jobs")?;
    find(name)?.with_context(|| format!("account {name} is not there after useradd"))
}

/// Removes an account that was made here, and its home. Nothing to do when it is gone.
pub fn remove(name: &str) -> Result<()> {
    if find(name)?.is_some() {
        run(Command::new("userdel").args(["--remove", name])).context("cannot remove the account")?;
    }
    Ok(())
}
