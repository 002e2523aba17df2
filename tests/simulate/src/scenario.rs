//! What a history is about: the grid, what its users ask, and what goes wrong. All of it is drawn
//! from the seed before the history begins, so that parts of it can be left out to find out which
//! of them matter.

use crate::agenda::{MS, Micros, S};
use crate::random::Random;

/// Who can be struck: the GRC, or a site's CRM by its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Who {
    Grc,
    Site(usize),
}

#[derive(Clone, Debug)]
pub struct SiteSpec {
    pub nodes: u32,
    /// Sandboxes that each node takes at once.
    pub members_max: u32,
    pub range: &'static str,
    pub uplink_kbit: Option<u64>,
}

/// One user's request, by the number of an earlier one where it is about that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wish {
    Reserve(Want),
    Submit {
        want: Want,
        all: bool,
    },
    SubmitIn {
        of: usize,
        all: bool,
    },
    Modify {
        of: usize,
        duration_s: Option<u32>,
        rate_kbit: Option<u32>,
        nodes: Option<u32>,
    },
    Release {
        of: usize,
    },
    Cancel {
        of: usize,
    },
    /// The same request once more, long after its answer.
    Repeat {
        of: usize,
    },
    Show {
        of: usize,
        what: Shown,
    },
    List,
}

/// What of a reservation a user looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shown {
    Reservation,
    /// The job that it was made for, if it was.
    Job,
    Reasons,
    Usage,
}

