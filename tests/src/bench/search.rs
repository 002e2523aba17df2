//! The book under load: 16 sites with two layers and an uplink each, the 120 links between them,
//! and a million reservations over a year that take half of it all. What is measured is the
//! planner as the GRC uses it: nodes, rates, uplinks as sums, addresses, other starts after a no.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use capacity::{Profile, Window};
use grc::book::{Book, Candidate, NoPlan, Part, Plan, Rates, Request};
use grc::network::{BandwidthProvider, Connection, Criteria, Operation, StaticLinks, Version};
use protocol::names::SiteName;
use protocol::reservation::{AddressBlock, Placement};
use rustix::time::{ClockId, clock_gettime};

use super::{kib_of, row, table};

const SITES: usize = 16;
const YEAR_S: u64 = 365 * 24 * 3600;
const LEAD_S: u64 = 10;
const TAIL_S: u64 = 30;
/// What is taken of everything, on average.
const LOAD: f64 = 0.5;
/// The search's window.
const WAIT_S: u64 = 30 * 24 * 3600;

/// Numbers without a pattern, the same in each run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// As likely to be between 1 and 2 as between 10 and 20.
    fn log_between(&mut self, least: f64, most: f64) -> u64 {
        let part = self.next() as f64 / u64::MAX as f64;
        (least * (most / least).powf(part)) as u64
    }

    /// So many different numbers below `end`.
    fn some(&mut self, count: usize, end: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..end).collect();
        for place in 0..count {
            all.swap(place, place + self.below((end - place) as u64) as usize);
        }
        all.truncate(count);
        all
    }
}

/// One reservation as it would be read from a store.
#[derive(Clone, Copy, Default)]
struct Record {
    start: u32,
    duration: u32,
    rate_kbit: u32,
    parts: u32,
    sites: [u8; 4],
    layers: [u8; 4],
    members: [u16; 4],
    blocks: [u32; 4],
}

struct World {
    names: Vec<SiteName>,
    candidates: Vec<Candidate>,
    book: Book,
    links: StaticLinks,
    /// Places of one layer of a site, and kbit/s of a link.
    places: u32,
    link_kbit: u64,
}

/// A typical reservation: 1 to 4 sites, 10 minutes to a day.
fn wish(random: &mut Random) -> (Vec<usize>, Vec<u32>, u32, u64) {
    let count = [1, 2, 2, 2, 3, 4][random.below(6) as usize];
    let sites = random.some(count, SITES);
    let members = (0..count).map(|_| 1 + random.below(16) as u32).collect();
    (sites, members, 1_000 + random.below(20_000) as u32, random.log_between(600.0, 86_400.0))
}

impl World {
    /// Empty, and of such a size that `count` wishes fill it to the load.
    fn new(count: usize) -> Result<Self> {
        let mut random = Random(1);
        let samples = 100_000.min(count);
        let (mut nodes, mut link, mut uplink) = (0.0, 0.0, 0.0);
        for _ in 0..samples {
            let (sites, members, rate, duration) = wish(&mut random);
            let duration = duration as f64;
            nodes += members.iter().map(|n| f64::from(*n)).sum::<f64>() * duration;
            let pairs = (sites.len() * (sites.len() - 1) / 2) as f64;
            link += pairs * f64::from(rate) * duration;
            uplink += 2.0 * pairs * f64::from(rate) * duration;
        }
        let each =
            |sum: f64, of: usize| sum / samples as f64 * count as f64 / YEAR_S as f64 / of as f64 / LOAD;
        let places = (each(nodes, 2 * SITES) as u32).max(32);
        let link_kbit = (each(link, SITES * (SITES - 1) / 2) as u64).max(100_000);
        let uplink_kbit = (each(uplink, SITES) as u64).max(200_000);
        let names: Vec<SiteName> =
            (0..SITES).map(|n| format!("s{n:02}").parse()).collect::<Result<_, _>>()?;
        let pairs = (0..SITES).flat_map(|b| (0..b).map(move |a| (a, b)));
        let links = pairs.map(|(a, b)| (names[a].clone(), names[b].clone(), link_kbit));
        let uplinks = names.iter().map(|name| (name.clone(), uplink_kbit));
        let links = StaticLinks::new(links, uplinks, Duration::from_secs(60))?;
        let mut book = Book::default();
        for (number, name) in names.iter().enumerate() {
            book.set_capacity(name, &[places, places]);
            // Every second site has the range of the one before it.
            book.set_addresses(name, &[format!("10.{}.0.0/16", number / 2).parse()?], &[]);
        }
        let candidates = names
            .iter()
            .map(|name| Candidate { site: name.clone(), warm: name.as_str() < "s08", most: u32::MAX })
            .collect();
        Ok(Self { names, candidates, book, links, places, link_kbit })
    }

