//! What one reservation has in the book: taken, changed in two steps, given back.
//!
//! ```text
//!            take, restore             hold_change
//! (nothing) ---------------> granted -------------> granted + held
//!     ^                       | ^ ^                     | |
//!     |  confirm (every site) | | +---- abort_change ---+ |
//!     +-------- over <--------+ +------ commit_change ----+
//!                     end
//! ```

use capacity::{Block, Calendar, Profile, Use, Window, extra};
use protocol::names::SiteName;
use protocol::planted::{Bug, planted};

use super::request::{Part, Plan};
use super::{Book, Layer, from_wire};

/// What cannot be booked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotTaken {
    #[error("it is booked already")]
    AlreadyBooked,
    #[error("it is not booked")]
    NotBooked,
    #[error("another reservation has one of its addresses")]
    AddressTaken,
}

/// One part, small: a grid has a million of them.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub site: u16,
    pub layer: u16,
    pub members: u32,
    /// Empty once they are given back, as are the members.
    pub blocks: Box<[Block]>,
}

#[derive(Clone, Debug)]
struct Booking {
    window: Window,
    addresses: Window,
    parts: Box<[Held]>,
}

/// A change that is not certain yet, and what is booked for it beside the grant.
#[derive(Debug)]
struct Pending {
    booking: Booking,
    places: Vec<(u16, u16, Use)>,
    blocks: Vec<(Vec<Block>, Window)>,
}

#[derive(Debug)]
pub(super) struct Entry {
    booking: Booking,
    held: Option<Box<Pending>>,
    /// Some sites have not confirmed the end.
    over: bool,
}

impl Entry {
    pub fn window(&self) -> Window {
        self.booking.window
    }

    pub fn addresses(&self) -> Window {
        self.booking.addresses
    }

    pub fn parts(&self) -> &[Held] {
        &self.booking.parts
    }
}

impl Held {
    fn places(&self, window: Window) -> Use {
        Use { window, amount: u64::from(self.members) }
    }
}

impl Book {
    /// Books a plan that was made of this very book. Nothing is booked if it fails.
    ///
    /// # Errors
    /// The reservation has something already, or an address is taken: the plan is an old one.
    pub fn take(&mut self, reservation: u64, plan: &Plan) -> Result<(), NotTaken> {
        if self.entries.contains_key(&reservation) {
            return Err(NotTaken::AlreadyBooked);
        }
        let booking = self.booking(plan);
        let free = |block: &Block| self.calendar.is_free(*block, booking.addresses);
        let all_free = booking.parts.iter().flat_map(|part| &part.blocks).all(free);
        if !all_free && !planted(Bug::CarvePerSite) {
            return Err(NotTaken::AddressTaken);
        }
        self.charge(&booking);
        booking.parts.iter().for_each(|part| self.go_round(part));
        self.entries.insert(reservation, Entry { booking, held: None, over: false });
        Ok(())
    }

    /// After a restart: this is granted, and this change of it is held. Whether there is room is
    /// not asked, for it is taken already. Repeating it changes nothing.
    pub fn restore(&mut self, reservation: u64, plan: &Plan, held: Option<&Plan>) -> Result<(), NotTaken> {
        match self.take(reservation, plan) {
            Err(NotTaken::AlreadyBooked) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => held.map_or(Ok(()), |held| self.hold_change(reservation, held)),
        }
    }

    /// Restores many grants at once, much faster than one by one. Only for a book in which
    /// nothing is booked yet. Ids must differ.
    pub fn restore_all(&mut self, grants: impl IntoIterator<Item = (u64, Plan)>) {
        let mut uses: Vec<Vec<Vec<(Window, u64)>>> = Vec::new();
        let mut takes: Vec<(Block, Window)> = Vec::new();
        let grants = grants.into_iter();
        self.entries.reserve(grants.size_hint().0);
        for (reservation, plan) in grants {
            let booking = self.booking(&plan);
            for part in &booking.parts {
                let (site, layer) = (usize::from(part.site), usize::from(part.layer));
                uses.resize_with(uses.len().max(site + 1), Vec::new);
                let of_site = &mut uses[site];
                of_site.resize_with(of_site.len().max(layer + 1), Vec::new);
                of_site[layer].push((booking.window, u64::from(part.members)));
                takes.extend(part.blocks.iter().map(|block| (*block, booking.addresses)));
                self.go_round(part);
            }
            self.entries.insert(reservation, Entry { booking, held: None, over: false });
        }
        self.calendar = Calendar::of(takes);
        for (site, layers) in uses.into_iter().enumerate() {
            for (number, uses) in layers.into_iter().enumerate() {
                layer(&mut self.sites[site].layers, number).used = Profile::of(uses);
            }
        }
    }

