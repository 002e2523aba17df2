//! A GRC that wants one reservation through and says what is due as often as it must.

use protocol::ids::{Epoch, Version};
use protocol::job::Target;
use protocol::site::{FromSite, ToSite};

use crate::world::{HOUR, J, R, World, commit, exec_in, hold_of, part, ring, start};
use crm::site::Event;

pub struct Grc {
    pub members: u32,
    pub epoch: Epoch,
    seen: usize,
    held: bool,
    committed: bool,
    ready: bool,
    joined: bool,
    exited: u32,
    pub ended: bool,
}

const V: Version = Version(1);

impl Grc {
    pub fn new(members: u32) -> Self {
        Self {
            members,
            epoch: Epoch(1),
            seen: 0,
            held: false,
            committed: false,
            ready: false,
            joined: false,
            exited: 0,
            ended: false,
        }
    }

    /// Listens to what was said since the last time.
    fn listen(&mut self, world: &mut World) {
        let news = world.told[self.seen..].to_vec();
        self.seen = world.told.len();
        for message in news {
            match message {
                FromSite::Held { version: V, .. } => self.held = true,
                FromSite::Committed { version: V, .. } => self.committed = true,
                FromSite::Asks { version: V, .. } if self.held => world.say(commit(V, HOUR)),
                FromSite::SiteReady { epoch, .. } if epoch == self.epoch => self.ready = true,
                FromSite::Joined { epoch, .. } if epoch == self.epoch => self.joined = true,
                FromSite::Failed { epoch, .. } if epoch == self.epoch => {
                    self.epoch = Epoch(epoch.0 + 1);
                    (self.ready, self.joined, self.exited) = (false, false, 0);
                }
                FromSite::Exited { epoch, job, member, .. }
                | FromSite::ExecFailed { epoch, job, member, .. }
                    if epoch == self.epoch =>
                {
                    self.exited |= 1 << member;
                    let saved = ToSite::ExitSaved { reservation: R, epoch, job, member };
                    world.say(Event::Grc(saved));
                }
                FromSite::Ended { .. } => self.ended = true,
                FromSite::Lost { .. } => panic!("a grant was lost: {:?}", world.told),
                _ => {}
            }
        }
    }

    /// One thing that is due, on a new connection if the site has none.
    pub fn round(&mut self, world: &mut World) {
        if std::mem::take(&mut world.cut) {
            world.say(Event::GrcConnected);
        }
        self.listen(world);
        let all_exited = self.exited == (1 << self.members) - 1;
        let message = match (self.held, self.committed, self.ready, self.joined, all_exited) {
            (false, ..) => hold_of(R, V, part(self.members)),
            (_, false, ..) => commit(V, HOUR),
            (_, _, false, ..) => start(self.epoch),
            (_, _, _, false, _) => match ring(&world.told) {
                Some(ring) => Event::Grc(ToSite::Join { reservation: R, epoch: self.epoch, ring }),
                None => start(self.epoch),
            },
            (_, _, _, _, false) => exec_in(self.epoch, J, Target::All),
            _ => Event::Grc(ToSite::End { reservation: R }),
        };
        world.say(message);
        world.run_commands();
        self.listen(world);
    }
}
