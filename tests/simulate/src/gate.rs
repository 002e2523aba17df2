//! What keeps every action behind the records that must be durable before it, in order. This is
//! what the drivers of both daemons do with what their owners return.

use std::collections::VecDeque;

#[derive(Debug)]
enum Behind<A> {
    /// Everything up to this commit must be durable before anything behind this goes on.
    Commit(u64),
    Action(A),
}

#[derive(Debug)]
pub struct Gate<A> {
    waiting: VecDeque<Behind<A>>,
    /// Commits below this are durable.
    durable: u64,
}

impl<A> Default for Gate<A> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), durable: 0 }
    }
}

impl<A> Gate<A> {
    /// A gate behind a disk whose next commit has this number.
    pub fn new(next_commit: u64) -> Self {
        Self { waiting: VecDeque::new(), durable: next_commit }
    }

    pub fn commit(&mut self, ticket: u64) {
        self.waiting.push_back(Behind::Commit(ticket));
    }

    pub fn action(&mut self, action: A) {
        self.waiting.push_back(Behind::Action(action));
    }

    /// Everything up to this commit is durable.
    pub fn durable(&mut self, ticket: u64) {
        self.durable = self.durable.max(ticket + 1);
    }

    /// The next action that may be performed now.
    pub fn release(&mut self) -> Option<A> {
        while let Some(first) = self.waiting.pop_front() {
            match first {
                Behind::Action(action) => return Some(action),
                Behind::Commit(ticket) if ticket < self.durable => {}
                commit @ Behind::Commit(_) => {
                    self.waiting.push_front(commit);
                    return None;
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_passes_a_record_that_is_not_durable() {
        let mut gate = Gate::default();
        gate.action('a');
        gate.commit(0);
        gate.action('b');
        gate.commit(1);
        gate.action('c');
        assert_eq!((gate.release(), gate.release()), (Some('a'), None));
        gate.durable(0);
        assert_eq!((gate.release(), gate.release()), (Some('b'), None));
        gate.durable(1);
        assert_eq!((gate.release(), gate.release()), (Some('c'), None));
    }
}