    fn plan(
        &self,
        placement: &Placement,
        rates: &Rates,
        span: (u64, u64),
        duration: u64,
    ) -> Result<Plan, NoPlan> {
        let request = Request {
            placement,
            candidates: &self.candidates,
            sites_max: 9,
            rates,
            now: 0,
            earliest: span.0,
            latest: span.1,
            duration,
            lead: LEAD_S,
            tail: TAIL_S,
        };
        self.book.plan(&request, &self.links)
    }

    fn named(&self, sites: &[usize], members: &[u32]) -> Placement {
        Placement::Sites(sites.iter().zip(members).map(|(site, n)| (self.names[*site].clone(), *n)).collect())
    }

    /// Fills it by planning and taking, as the GRC does. How long that took, and how many wishes
    /// were refused on the way.
    fn fill(&mut self, records: &mut [Record]) -> Result<(Duration, usize)> {
        let mut random = Random(2);
        let begin = processor_time();
        let mut refused = 0;
        for (id, record) in records.iter_mut().enumerate() {
            loop {
                let (sites, members, rate_kbit, duration) = wish(&mut random);
                let start = LEAD_S + random.below(YEAR_S);
                let (placement, rates) = (self.named(&sites, &members), Rates::Between(rate_kbit));
                // Within an hour, or not: a no looks for other starts and would take most of the time.
                let Ok(plan) = self.plan(&placement, &rates, (start, start + 3600), duration) else {
                    refused += 1;
                    continue;
                };
                if plan.parts.iter().any(|part| part.blocks.len() > 1) {
                    continue;
                }
                self.take(id as u64, &plan)?;
                *record = Record {
                    start: plan.window.start() as u32,
                    duration: duration as u32,
                    rate_kbit,
                    parts: plan.parts.len() as u32,
                    ..Record::default()
                };
                for (n, part) in plan.parts.iter().enumerate() {
                    record.sites[n] = sites[n] as u8;
                    record.layers[n] = part.layer as u8;
                    record.members[n] = part.members as u16;
                    record.blocks[n] = part.blocks[0].first.into();
                }
                break;
            }
        }
        Ok((processor_time().saturating_sub(begin), refused))
    }

    fn take(&mut self, id: u64, plan: &Plan) -> Result<()> {
        self.book.take(id, plan)?;
        if !plan.pairs.is_empty() {
            let (connection, version) = (Connection(id), Version(1));
            let criteria = Criteria { window: plan.window, pairs: plan.pairs.clone() };
            self.links.request(Duration::ZERO, connection, Operation::Reserve { version, criteria });
            self.links.request(Duration::ZERO, connection, Operation::Commit { version });
        }
        Ok(())
    }

    /// A record as the book takes it; rates are the network's.
    fn plan_of(&self, record: &Record) -> Option<Plan> {
        let window = Window::lasting(record.start.into(), record.duration.into())?;
        let part = |n: usize| Part {
            site: self.names[usize::from(record.sites[n])].clone(),
            members: record.members[n].into(),
            layer: record.layers[n].into(),
            blocks: vec![AddressBlock { first: record.blocks[n].into(), count: record.members[n].into() }],
        };
        let parts = (0..record.parts as usize).map(part).collect();
        Some(Plan { window, addresses: window.widened(LEAD_S, TAIL_S), parts, pairs: Vec::new() })
    }

