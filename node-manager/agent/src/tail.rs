//! What of one stream of a command is sent and not saved yet: kept, so that it can be sent again.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::limits::{OUTPUT_AHEAD_BYTES_MAX, OUTPUT_CHUNK_BYTES_MAX};

/// Holds at most [`OUTPUT_AHEAD_BYTES_MAX`], provided that nothing is pushed beyond [`Tail::room`].
#[derive(Debug, Default)]
pub struct Tail {
    /// Offset of the first byte that is kept.
    saved: u64,
    unsaved: VecDeque<u8>,
}

impl Tail {
    /// Offset of the next byte of the stream.
    pub fn end(&self) -> u64 {
        self.saved + self.unsaved.len() as u64
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.unsaved.len()
    }

    /// Whether everything is saved.
    pub fn is_empty(&self) -> bool {
        self.unsaved.is_empty()
    }

    /// How many bytes may be sent before more is saved.
    pub fn room(&self) -> usize {
        usize::try_from(OUTPUT_AHEAD_BYTES_MAX).unwrap_or(usize::MAX).saturating_sub(self.len())
    }

    /// These follow.
    pub fn push(&mut self, bytes: &[u8]) {
        self.unsaved.extend(bytes);
    }

    /// Everything in front of `upto` is saved. Never goes back, nor beyond what was sent.
    pub fn save(&mut self, upto: u64) {
        let more = upto.saturating_sub(self.saved).min(self.len() as u64);
        self.saved += more;
        self.unsaved.drain(..more as usize);
    }

    /// Nothing follows: no more memory than needed.
    pub fn close(&mut self) {
        self.unsaved.shrink_to_fit();
    }

    /// What to send again, in messages that are not too long: offset and bytes.
    pub fn unsaved(&self) -> Vec<(u64, Bytes)> {
        let (first, second) = self.unsaved.as_slices();
        let mut offset = self.saved;
        let mut chunks = Vec::new();
        for chunk in first.chunks(OUTPUT_CHUNK_BYTES_MAX).chain(second.chunks(OUTPUT_CHUNK_BYTES_MAX)) {
            chunks.push((offset, Bytes::copy_from_slice(chunk)));
            offset += chunk.len() as u64;
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Push(usize),
        Save(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            (1..200_000usize).prop_map(Act::Push),
            (0..900_000u64).prop_map(Act::Save),
            Just(Act::Save(u64::MAX)),
        ];
        proptest::collection::vec(act, 0..40)
    }

    proptest! {
        /// Against a list of all bytes that ever were: what is not saved comes back, exactly.
        #[test]
        fn what_is_not_saved_can_be_sent_again_and_nothing_else(acts in acts()) {
            let mut tail = Tail::default();
            let (mut all, mut saved) = (Vec::new(), 0);
            for act in acts {
                match act {
                    Act::Push(length) => {
                        let length = length.min(tail.room());
                        let bytes: Vec<u8> = (0..length).map(|n| ((all.len() + n) % 251) as u8).collect();
                        tail.push(&bytes);
                        all.extend(bytes);
                    }
                    Act::Save(upto) => {
                        tail.save(upto);
                        saved = saved.max(usize::try_from(upto).unwrap_or(usize::MAX).min(all.len()));
                    }
                }
                prop_assert_eq!(tail.end(), all.len() as u64);
                prop_assert_eq!(tail.len(), all.len() - saved);
                prop_assert!(tail.len() as u64 <= OUTPUT_AHEAD_BYTES_MAX);
                let mut again = Vec::new();
                for (offset, bytes) in tail.unsaved() {
                    prop_assert_eq!(offset, (saved + again.len()) as u64);
                    prop_assert!((1..=OUTPUT_CHUNK_BYTES_MAX).contains(&bytes.len()));
                    again.extend_from_slice(&bytes);
                }
                prop_assert_eq!(&again, &all[saved..]);
            }
        }
    }
}
