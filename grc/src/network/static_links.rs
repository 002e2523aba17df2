//! The built-in provider: links and uplinks of fixed capacity, known from the configuration.
//!
//! A pair charges its link, and **each of its two uplinks with the sum of all pairs** of the
//! connection there: three pairs of one site share that site's one line. A site without an entry
//! has an uplink that is never short; two sites without a link between them get no rate.
//! A rate is promised each way, and all charges are symmetrical, so one profile serves both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capacity::Profile;
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};

pub use super::carriers::BadLinks;
use super::carriers::{Carriers, Rates, Uses};
use super::{
    Answer, BandwidthProvider, Confirmation, Connection, Criteria, Need, Operation, Pair, Refused, Resource,
    Summary, Version,
};

#[derive(Debug)]
struct Hold {
    version: Version,
    rates: Rates,
    /// What is charged beside the grant until the commit.
    beside: Uses,
    until: Duration,
}

/// One connection. Gone when nothing is held or granted any more.
#[derive(Debug, Default)]
struct State {
    granted: Option<(Version, Rates)>,
    held: Option<Box<Hold>>,
    /// The newest version that was asked; what is older is stale.
    newest: Version,
    provisioned: bool,
}

/// Fixed links and uplinks. The owner's records are its memory: see
/// [`BandwidthProvider::restore`].
#[derive(Debug, Default)]
pub struct StaticLinks {
    carriers: Carriers,
    connections: BTreeMap<Connection, State>,
    /// When which hold runs out.
    deadlines: BTreeSet<(Duration, Connection)>,
    /// How long a hold waits for its commit.
    hold_time: Duration,
}

impl StaticLinks {
    /// Capacities in kbit/s; of a link each way. Without any link, every rate is refused.
    ///
    /// # Errors
    /// What contradicts itself.
    pub fn new(
        links: impl IntoIterator<Item = (SiteName, SiteName, u64)>,
        uplinks: impl IntoIterator<Item = (SiteName, u64)>,
        hold_time: Duration,
    ) -> Result<Self, BadLinks> {
        let mut carriers = Carriers::default();
        for (a, b, capacity_kbit) in links {
            carriers.add_link(&a, &b, capacity_kbit)?;
        }
        for (site, capacity_kbit) in uplinks {
            carriers.add_uplink(site, capacity_kbit)?;
        }
        Ok(Self { carriers, connections: BTreeMap::new(), deadlines: BTreeSet::new(), hold_time })
    }

    /// What is used of each line over time, holds included, and its capacity.
    pub fn lines(&self) -> impl Iterator<Item = (&Resource, u64, &Profile)> {
        self.carriers.lines()
    }

    /// Puts many grants of a restart in place at once, much faster than one by one. Only for a
    /// provider that has none yet.
    pub fn restore_all(&mut self, grants: impl IntoIterator<Item = (Connection, Version, Criteria)>) {
        debug_assert!(self.connections.is_empty());
        for (connection, version, criteria) in grants {
            let state = State::granted(version, self.known(&criteria));
            self.connections.insert(connection, state);
        }
        let all = self.connections.values().filter_map(|state| state.granted.as_ref());
        self.carriers.charge_all(all.map(|(_, rates)| rates));
    }

    /// As much of it as there are links for; one that the configuration lost carries nothing.
    fn known(&self, criteria: &Criteria) -> Rates {
        let pairs = criteria.pairs.iter().filter_map(|pair| self.carriers.link(pair).ok());
        Rates { window: criteria.window, pairs: pairs.collect() }
    }

    fn granted(&self, connection: Connection) -> Option<&(Version, Rates)> {
        self.connections.get(&connection)?.granted.as_ref()
    }

    fn held(&self, connection: Connection) -> Option<&Hold> {
        self.connections.get(&connection)?.held.as_deref()
    }

    fn reserve(
        &mut self,
        now: Duration,
        connection: Connection,
        version: Version,
        criteria: &Criteria,
    ) -> Result<Answer, Refused> {
        let rates = self.carriers.rates(criteria)?;
        if self.held(connection).is_some_and(|hold| hold.version == version && hold.rates == rates) {
            return Ok(Answer::Held { version });
        }
        if self.granted(connection).is_some_and(|(granted, same)| *granted == version && *same == rates) {
            return Ok(Answer::Committed { version });
        }
        if let Some(state) = self.connections.get_mut(&connection) {
            if version <= state.newest {
                return Err(Refused::Stale { newest: state.newest });
            }
            state.newest = version;
            self.drop_hold(connection);
        }
        let beside = self.carriers.beside(self.granted(connection).map(|(_, rates)| rates), &rates)?;
        self.carriers.charge(&beside);
        let until = now + self.hold_time;
        self.deadlines.insert((until, connection));
        let state = self.connections.entry(connection).or_default();
        state.newest = version;
        state.held = Some(Box::new(Hold { version, rates, beside, until }));
        Ok(Answer::Held { version })
    }

