//! Faults as they strike, and how they are healed.

use crate::agenda::{MS, Micros, S};
use crate::field::News;
use crate::network::End;
use crate::scenario::{Fault, Who};
use crate::world::{Happening, World};

impl World {
    pub fn fault(&mut self, number: usize) {
        let fault = self.scenario.faults[number].1.clone();
        let now = self.agenda.now();
        self.say("FAULT", || format!("{fault:?}"));
        let time = match fault {
            Fault::Crash { who, actions, .. } => {
                if let Some(fuse) = self.fuse(who) {
                    *fuse = Some(actions);
                }
                // One that does nothing dies all the same, in the end.
                3 * S
            }
            Fault::Reboot { who, down } => {
                let off = self.random.below(800) as i64 * MS as i64 - 400 * MS as i64;
                if self.is_up(who) {
                    self.dies(who, "its machine reboots", down);
                }
                match who {
                    Who::Grc => self.grc.clocks.reboot(now, off),
                    Who::Site(site) => self.sites[site].host.clocks.reboot(now, off),
                }
                down
            }
            Fault::Pause { who, time } => {
                let life = match who {
                    Who::Grc => {
                        self.grc.paused = self.grc.is_up();
                        self.grc.life
                    }
                    Who::Site(site) => {
                        let host = &mut self.sites[site].host;
                        host.paused = host.is_up();
                        let life = host.life;
                        self.is_unheard(site, time);
                        life
                    }
                };
                self.agenda.after(time, Happening::Resume { who, life });
                time
            }
            Fault::DiskFull { who, time } => {
                self.disk(who).full = true;
                time
            }
            Fault::DiskError { who } => {
                self.disk(who).broken = true;
                4 * S
            }
            Fault::DiskSlow { who, commit, time } => {
                match who {
                    Who::Grc => self.grc.commit = commit,
                    Who::Site(site) => self.sites[site].host.commit = commit,
                }
                time
            }
            Fault::WallClock { who, by_s } => {
                let by = by_s * S as i64;
                match who {
                    Who::Grc => self.grc.clocks.set_wall(by),
                    Who::Site(site) => self.sites[site].host.clocks.set_wall(by),
                }
                self.rewake(who);
                0
            }
            Fault::Cut { site, up, down, time } => {
                self.cut(site, up, down, time);
                time
            }
            Fault::Break { site } => {
                self.break_off(site);
                2 * S
            }
            Fault::NodeDies { site, node, leaves } => {
                let there = self.on_node(site, node);
                for process in there {
                    self.field_news(site, News::Dies(process, leaves));
                }
                2 * S
            }
            Fault::AgentCut { site, node, time } => {
                for process in self.on_node(site, node) {
                    self.sites[site].field.processes[process].cut_until = now + time;
                    let (first, second) = (self.random.below(8_000) * MS, self.random.below(8_000) * MS);
                    self.agenda.after(first, Happening::Field { site, news: News::LostByCrm(process) });
                    self.agenda.after(second, Happening::Field { site, news: News::LostByAgent(process) });
                }
                10 * S + time
            }
        };
        self.lasting.insert(number);
        self.agenda.at(now + time, Happening::Heals { number });
    }

    pub fn heals(&mut self, number: usize) {
        match self.scenario.faults[number].1.clone() {
            Fault::Crash { who, actions: _, down } if self.fuse(who).is_some_and(|fuse| fuse.is_some()) => {
                self.dies(who, "it is killed", down);
            }
            Fault::DiskFull { who, .. } => self.disk(who).full = false,
            Fault::DiskError { who } => self.disk(who).broken = false,
            Fault::DiskSlow { who: Who::Grc, .. } => self.grc.commit = 5 * MS,
            Fault::DiskSlow { who: Who::Site(site), .. } => self.sites[site].host.commit = 5 * MS,
            Fault::Cut { site, up, down, .. } => {
                let now = self.agenda.now();
                for (direction, connection, message) in self.sites[site].link.heal(up, down) {
                    let late = now + self.random.below(3_000) * MS;
                    let late = self.sites[site].link.in_order(direction, late);
                    self.agenda.at(late, Happening::Arrives { site, connection, message });
                }
                // Who still has a connection that the other end has given up gets a reset now.
                let link = &self.sites[site].link;
                let (at_site, at_grc) = (link.at_site, link.at_grc.clone());
                if let Some(connection) = at_site.filter(|one| !at_grc.contains(one)) {
                    self.agenda.after(S, Happening::Notices { site, end: End::Site, connection });
                }
                for connection in at_grc.into_iter().filter(|one| at_site != Some(*one)) {
                    self.agenda.after(S, Happening::Notices { site, end: End::Grc, connection });
                }
            }
            _ => {}
        }
        self.lasting.remove(&number);
        self.calm_since = self.agenda.now();
    }

    fn cut(&mut self, site: usize, up: bool, down: bool, time: Micros) {
        let link = &mut self.sites[site].link;
        link.cut(up, down);
        // Either end gives a silent connection up after a while, if the cut still lasts then.
        let mut there = link.at_grc.clone();
        there.extend(link.at_site);
        there.dedup();
        for connection in there {
            for end in [End::Site, End::Grc] {
                let after = self.random.between(5_000, 20_000) * MS;
                if after < time {
                    self.agenda.after(after, Happening::Notices { site, end, connection });
                }
            }
        }
    }

    fn on_node(&self, site: usize, node: usize) -> Vec<usize> {
        let processes = self.sites[site].field.processes.iter().enumerate();
        let there = processes.filter(|(_, one)| one.node == node && one.started && !one.ended);
        there.map(|(number, _)| number).collect()
    }

    fn fuse(&mut self, who: Who) -> Option<&mut Option<u32>> {
        match who {
            Who::Grc => self.grc.is_up().then_some(&mut self.grc.fuse),
            Who::Site(site) => {
                let host = &mut self.sites[site].host;
                host.is_up().then_some(&mut host.fuse)
            }
        }
    }

    fn disk(&mut self, who: Who) -> &mut crate::store::Disk {
        match who {
            Who::Grc => &mut self.grc.disk,
            Who::Site(site) => &mut self.sites[site].host.disk,
        }
    }

    pub fn is_up(&self, who: Who) -> bool {
        match who {
            Who::Grc => self.grc.is_up(),
            Who::Site(site) => self.sites[site].host.is_up(),
        }
    }
}
