//! SETUP and SET_KEYS: what they are checked against, and the work they mean for the agent.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::future::try_join_all;
use grant::{GRANT_LEN, Grant, RATES_LEN};
use node_manager::init::record::FileId;
use node_manager::operation::Step as BuildStep;
use protocol::keys::KeyRing;
use protocol::names::UserName;
use protocol::node::{Setup, SignedRates};
use protocol::refusal::{Failure, Refusal, Step};

use crate::init::{Init, InitError};
use crate::keys::{KeyError, Keys};
use crate::render::environment::{self, Variables, fits_a_line};
use crate::render::{hosts, ssh};

/// Rates of the right size. Whether they may hold is the monitor's decision.
#[derive(Clone, Copy, Debug)]
pub struct CheckedRates {
    pub record: [u8; RATES_LEN],
    pub signature: [u8; 64],
}

impl CheckedRates {
    /// # Errors
    /// `Malformed` when these are no rates at all.
    pub fn new(rates: &SignedRates) -> Result<Self, Refusal> {
        let malformed =
            |_| Refusal::Malformed { why: "the rates, or their signature, have another length".into() };
        let record = rates.record.as_slice().try_into().map_err(malformed)?;
        let signature = rates.signature.as_slice().try_into().map_err(malformed)?;
        Ok(Self { record, signature })
    }
}

/// A SETUP that agrees with itself. Whether it may be built is the monitor's decision.
#[derive(Debug)]
pub struct CheckedSetup {
    pub setup: Setup,
    pub grant: [u8; GRANT_LEN],
    pub signature: [u8; 64],
    /// Of a sandbox that is to be shaped.
    pub rates: Option<CheckedRates>,
    /// The login name inside, from the grant.
    pub user: UserName,
    /// How long the CRM may be silent, from the grant.
    pub lease: Duration,
}

impl CheckedSetup {
    /// # Errors
    /// `Malformed` when the parts of the message contradict each other, or a variable could not
    /// reach an ssh login.
    pub fn new(setup: Setup) -> Result<Self, Refusal> {
        let malformed = |why: &str| Refusal::Malformed { why: why.into() };
        let grant: [u8; GRANT_LEN] =
            setup.grant.as_slice().try_into().map_err(|_| malformed("the grant has another length"))?;
        let signature: [u8; 64] =
            setup.signature.as_slice().try_into().map_err(|_| malformed("the signature is not 64 bytes"))?;
        let granted = Grant::decode(&grant).map_err(|error| malformed(&error.to_string()))?;
        if granted.host_name() != setup.host.to_string()
            || granted.address != setup.address
            || granted.reservation != setup.reservation.0
            || granted.epoch != u64::from(setup.epoch.0)
        {
            return Err(malformed("the grant is for another member than the message"));
        }
        if granted.shaped != setup.rates.is_some() {
            return Err(malformed("a grant that is shaped comes with rates, and no other"));
        }
        let rates = setup.rates.as_ref().map(CheckedRates::new).transpose()?;
        let user = granted.user.as_str().parse().map_err(|_| malformed("the grant's user has no name"))?;
        if let Some((name, _)) = setup.variables.iter().find(|(_, value)| !fits_a_line(value)) {
            let why = format!("variable {name} holds a control character, which no ssh login can be given");
            return Err(malformed(&why));
        }
        let lease = Duration::from_secs(granted.lease_s.into());
        Ok(Self { setup, grant, signature, rates, user, lease })
    }
}

/// What is made while the monitor builds.
#[derive(Debug)]
pub struct Prepared {
    pub keys: Keys,
    /// The account's login shell, if it is there.
    pub shell: String,
}

/// Makes the keys and asks for the account. Blocks: on randomness, and on a directory service.
pub fn prepare(uid: u32) -> Result<Prepared, KeyError> {
    let account = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    let shell = account.map(|account| account.shell).filter(|shell| shell.is_absolute() && shell.exists());
    let shell = shell.as_deref().and_then(Path::to_str).unwrap_or("/bin/sh").to_owned();
    Ok(Prepared { keys: Keys::generate()?, shell })
}

