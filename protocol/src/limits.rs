//! Every maximum of the protocol, in one place, with the relations between them
//! checked at compile time. Units stand last in a name.

/// Bytes of the fixed header in front of every frame.
pub const HEADER_BYTES: usize = 16;
/// Longest body of one frame, in any conversation.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What decoding one body may allocate. The codec charges `length * size_of` before it
/// allocates, and in memory a value is larger than on the wire, hence the factor.
pub const DECODE_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;
/// A body of at most this many bytes is small: nearly every message, and every message of a
/// peer that is not known yet.
pub const SMALL_BODY_BYTES: usize = 64 * 1024;
/// What decoding a small body may allocate. The codec charges 8 bytes for a number or a length
/// that takes one on the wire, hence the factor: no body is refused for it that would fit.
pub const SMALL_DECODE_BYTES_MAX: usize = 8 * SMALL_BODY_BYTES;
/// Bytes that may wait for one peer, bookkeeping included; more, and it is given up. It bounds
/// what a stopped or slow peer costs.
pub const OUTBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of these, what a sender of bulk (a log) may fill: news always find room beside it.
pub const OUTBOX_BULK_BYTES_MAX: usize = 1024 * 1024;

/// Members of one reservation over all sites.
pub const MEMBERS_MAX: usize = 4096;
/// Nodes that one site may publish.
pub const NODES_PER_SITE_MAX: usize = 16_384;
/// Sites of one grid.
pub const SITES_MAX: usize = 1024;
/// Ranges that one site may publish.
pub const RANGES_PER_SITE_MAX: usize = 64;
/// Largest encoding of one member in a key ring, and of one node in an offer whose reason keeps to
/// one short sentence, as it should.
pub const MEMBER_BYTES_MAX: usize = 256;
/// Address blocks in the carve of one part.
pub const BLOCKS_PER_PART_MAX: usize = 256;
/// Addresses inside its ranges that one site may keep for machines.
pub const RESERVED_PER_SITE_MAX: usize = 65_536;
/// Environments that one site may name.
pub const ENVIRONMENTS_PER_SITE_MAX: usize = 4096;

/// Bytes of a command's arguments and of its variables, together.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Arguments, and likewise variables, of one command.
pub const ARGUMENTS_MAX: usize = 16_384;
/// Arguments, and likewise variables, that are decoded at all: somewhat more than are accepted,
/// so that one who sends too many is told so rather than cut off.
pub const ARGUMENTS_DECODED_MAX: usize = 4 * ARGUMENTS_MAX;
/// Directories that a command names to start in.
pub const DIRECTORIES_MAX: usize = 4;
/// Bytes of an encoded grant, and likewise of encoded rates.
pub const GRANT_BYTES_MAX: usize = 512;
/// Bandwidth classes of one sandbox.
pub const CLASSES_MAX: usize = 8;
/// Bytes of an ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of a public key, and likewise of a signature, of somebody who logs in: RSA with 8192 bits and
/// room beside it.
pub const LOGIN_PIECE_BYTES_MAX: usize = 1536;
/// Longest message of somebody who has not logged in.
pub const LOGIN_BYTES_MAX: usize = 4 * 1024;
/// Largest number of a signal that can be sent. Real-time signals, which begin above, are queued by
/// the kernel one by one and mean what a program's libraries agreed on: they are not passed on.
pub const SIGNAL_MAX: u8 = 31;
/// Bytes of one path.
pub const PATH_BYTES_MAX: usize = 4096;
/// Bytes of output in one message.
pub const OUTPUT_CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Output that a node sends ahead of the acknowledgement, per command and stream. It bounds
/// what the CRM and the GRC hold in memory whatever a command prints.
pub const OUTPUT_AHEAD_BYTES_MAX: u64 = 256 * 1024;
/// Commands that run on one member at once, and signals on their way to them.
pub const COMMANDS_MAX: usize = 4096;
/// Requests that a node keeps because it cannot begin or answer them yet: of those that follow on
/// one another, of those for rates and of those for the end. A CRM waits for answers before that.
pub const UNANSWERED_MAX: usize = 16;
/// Ended commands whose output and end a node keeps until they are saved; beyond these, and beyond
/// [`ENDED_BYTES_MAX`] of their output, it forgets the oldest.
pub const ENDED_MAX: usize = 1024;
/// Output of ended commands that a node keeps until it is saved.
pub const ENDED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of free text (causes, hints, names given by users).
pub const TEXT_BYTES_MAX: usize = 1024;
/// Reservations or jobs in one listing.
pub const LISTING_MAX: usize = 1024;
/// Largest encoding of one job, or of one reservation without its parts, in a listing.
pub const LISTED_BYTES_MAX: usize = 6 * 1024;
/// Reasons, and likewise hints, in one explanation.
pub const REASONS_MAX: usize = 1024;
/// Slots (processes) per member.
pub const SLOTS_MAX: u32 = 4096;
/// Longest lifetime of a reservation, seconds (30 days).
pub const DURATION_S_MAX: u32 = 30 * 24 * 3600;
/// Smallest and largest rate that can be asked between two sites, kbit/s (64 kbit/s to 100 Gbit/s).
pub const RATE_KBIT_MIN: u32 = 64;
pub const RATE_KBIT_MAX: u32 = 100_000_000;
/// Pairs of sites in one reservation that have a rate.
pub const PAIRS_MAX: usize = 512;
/// Sites that one part sends to at a rate: each is a class of every sandbox of the part.
pub const PEERS_MAX: usize = 8;
/// How far ahead a window may begin, seconds (366 days).
pub const HORIZON_S_MAX: u64 = 366 * 24 * 3600;
/// Layers of a site: sandboxes of different reservations that its roomiest node takes at once.
pub const LAYERS_MAX: usize = 256;
/// Points of a series of used bandwidth in one answer.
pub const USAGE_POINTS_MAX: usize = 16_384;
/// Other starts that a refusal proposes.
pub const ALTERNATIVES_MAX: usize = 3;
/// Bytes of the invocation that a pilot is started with.
pub const INVOCATION_BYTES_MAX: usize = 4096;

const _: () = assert!(MEMBERS_MAX * MEMBER_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(NODES_PER_SITE_MAX * MEMBER_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(LISTING_MAX * LISTED_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(RESERVED_PER_SITE_MAX * 4 <= FRAME_BYTES_MAX);
const _: () = assert!(MEMBERS_MAX <= NODES_PER_SITE_MAX);
const _: () = assert!(SMALL_DECODE_BYTES_MAX < DECODE_BYTES_MAX);
const _: () = assert!(OUTPUT_CHUNK_BYTES_MAX + SMALL_BODY_BYTES <= OUTBOX_BULK_BYTES_MAX);
const _: () = assert!(OUTBOX_BYTES_MAX >= 4 * FRAME_BYTES_MAX);
const _: () = assert!(INVOCATION_BYTES_MAX <= SMALL_BODY_BYTES);
const _: () = assert!(2 * LOGIN_PIECE_BYTES_MAX + 256 <= LOGIN_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX + PATH_BYTES_MAX <= FRAME_BYTES_MAX / 4);
const _: () = assert!(OUTPUT_CHUNK_BYTES_MAX as u64 <= OUTPUT_AHEAD_BYTES_MAX);
const _: () = assert!(2 * OUTPUT_AHEAD_BYTES_MAX as usize <= ENDED_BYTES_MAX);