    /// Everything of it by index. Sites that nobody has spoken of yet become known, without nodes.
    fn booking(&mut self, plan: &Plan) -> Booking {
        let part = |part: &Part| Held {
            site: self.index_or_new(&part.site),
            layer: u16::try_from(part.layer).unwrap_or(u16::MAX),
            members: part.members,
            blocks: from_wire(&part.blocks).collect(),
        };
        let parts = plan.parts.iter().map(part).collect();
        Booking { window: plan.window, addresses: plan.addresses, parts }
    }

    fn charge(&mut self, booking: &Booking) {
        for part in &booking.parts {
            self.add_places(part.site, part.layer, part.places(booking.window));
            self.calendar.take(&part.blocks, booking.addresses);
        }
    }

    fn discharge(&mut self, booking: &Booking) {
        for part in &booking.parts {
            self.sub_places(part.site, part.layer, part.places(booking.window));
            self.calendar.give_back(&part.blocks, booking.addresses);
        }
    }

    fn add_places(&mut self, site: u16, number: u16, places: Use) {
        let layers = &mut self.sites[usize::from(site)].layers;
        places.add_to(&mut layer(layers, usize::from(number)).used);
    }

    fn sub_places(&mut self, site: u16, number: u16, places: Use) {
        let layers = &mut self.sites[usize::from(site)].layers;
        places.take_from(&mut layer(layers, usize::from(number)).used);
    }

    /// The next carve looks behind these.
    fn go_round(&mut self, part: &Held) {
        let Some(last) = part.blocks.last() else { return };
        let next = last.last().wrapping_add(1);
        for other in self.sites[usize::from(part.site)].shared.clone() {
            self.sites[usize::from(other)].next = next;
        }
    }

    /// Books what a change needs beside the grant, so that both the old and the new are possible.
    /// A change that is held already is replaced.
    ///
    /// # Errors
    /// There is no grant, or an address that the change adds is taken. The grant stays.
    pub fn hold_change(&mut self, reservation: u64, plan: &Plan) -> Result<(), NotTaken> {
        self.abort_change(reservation);
        let booking = self.booking(plan);
        let entry = self.entries.get(&reservation).filter(|entry| !entry.over).ok_or(NotTaken::NotBooked)?;
        let old = &entry.booking;
        let (mut places, mut blocks) = (Vec::new(), Vec::new());
        for part in &booking.parts {
            let before = old.parts.iter().find(|held| held.site == part.site);
            let same_layer = before.filter(|held| held.layer == part.layer);
            let beside =
                extra(same_layer.map(|held| held.places(old.window)), Some(part.places(booking.window)));
            places.extend(beside.into_iter().map(|places| (part.site, part.layer, places)));
            let kept = |block: &&Block| before.is_some_and(|held| held.blocks.contains(block));
            let kept_blocks: Vec<Block> = part.blocks.iter().filter(kept).copied().collect();
            let new_blocks: Vec<Block> = part.blocks.iter().filter(|block| !kept(block)).copied().collect();
            let span = booking.addresses;
            let longer = [span.split(old.addresses.start()).0, span.split(old.addresses.end()).1];
            blocks.extend(longer.into_iter().flatten().map(|longer| (kept_blocks.clone(), longer)));
            blocks.push((new_blocks, span));
        }
        let free = |(blocks, span): &(Vec<Block>, Window)| {
            blocks.iter().all(|block| self.calendar.is_free(*block, *span))
        };
        if !blocks.iter().all(free) {
            return Err(NotTaken::AddressTaken);
        }
        places.iter().for_each(|&(site, layer, places)| self.add_places(site, layer, places));
        blocks.iter().for_each(|(blocks, span)| self.calendar.take(blocks, *span));
        if let Some(entry) = self.entries.get_mut(&reservation) {
            entry.held = Some(Box::new(Pending { booking, places, blocks }));
        }
        Ok(())
    }

