//! Every maximum of the protocol, in one place, with the relations between them
//! checked at compile time. Units stand last in a name.

/// Bytes of the fixed header in front of every frame.
pub const HEADER_BYTES: usize = 16;
/// Longest body of one frame, in any conversation.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What decoding one body may allocate. The codec charges `length * size_of` before it
/// allocates, and in memory a value is larger than on the wire, hence the factor.
pub const DECODE_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;

/// Members of one reservation over all sites.
pub const MEMBERS_MAX: usize = 4096;
/// Nodes that one site may publish.
pub const NODES_PER_SITE_MAX: usize = 16_384;
/// Sites of one grid.
pub const SITES_MAX: usize = 1024;
/// Ranges that one site may publish.
pub const RANGES_PER_SITE_MAX: usize = 64;
/// Largest encoding of one member in a key ring, or of one node in an offer.
pub const MEMBER_BYTES_MAX: usize = 256;
/// Address blocks in the carve of one part.
pub const BLOCKS_PER_PART_MAX: usize = 256;

/// Bytes of a command's arguments and of its variables, together.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Arguments, and likewise variables, of one command.
pub const ARGUMENTS_MAX: usize = 16_384;
/// Bytes of one path.
pub const PATH_BYTES_MAX: usize = 4096;
/// Bytes of output in one message.
pub const OUTPUT_CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Output that a node sends ahead of the acknowledgement, per command and stream. It bounds
/// what the CRM and the GRC hold in memory whatever a command prints.
pub const OUTPUT_AHEAD_BYTES_MAX: u64 = 256 * 1024;
/// Bytes of free text (causes, hints, names given by users).
pub const TEXT_BYTES_MAX: usize = 1024;
/// Reservations or jobs in one listing.
pub const LISTING_MAX: usize = 4096;
/// Slots (processes) per member.
pub const SLOTS_MAX: u32 = 4096;
/// Longest lifetime of a reservation, seconds (30 days).
pub const DURATION_S_MAX: u32 = 30 * 24 * 3600;
/// Bytes of the invocation that a pilot is started with.
pub const INVOCATION_BYTES_MAX: usize = 4096;

const _: () = assert!(MEMBERS_MAX * MEMBER_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(NODES_PER_SITE_MAX * MEMBER_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX + PATH_BYTES_MAX <= FRAME_BYTES_MAX / 4);
const _: () = assert!(OUTPUT_CHUNK_BYTES_MAX as u64 <= OUTPUT_AHEAD_BYTES_MAX);