    /// The same as the network takes it.
    fn criteria_of(&self, record: &Record) -> Option<Criteria> {
        let window = Window::lasting(record.start.into(), record.duration.into())?;
        let sites = record.sites[..record.parts as usize].iter();
        let sites: Vec<&SiteName> = sites.map(|site| &self.names[usize::from(*site)]).collect();
        let pairs = Rates::Between(record.rate_kbit).among(&sites);
        (!pairs.is_empty()).then_some(Criteria { window, pairs })
    }

    /// Puts everything back from plain records: how long the book took, and the links.
    fn load(&mut self, records: &[Record], from: &World) -> [Duration; 2] {
        let begin = processor_time();
        let plans = (0..).zip(records);
        self.book.restore_all(plans.clone().filter_map(|(id, record)| Some((id, from.plan_of(record)?))));
        let between = processor_time();
        self.links.restore_all(
            plans.filter_map(|(id, record)| Some((Connection(id), Version(1), from.criteria_of(record)?))),
        );
        [between.saturating_sub(begin), processor_time().saturating_sub(between)]
    }
}

/// What this thread had of a processor: on a machine that others use as well, a clock on the wall
/// would show now and then how long they had it.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Answers of one kind of question.
#[derive(Default)]
struct Times {
    yes: Vec<Duration>,
    no: Vec<Duration>,
}

impl Times {
    fn rows(mut self, name: &str, rows: &mut Vec<Vec<String>>) {
        for (times, answer) in [(&mut self.yes, "found"), (&mut self.no, "refused")] {
            times.sort_unstable();
            let at = |part: f64| match times
                .get(((times.len() as f64 * part) as usize).min(times.len().max(1) - 1))
            {
                Some(time) => format!("{:.1}", time.as_secs_f64() * 1e6),
                None => String::new(),
            };
            if !times.is_empty() {
                let cells = [at(0.5), at(0.99), at(1.0)];
                rows.push(
                    [vec![format!("{name}, {answer}"), times.len().to_string()], cells.to_vec()].concat(),
                );
            }
        }
    }
}

fn ask(
    world: &World,
    count: usize,
    mut question: impl FnMut(&mut Random) -> (Placement, Rates, u64, u64),
) -> Times {
    let mut random = Random(3);
    let mut times = Times::default();
    for round in 0..count + count / 10 {
        let (placement, rates, duration, wait) = question(&mut random);
        let from = LEAD_S + random.below(YEAR_S - WAIT_S);
        let begin = processor_time();
        let answer = world.plan(&placement, &rates, (from, from + wait), duration);
        let time = processor_time().saturating_sub(begin);
        // The first tenth warms up.
        if round >= count / 10 {
            if answer.is_ok() { &mut times.yes } else { &mut times.no }.push(time);
        }
    }
    times
}

/// One profile, one question and if it fits one charge: how many a second, and how many fitted.
fn decisions(count: usize) -> (f64, f64) {
    let mut random = Random(4);
    let wishes: Vec<(Window, u64)> = (0..count)
        .filter_map(|_| {
            let window = Window::lasting(random.below(YEAR_S), random.log_between(600.0, 604_800.0))?;
            Some((window, 1 + random.below(16)))
        })
        .collect();
    // What all of them would take on average: towards the end some are refused.
    let sum: u64 = wishes.iter().map(|(window, amount)| window.seconds() * amount).sum();
    let capacity = sum / YEAR_S;
    let mut profile = Profile::default();
    let mut fitted = 0;
    let begin = processor_time();
    for (window, amount) in &wishes {
        if profile.max(*window) + amount <= capacity {
            profile.add(*window, *amount);
            fitted += 1;
        }
    }
    let time = processor_time().saturating_sub(begin);
    (count as f64 / time.as_secs_f64(), f64::from(fitted) / count as f64)
}