impl Wish {
    /// The earlier request that it is about.
    pub fn about(&self) -> Option<usize> {
        match self {
            Self::SubmitIn { of, .. }
            | Self::Modify { of, .. }
            | Self::Release { of }
            | Self::Cancel { of }
            | Self::Repeat { of }
            | Self::Show { of, .. } => Some(*of),
            Self::Reserve(_) | Self::Submit { .. } | Self::List => None,
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Want {
    /// Nodes by site; all 0 = as many anywhere as `anywhere` says.
    pub nodes: Vec<u32>,
    pub anywhere: u32,
    pub when: When,
    pub duration_s: u32,
    /// Between every two sites; 0 = not asked.
    pub rate_kbit: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    Open,
    Within(u32),
    /// From, and how much later at the latest, seconds from the time of asking.
    Ahead(u32, u32),
}

#[derive(Clone, Debug)]
pub struct Asked {
    pub at: Micros,
    pub user: usize,
    pub wish: Wish,
    /// The client's connection breaks so long after it has asked; it asks again with the same id.
    pub hang_up: Option<Micros>,
    /// Only to find out whether it matters.
    pub left_out: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The process dies after so many more actions, and is started again after `down`.
    Crash {
        who: Who,
        actions: u32,
        down: Micros,
    },
    /// Its machine reboots: the clock of the boot begins anew, the wall clock is taken.
    Reboot {
        who: Who,
        down: Micros,
    },
    /// It does nothing for a while.
    Pause {
        who: Who,
        time: Micros,
    },
    DiskFull {
        who: Who,
        time: Micros,
    },
    DiskError {
        who: Who,
    },
    /// Commits take so long for a while.
    DiskSlow {
        who: Who,
        commit: Micros,
        time: Micros,
    },
    /// Somebody sets the wall clock, by so many seconds.
    WallClock {
        who: Who,
        by_s: i64,
    },
    /// Nothing gets through; one way or both.
    Cut {
        site: usize,
        up: bool,
        down: bool,
        time: Micros,
    },
    /// Both ends find their connection broken.
    Break {
        site: usize,
    },
    /// A node's pilots die, with or without leaving something.
    NodeDies {
        site: usize,
        node: usize,
        leaves: bool,
    },
    /// A connection between an agent and its CRM breaks.
    AgentCut {
        site: usize,
        node: usize,
        /// So long it cannot dial again.
        time: Micros,
    },
}

/// How the world behaves all the time, in thousandths of cases.
#[derive(Clone, Debug, Default)]
pub struct Temper {
    pub drop: u32,
    pub twice: u32,
    pub out_of_order: u32,
    /// Longest time of a message on its way.
    pub delay: Micros,
    pub batch_late: u32,
    pub batch_never: u32,
    pub batch_refuses: u32,
    pub submit_answer_lost: u32,
    /// The queue takes nothing for a while, says no, or does not say whether it took something.
    pub queue_shut: u32,
    pub queue_refuses: u32,
    pub queue_unsure: u32,
    pub pilot_twice: u32,
    pub gone_twice: u32,
    pub gone_early: u32,
    pub cancel_ignored: u32,
    pub agent_slow: u32,
    pub agent_fails: u32,
    pub agent_dies: u32,
    pub agent_silent: u32,
    pub sweep_fails: u32,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub sites: Vec<SiteSpec>,
    /// Capacity of every link.
    pub link_kbit: u64,
    pub asked: Vec<Asked>,
    /// In the order of their times.
    pub faults: Vec<(Micros, Fault)>,
    pub temper: Temper,
    /// No fault begins after this, and all are healed soon after.
    pub calm_at: Micros,
    /// Whether members send anything to other sites.
    pub traffic: bool,
}

/// Ample, and so small that addresses of before are soon needed again.
const RANGES: [&str; 3] = ["10.1.0.0/26", "10.1.0.64/26", "10.1.0.128/26"];
const SMALL_RANGES: [&str; 3] = ["10.1.0.0/29", "10.1.0.8/29", "10.1.0.16/29"];
const SMALL_SAME_RANGE: &str = "10.1.0.0/28";

impl Scenario {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let sites = sites(&mut random);
        let calm_at = random.between(20, 90) * S;
        let uplinks = sites.iter().any(|site| site.uplink_kbit.is_some());
        let asked = requests(&mut random, sites.len(), calm_at, uplinks);
        let temper = temper(&mut random);
        let faults = faults(&mut random, &sites, calm_at);
        let traffic = random.chance(300);
        Self { seed, sites, link_kbit: 200_000, asked, faults, temper, calm_at, traffic }
    }
}

impl Scenario {
    /// What matters of it, a line each.
    pub fn in_words(&self) -> String {
        let mut words = Vec::new();
        for site in &self.sites {
            words.push(format!("{site:?}"));
        }
        for (number, asked) in self.asked.iter().enumerate().filter(|(_, asked)| !asked.left_out) {
            let Asked { at, user, wish, hang_up, .. } = asked;
            words.push(format!("request {number} of user {user} at {at}: {wish:?}, hangs up {hang_up:?}"));
        }
        for (at, fault) in &self.faults {
            words.push(format!("fault at {at}: {fault:?}"));
        }
        words.push(format!("{:?}, calm at {}, traffic {}\n", self.temper, self.calm_at, self.traffic));
        words.join("\n")
    }
}

fn sites(random: &mut Random) -> Vec<SiteSpec> {
    let count = random.between(2, 3) as usize;
    let same_range = random.chance(500);
    let small = random.chance(500);
    let range = |n: usize| match (same_range, small) {
        (true, true) => SMALL_SAME_RANGE,
        (true, false) => RANGES[0],
        (false, true) => SMALL_RANGES[n],
        (false, false) => RANGES[n],
    };
    let uplinks = random.chance(400);
    (0..count)
        .map(|n| SiteSpec {
            nodes: random.between(1, 3) as u32,
            members_max: if random.chance(300) { 2 } else { 1 },
            range: range(n),
            uplink_kbit: (uplinks && random.chance(800)).then_some(300_000),
        })
        .collect()
}

fn want(random: &mut Random, sites: usize) -> Want {
    let anywhere = if random.chance(200) { random.between(1, 3) as u32 } else { 0 };
    let mut nodes = vec![0; sites];
    if anywhere == 0 {
        for n in &mut nodes {
            *n = if random.chance(750) { random.between(1, 2) as u32 } else { 0 };
        }
        if nodes.iter().all(|n| *n == 0) {
            nodes[0] = 1;
        }
    }
    let when = match random.below(10) {
        0..=2 => When::Open,
        3..=5 => When::Within(random.between(0, 40) as u32),
        _ => When::Ahead(random.between(1, 50) as u32, random.between(0, 30) as u32),
    };
    let rate_kbit = if random.chance(600) { random.between(4, 16) as u32 * 10_000 } else { 0 };
    let duration_s = if random.chance(120) { random.between(50, 250) } else { random.between(3, 50) } as u32;
    Want { nodes, anywhere, when, duration_s, rate_kbit }
}

fn requests(random: &mut Random, sites: usize, calm_at: Micros, uplinks: bool) -> Vec<Asked> {
    let count = random.between(3, 10) as usize;
    let mut asked: Vec<Asked> = Vec::new();
    for n in 0..count {
        let earlier = |random: &mut Random| random.below(n.max(1) as u64) as usize;
        let wish = match if n == 0 { 0 } else { random.below(22) } {
            0..=6 => Wish::Reserve(want(random, sites)),
            7..=9 => Wish::Submit { want: want(random, sites), all: random.chance(500) },
            10 | 11 => Wish::SubmitIn { of: earlier(random), all: random.chance(500) },
            12..=14 => Wish::Modify {
                of: earlier(random),
                duration_s: random.chance(600).then(|| random.between(2, 60) as u32),
                rate_kbit: random.chance(500).then(|| random.between(4, 16) as u32 * 10_000),
                nodes: random.chance(300).then(|| random.between(1, 3) as u32),
            },
            15 | 16 => Wish::Release { of: earlier(random) },
            17 => Wish::Cancel { of: earlier(random) },
            18 => Wish::Repeat { of: earlier(random) },
            _ if random.chance(800) => {
                use Shown::{Job, Reasons, Reservation, Usage};
                let what = *random.pick(&[Reservation, Reservation, Job, Reasons, Usage]);
                Wish::Show { of: earlier(random), what }
            }
            _ => Wish::List,
        };
        // Bursts as well as lone requests.
        let at = match asked.last() {
            Some(last) if random.chance(400) => last.at + random.below(300) * MS,
            _ => random.below(calm_at),
        };
        let hang_up = random.chance(200).then(|| random.below(6_000) * MS);
        let user = match wish.about() {
            Some(of) => asked[of].user,
            None => random.below(2) as usize,
        };
        asked.push(Asked { at, user, wish, hang_up, left_out: false });
    }
    // Where uplinks are tight, two large requests at once show whether they are summed.
    if uplinks && random.chance(500) {
        let nodes = vec![1; sites];
        let want = Want { nodes, anywhere: 0, when: When::Within(0), duration_s: 30, rate_kbit: 160_000 };
        asked.push(Asked { at: 2 * S, user: 0, wish: Wish::Reserve(want), hang_up: None, left_out: false });
    }
    asked
}

/// Every kind of fault is there in some histories only, so that each also meets calm.
fn faults(random: &mut Random, sites: &[SiteSpec], calm_at: Micros) -> Vec<(Micros, Fault)> {
    let kinds = random.draw();
    let count = if random.chance(100) { 0 } else { random.between(1, 12) };
    let mut faults = Vec::new();
    for _ in 0..count {
        let at = random.below(calm_at);
        let site = random.below(sites.len() as u64) as usize;
        let who = if random.chance(450) { Who::Grc } else { Who::Site(site) };
        let node = random.below(u64::from(sites[site].nodes)) as usize;
        let short = random.between(50, 4_000) * MS;
        let long = if random.chance(300) { random.between(4, 40) * S } else { short };
        let mut kind = random.below(14);
        while kinds >> kind & 1 == 0 && kinds & 0x3fff != 0 {
            kind = (kind + 1) % 14;
        }
        let fault = match kind {
            0..=4 => Fault::Crash { who, actions: random.between(1, 12) as u32, down: long },
            5 => Fault::Reboot { who, down: long },
            6 => Fault::Pause { who, time: long },
            7 => Fault::DiskFull { who, time: long },
            8 => Fault::DiskError { who },
            9 => Fault::DiskSlow { who, commit: random.between(50, 3_000) * MS, time: long },
            10 => {
                let far = random.between(30, 4_000) as i64;
                Fault::WallClock { who, by_s: if random.chance(500) { far } else { -far } }
            }
            11 => {
                let (up, down) = *random.pick(&[(true, false), (false, true), (true, true)]);
                Fault::Cut { site, up, down, time: long }
            }
            12 if random.chance(500) => Fault::Break { site },
            12 => Fault::AgentCut { site, node, time: short },
            _ => Fault::NodeDies { site, node, leaves: random.chance(500) },
        };
        faults.push((at, fault));
    }
    if random.chance(100) {
        clog(random, sites.len(), calm_at, &mut faults);
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// Swizzle-clog: sites are cut off one by one and come back in another order.
fn clog(random: &mut Random, sites: usize, calm_at: Micros, faults: &mut Vec<(Micros, Fault)>) {
    let begin = random.below(calm_at);
    let first = random.below(sites as u64) as usize;
    for n in 0..sites {
        let at = begin + n as Micros * random.between(100, 3_000) * MS;
        let time = random.between(5, 30) * S;
        faults.push((at, Fault::Cut { site: (first + n) % sites, up: true, down: true, time }));
    }
}

fn temper(random: &mut Random) -> Temper {
    let mut some = |of_thousand: u32, most: u64| -> u32 {
        if random.chance(of_thousand) { random.between(1, most) as u32 } else { 0 }
    };
    Temper {
        drop: some(250, 200),
        twice: some(250, 200),
        out_of_order: some(250, 300),
        delay: [5 * MS, 50 * MS, 400 * MS, 3 * S][some(600, 3) as usize],
        batch_late: some(250, 400),
        batch_never: some(120, 200),
        batch_refuses: some(120, 200),
        submit_answer_lost: some(120, 200),
        pilot_twice: some(200, 400),
        gone_twice: some(200, 500),
        gone_early: some(120, 200),
        cancel_ignored: some(150, 900),
        agent_slow: some(200, 200),
        agent_fails: some(120, 100),
        agent_dies: some(150, 100),
        agent_silent: some(120, 120),
        sweep_fails: some(120, 300),
        queue_shut: some(150, 200),
        queue_refuses: some(100, 200),
        queue_unsure: some(150, 400),
    }
}