/// The failure of a build, as the user sees it.
pub fn build_failure(step: BuildStep, errno: i32, detail: &str) -> Failure {
    let mut cause = format!("cannot {}", step.sentence());
    if !detail.is_empty() {
        cause.push_str(&format!(": {detail}"));
    }
    if errno != 0 {
        cause.push_str(&format!(": {}", crate::command::system_text(errno)));
    }
    let hint = match step {
        BuildStep::CheckGrant => {
            "the site's administrator compares the node's /etc/gridpilot/node.policy with `crm policy`"
        }
        BuildStep::CheckPolicy => {
            "ask for less; or the site's administrator compares the node's policy with `crm policy`"
        }
        BuildStep::FindAccount => "the account must exist on the node; see the site's grid-mapfile",
        BuildStep::OpenHome => "the account's home must be there on the node, without symbolic links",
        BuildStep::OpenShare => "the node policy names a shared directory that is not there",
        BuildStep::CreateLink | BuildStep::ConfigureNetwork => {
            "the node policy's interface and the driver in crm.toml must fit the node"
        }
        BuildStep::CheckRates => {
            "the CRM signs rates for one start of one pilot, each with a larger serial; its log says more"
        }
        BuildStep::Shape => "the node's kernel must have HTB, u32 and bfifo (modules sch_htb and cls_u32)",
        BuildStep::MakeCgroup => "ask for less, or without --memory and --cpus",
        _ => "the node's log has the NodeManager's own line",
    };
    Failure::new(Step::Setup, cause, hint)
}

/// Checks a key ring against the member that it is for.
pub fn check_ring(ring: &KeyRing, setup: &CheckedSetup, keys: &Keys) -> Result<(), Refusal> {
    let malformed = |why: &str| Err(Refusal::Malformed { why: why.into() });
    if ring.user != setup.user {
        return malformed("the key ring is for another user");
    }
    let own = |member: &&protocol::keys::Member| {
        member.host == setup.setup.host && member.address == setup.setup.address
    };
    match ring.members.iter().find(own) {
        None => malformed("the key ring does not hold this member"),
        Some(member) if member.keys != keys.public() => {
            malformed("the key ring has other keys for this member")
        }
        Some(_) => Ok(()),
    }
}

/// Writes every file that follows from the ring. Repeatable: each appears whole, by rename.
pub async fn install(
    init: &Init,
    keys: &Keys,
    ring: &KeyRing,
    variables: &Variables,
) -> Result<(), (FileId, InitError)> {
    let files = [
        (FileId::Hosts, hosts::hosts(ring).into_bytes()),
        (FileId::Hostfile, hosts::hostfile(ring).into_bytes()),
        (FileId::Machinefile, hosts::machinefile(ring).into_bytes()),
        (FileId::Nodes, hosts::nodes(ring).into_bytes()),
        (FileId::Environment, environment::shell(variables).into_bytes()),
        (FileId::UserKeyPublic, ssh::public_key_file(keys.user.public()).into_bytes()),
        (FileId::KnownHosts, ssh::known_hosts(ring).into_bytes()),
        (FileId::AuthorizedKeys, ssh::authorized_keys(ring).into_bytes()),
        (FileId::SshConfig, ssh::ssh_config().as_bytes().to_vec()),
    ];
    let put =
        async |file: FileId, content: &[u8]| init.put(file, content).await.map_err(|error| (file, error));
    // All at once: one round trip instead of ten.
    try_join_all(files.iter().map(|(file, content)| put(*file, content))).await?;
    put(FileId::UserKey, keys.user.private()).await
}

/// The failure of an installation, as the user sees it.
pub fn install_failure(file: FileId, error: &InitError) -> Failure {
    let (_, name, _) = file.place();
    let hint = match error {
        InitError::System(error) if error.kind() == io::ErrorKind::StorageFull => {
            "the sandbox's writable part is full: ask for more with --disk"
        }
        _ => "",
    };
    Failure::new(Step::SetKeys, format!("cannot write {name}: {error}"), hint)
}
