//! The first bytes of redb's file (its design.md, "Database header"; format 3): which of two slots
//! holds the newest commit. One unprotected byte, the "god byte", says so, and redb believes it.
//! Here it is not believed alone: the newer of two whole slots is taken, and one that had been
//! finished is never left for an older one.

use std::ops::Range;

use twox_hash::XxHash3_128;

/// What of a file is looked at here.
pub const HEADER_BYTES: usize = 320;

const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
const GOD_BYTE: usize = 9;
const PRIMARY_BIT: u8 = 1;
const RECOVERY_REQUIRED: u8 = 2;
const TWO_PHASE_COMMIT: u8 = 4;
const SLOTS: [Range<usize>; 2] = [64..192, 192..320];
/// Within a slot.
const TRANSACTION: Range<usize> = 104..112;
const CHECKSUM: Range<usize> = 112..128;

pub struct Header {
    bytes: [u8; HEADER_BYTES],
}

impl Header {
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Option<Header> {
        bytes.starts_with(&MAGIC).then_some(Header { bytes })
    }

    fn primary(&self) -> &[u8] {
        &self.bytes[SLOTS[usize::from(self.bytes[GOD_BYTE] & PRIMARY_BIT)].clone()]
    }

    /// Number of the newest commit that was finished: the slot's that the god byte names. `None`
    /// if that slot does not match its checksum; it was on disk before it was named, so that is
    /// damage and no torn write.
    pub fn finished(&self) -> Option<u64> {
        let slot = self.primary();
        let sum = XxHash3_128::oneshot(&slot[..CHECKSUM.start]).to_le_bytes();
        let number = slot[TRANSACTION].try_into().map(u64::from_le_bytes).ok()?;
        (slot[CHECKSUM] == sum).then_some(number)
    }

    /// The god byte as it makes redb verify every page, and take the newer slot if it is whole.
    pub fn to_be_verified(&self) -> (u64, u8) {
        (GOD_BYTE as u64, (self.bytes[GOD_BYTE] | RECOVERY_REQUIRED) & !TWO_PHASE_COMMIT)
    }
}