/// Measures and prints. `count` is that of live reservations, `questions` that of each kind.
pub fn run(count: usize, questions: usize) -> Result<String> {
    ensure!((1_000..=4_000_000).contains(&count), "1,000 to 4,000,000 reservations");
    // There before the memory is looked at first.
    let mut records = vec![Record { parts: 1, ..Record::default() }; count];
    let resident = || kib_of("/proc/self/status", "VmRSS").context("no VmRSS");
    let before = resident()?;
    let mut world = World::new(count)?;
    let (filling, refused) = world.fill(&mut records)?;
    let grown = (resident()?.saturating_sub(before)) as f64 / 1024.0;

    let mut rows = vec![row(["question, over a window of 30 days", "answers", "p50 us", "p99 us", "max us"])];
    let small = |random: &mut Random| {
        let (sites, members, rate, duration) = wish(random);
        (world.named(&sites, &members), Rates::Between(rate), duration, WAIT_S)
    };
    ask(&world, questions, small).rows("1 to 4 sites, like those that are there", &mut rows);
    // 8 of 16 sites, a part of each and of the 28 links between them, 2 hours.
    let large = |part: f64, wait: u64| {
        let (places, rate) = (f64::from(world.places) * part, world.link_kbit as f64 * part * 0.4);
        let (world, members, rate) = (&world, [places as u32; 8], Rates::Between(rate as u32));
        move |random: &mut Random| (world.named(&random.some(8, SITES), &members), rate.clone(), 7_200, wait)
    };
    for percent in [25, 40, 55, 70] {
        let name = format!(
            "8 sites, 28 links, {percent} % of each site's layer, {} % of each link",
            percent * 2 / 5
        );
        ask(&world, questions, large(f64::from(percent) / 100.0, WAIT_S)).rows(&name, &mut rows);
    }
    ask(&world, questions, large(0.4, 0)).rows("8 sites, 28 links, 40 %, at this very second", &mut rows);
    let free = |random: &mut Random| {
        let (_, _, rate, duration) = wish(random);
        let members = 1 + random.below(2 * u64::from(world.places)) as u32;
        (Placement::Anywhere(members), Rates::Between(rate), duration, WAIT_S)
    };
    ask(&world, questions, free).rows("free choice of sites, up to twice a layer", &mut rows);

    let mut restored = World::new(count)?;
    let [book, links] = restored.load(&records, &world).map(|time| time.as_secs_f64());
    ensure!(same(&world, &restored), "what was loaded is not what was there");
    let (per_second, fitted) = decisions(count / SITES);
    let (per_second_all, _) = decisions(count);
    let per = |time: Duration| count as f64 / time.as_secs_f64();
    Ok(format!(
        "{SITES} sites of 2 x {} places, {} links of {} Mbit/s, {SITES} uplinks; {count} reservations over a year, \
         load {:.0} %. All times are \
         processor time of the one thread.\n\n{}\n\
         - memory of the book and the links: {grown:.0} MiB ({:.0} bytes a reservation)\n\
         - filled by planning and taking one after the other: {:.1} s, {:.0} reservations/s ({refused} refused on the way)\n\
         - loaded from plain records at once: {:.2} s, of which {links:.2} s for the links\n\
         - decisions on one profile (the maximum over 10 minutes to a week of a year, and the charge if it fits; \
         {:.0} % did): {:.2} million/s up to {} reservations on it, {:.2} million/s up to {count}\n",
        world.places,
        SITES * (SITES - 1) / 2,
        world.link_kbit / 1000,
        LOAD * 100.0,
        table(&rows),
        grown * f64::from(1 << 20) / count as f64,
        filling.as_secs_f64(),
        per(filling),
        book + links,
        fitted * 100.0,
        per_second / 1e6,
        count / SITES,
        per_second_all / 1e6,
    ))
}

/// Whether both books say the same of each resource at all times.
fn same(one: &World, other: &World) -> bool {
    let layers = one.book.layers().zip(other.book.layers());
    let lines = one.links.lines().zip(other.links.lines());
    layers.into_iter().all(|(a, b)| a.3.points() == b.3.points())
        && lines.into_iter().all(|(a, b)| a.2.points() == b.2.points())
        && (0..12)
            .all(|month| one.book.taken_at(month * YEAR_S / 12) == other.book.taken_at(month * YEAR_S / 12))
}