    /// Gives a hold back, if there is one. The grant stays; without one, so does nothing.
    fn drop_hold(&mut self, connection: Connection) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        if let Some(hold) = state.held.take() {
            self.deadlines.remove(&(hold.until, connection));
            self.carriers.give_back(&hold.beside);
        }
        if state.granted.is_none() {
            self.connections.remove(&connection);
        }
    }

    fn commit(&mut self, connection: Connection, version: Version) -> Answer {
        if self.granted(connection).is_some_and(|(granted, _)| *granted == version) {
            return Answer::Committed { version };
        }
        let state = self.connections.get_mut(&connection);
        let hold = state.and_then(|state| state.held.take_if(|hold| hold.version == version));
        let Some(hold) = hold else {
            return Answer::CommitRefused { version, refused: Refused::NotHeld };
        };
        self.deadlines.remove(&(hold.until, connection));
        self.carriers.give_back(&hold.beside);
        if let Some((_, old)) = self.granted(connection) {
            let old = self.carriers.whole(old);
            self.carriers.give_back(&old);
        }
        self.carriers.charge(&self.carriers.whole(&hold.rates));
        let state = self.connections.entry(connection).or_default();
        state.granted = Some((version, hold.rates));
        Answer::Committed { version }
    }

    fn abort(&mut self, connection: Connection, version: Version) -> Answer {
        if let Some(hold) = self.held(connection).filter(|hold| hold.version == version) {
            if planted(Bug::BandwidthBackTwice) {
                let beside = hold.beside.clone();
                self.carriers.give_back(&beside);
            }
            self.drop_hold(connection);
        }
        Answer::Aborted { version }
    }

    fn provision(&mut self, connection: Connection, on: bool) -> Answer {
        match self.connections.get_mut(&connection).filter(|state| state.granted.is_some()) {
            Some(state) => {
                state.provisioned = on;
                if on { Answer::Provisioned } else { Answer::Released }
            }
            None => Answer::NotGranted,
        }
    }

    fn terminate(&mut self, connection: Connection) -> Answer {
        self.drop_hold(connection);
        if let Some((_, rates)) = self.connections.remove(&connection).and_then(|state| state.granted) {
            self.carriers.give_back(&self.carriers.whole(&rates));
        }
        Answer::Terminated
    }

    fn summary(&self, now: Duration, connection: Connection) -> Summary {
        let Some(state) = self.connections.get(&connection) else { return Summary::default() };
        let window = state.granted.as_ref().map(|(_, rates)| rates.window);
        let criteria = |rates| self.carriers.criteria(rates);
        Summary {
            granted: state.granted.as_ref().map(|(version, rates)| (*version, criteria(rates))),
            held: state.held.as_ref().map(|hold| (hold.version, criteria(&hold.rates))),
            provisioned: state.provisioned,
            active: state.provisioned && window.is_some_and(|window| window.contains(now.as_secs())),
        }
    }
}

impl State {
    fn granted(version: Version, rates: Rates) -> Self {
        Self { granted: Some((version, rates)), newest: version, ..Self::default() }
    }
}

impl BandwidthProvider for StaticLinks {
    fn request(&mut self, now: Duration, connection: Connection, operation: Operation) -> Vec<Confirmation> {
        // First what has run out: a hold is not committed at the very instant of its end.
        let mut confirmations = self.tick(now);
        let answer = match operation {
            Operation::Reserve { version, criteria } => self
                .reserve(now, connection, version, &criteria)
                .unwrap_or_else(|refused| Answer::Refused { version, refused }),
            Operation::Commit { version } => self.commit(connection, version),
            Operation::Abort { version } => self.abort(connection, version),
            Operation::Provision => self.provision(connection, true),
            Operation::Release => self.provision(connection, false),
            Operation::Terminate => self.terminate(connection),
            Operation::Query => Answer::Summary(self.summary(now, connection)),
        };
        confirmations.push(Confirmation { connection, answer });
        confirmations
    }

    fn tick(&mut self, now: Duration) -> Vec<Confirmation> {
        let mut confirmations = Vec::new();
        while let Some((_, connection)) = self.deadlines.first().copied().filter(|(until, _)| *until <= now) {
            self.deadlines.pop_first();
            let version = self.held(connection).map_or(Version::default(), |hold| hold.version);
            self.drop_hold(connection);
            confirmations.push(Confirmation { connection, answer: Answer::TimedOut { version } });
        }
        confirmations
    }

    fn next_wake(&self) -> Option<Duration> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    fn needs(&self, pairs: &[Pair]) -> Result<Vec<Need<'_>>, Refused> {
        let pairs = pairs.iter().map(|pair| self.carriers.link(pair)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.carriers.needs(&pairs))
    }

    fn blocked(&self, connection: Connection, criteria: &Criteria) -> Option<Refused> {
        let granted = self.granted(connection).map(|(_, rates)| rates);
        let rates = self.carriers.rates(criteria);
        rates.and_then(|rates| self.carriers.beside(granted, &rates)).err()
    }

    fn restore(&mut self, connection: Connection, version: Version, criteria: Criteria) {
        if self.connections.get(&connection).is_some_and(|state| state.newest >= version) {
            return;
        }
        self.terminate(connection);
        let rates = self.known(&criteria);
        self.carriers.charge(&self.carriers.whole(&rates));
        self.connections.insert(connection, State::granted(version, rates));
    }

    fn forget_before(&mut self, second: u64) {
        self.carriers.forget_before(second);
    }
}