    /// Gives back what was booked for a change. Without one it changes nothing.
    pub fn abort_change(&mut self, reservation: u64) {
        let held = self.entries.get_mut(&reservation).and_then(|entry| entry.held.take());
        if let Some(held) = held {
            self.drop_pending(&held);
        }
    }

    fn drop_pending(&mut self, held: &Pending) {
        held.places.iter().for_each(|&(site, layer, places)| self.sub_places(site, layer, places));
        held.blocks.iter().for_each(|(blocks, span)| self.calendar.give_back(blocks, *span));
    }

    /// The change is the grant now; what only the old one had is free.
    ///
    /// # Errors
    /// No change is held.
    pub fn commit_change(&mut self, reservation: u64) -> Result<(), NotTaken> {
        let entry = self.entries.get_mut(&reservation).ok_or(NotTaken::NotBooked)?;
        let held = entry.held.take().ok_or(NotTaken::NotBooked)?;
        let old = std::mem::replace(&mut entry.booking, held.booking.clone());
        self.drop_pending(&held);
        self.discharge(&old);
        self.charge(&held.booking);
        Ok(())
    }

    /// The reservation is over, be it before its end. What it has stays taken, place and address,
    /// until a site confirms, or until its time is over. Repeating it changes nothing.
    pub fn end(&mut self, reservation: u64) {
        self.abort_change(reservation);
        if let Some(entry) = self.entries.get_mut(&reservation) {
            entry.over = true;
        }
    }

    /// A site has confirmed that nothing of a reservation that is over is left: its places and
    /// addresses are free. The last one ends the entry. Repeating it, and confirming what nobody
    /// knows, changes nothing.
    pub fn confirm(&mut self, reservation: u64, site: &SiteName) {
        let Some(&index) = self.names.get(site) else { return };
        let Some(entry) = self.entries.get_mut(&reservation).filter(|entry| entry.over) else { return };
        let Booking { window, addresses, parts } = &mut entry.booking;
        let mut freed = Vec::new();
        for part in parts.iter_mut().filter(|part| part.site == index && part.members > 0) {
            freed.push((part.layer, part.places(*window)));
            let blocks = std::mem::take(&mut part.blocks);
            self.calendar.give_back(&blocks, *addresses);
            part.members = 0;
        }
        freed.into_iter().for_each(|(layer, places)| self.sub_places(index, layer, places));
        self.drop_if_empty(reservation);
    }

    fn drop_if_empty(&mut self, reservation: u64) {
        let empty = |entry: &Entry| entry.over && entry.booking.parts.iter().all(|part| part.members == 0);
        if self.entries.get(&reservation).is_some_and(empty) {
            self.entries.remove(&reservation);
        }
    }

    /// Sites of a reservation that is over which have not confirmed.
    pub fn unconfirmed(&self, reservation: u64) -> Vec<&SiteName> {
        let entry = self.entries.get(&reservation).filter(|entry| entry.over);
        let parts = entry.map_or(&[][..], |entry| entry.parts());
        let owing = parts.iter().filter(|part| part.members > 0);
        owing.map(|part| &self.sites[usize::from(part.site)].name).collect()
    }

    /// Whether anything is booked for it.
    pub fn knows(&self, reservation: u64) -> bool {
        self.entries.contains_key(&reservation)
    }
}

/// A layer of a site; one that it no longer has, or not yet, has no places.
fn layer(layers: &mut Vec<Layer>, number: usize) -> &mut Layer {
    if layers.len() <= number {
        layers.resize_with(number + 1, Layer::default);
    }
    &mut layers[number]
}
