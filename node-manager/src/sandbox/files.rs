//! The few files whose content differs from the node's.

use std::path::Path;

use super::Plan;

/// Content of `/etc/passwd`: the grid user first, under its local uid, then the node's
/// lines without a namesake.
pub fn passwd(plan: &Plan, node: &str) -> String {
    let (user, account) = (plan.user.as_str(), &plan.account);
    let shell = account.shell.to_str().filter(|shell| Path::new(shell).exists()).unwrap_or("/bin/sh");
    let line = format!("{user}:x:{}:{}:grid user:/home/{user}:{shell}\n", account.uid, account.gid);
    line + &without(user, node)
}

/// Content of `/etc/group`, in the same manner.
pub fn group(plan: &Plan, node: &str) -> String {
    let user = plan.user.as_str();
    format!("{user}:x:{}:\n", plan.account.gid) + &without(user, node)
}

/// Content of `/etc/hosts` until the agent writes the whole grid's.
pub fn hosts(plan: &Plan) -> String {
    format!("127.0.0.1 localhost\n{} {}\n", plan.link.address, plan.host_name)
}

fn without(name: &str, node: &str) -> String {
    let ours = |line: &&str| line.split(':').next() != Some(name);
    node.lines().filter(ours).flat_map(|line| [line, "\n"]).collect()
}

/// Number of a group by the node's own file: a name service has no business in a half-built
/// sandbox, and its libraries are not loaded for one number.
pub fn group_id(name: &str, group: &str) -> Option<u32> {
    let line = group.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split(':').nth(1)?.parse().ok()
}
