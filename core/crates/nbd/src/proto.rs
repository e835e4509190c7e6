//! The numbers of the NBD protocol, named as its document names them (doc/proto.md of NetworkBlockDevice/nbd, with the
//! extension-ext-header branch for extended headers). All of them travel in network byte order.

/// The server's first word, "NBDMAGIC".
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Opens the newstyle greeting and every option of the client, "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Opens every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Opens a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Opens an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// No string of the protocol may be longer, in bytes.
pub const MAX_STRING: usize = 4096;
/// The smallest unit that can be addressed, in bytes. The device below reads, changes and writes where it must.
pub const MINIMUM_BLOCK: u32 = 1;
/// What requests should be multiples of: the cipher's sector.
pub const PREFERRED_BLOCK: u32 = 4096;
/// The longest payload in either direction: what the protocol calls portable, 32 MiB.
pub const MAXIMUM_PAYLOAD: u32 = 32 << 20;

/// Handshake flags of the server, and the client's answers to them, which have the same bits.
pub mod handshake_flag {
    /// Options other than EXPORT_NAME are understood.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The 124 zeros after EXPORT_NAME may be left out.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Transmission flags: what the export offers.
pub mod transmission_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is served.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag is honoured.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is served.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is served.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag is honoured; only with structured or extended replies.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is served.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The FAST_ZERO flag is honoured.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// BLOCK_STATUS takes a payload that chooses contexts; only with extended headers.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Options of the client.
pub mod option {
    /// Choose an export and end the haggling, without a way to say no.
    pub const EXPORT_NAME: u32 = 1;
    /// Give up.
    pub const ABORT: u32 = 2;
    /// Name the exports.
    pub const LIST: u32 = 3;
    /// Turn to TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and end the haggling.
    pub const GO: u32 = 7;
    /// Reply in chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Name the metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use 32-byte headers with 64-bit lengths.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export's name.
    pub const SERVER: u32 = 2;
    /// Something about an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    /// The option's data make no sense, or not now.
    pub const ERR_INVALID: u32 = 0x8000_0003;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    /// The server is ending.
    pub const ERR_SHUTDOWN: u32 = 0x8000_0007;
    /// The option's data are too long.
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
    /// Extended headers are on, and cannot be gone back on.
    pub const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;
}

/// Kinds of information in a reply to INFO and GO.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// Text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Block size constraints.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Commands of the transmission phase.
pub mod command {
    /// Read data.
    pub const READ: u16 = 0;
    /// Write data.
    pub const WRITE: u16 = 1;
    /// Say goodbye.
    pub const DISC: u16 = 2;
    /// Make completed writes durable.
    pub const FLUSH: u16 = 3;
    /// Forget a range.
    pub const TRIM: u16 = 4;
    /// Read ahead.
    pub const CACHE: u16 = 5;
    /// Zero a range.
    pub const WRITE_ZEROES: u16 = 6;
    /// Ask for extents.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a command.
pub mod command_flag {
    /// Durable before the reply. Valid with every command.
    pub const FUA: u16 = 1 << 0;
    /// Zeros must stay allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One content chunk only.
    pub const DF: u16 = 1 << 2;
    /// One extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zero quickly or not at all.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The header's length counts payload; extended headers only.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Reply chunks.
pub mod chunk {
    /// The flag of a reply's last chunk.
    pub const FLAG_DONE: u16 = 1 << 0;
    /// Nothing more to say.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeros at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents with 32-bit lengths.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents with 64-bit lengths.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The request failed.
    pub const ERROR: u16 = 0x8001;
}

/// Error values: the only ones that the protocol allows.
pub mod error {
    /// The export is read-only.
    pub const EPERM: u32 = 1;
    /// The device failed.
    pub const EIO: u32 = 5;
    /// No memory for the request.
    pub const ENOMEM: u32 = 12;
    /// The request makes no sense.
    pub const EINVAL: u32 = 22;
    /// The write does not fit.
    pub const ENOSPC: u32 = 28;
    /// The request is longer than the server serves.
    pub const EOVERFLOW: u32 = 75;
    /// Zeroing would not be fast.
    pub const ENOTSUP: u32 = 95;
    /// The server is ending.
    pub const ESHUTDOWN: u32 = 108;
}

/// The one metadata context there is.
pub mod allocation {
    /// Its name.
    pub const NAME: &str = "base:allocation";
    /// The namespace alone, a wildcard when listing.
    pub const NAMESPACE: &str = "base:";
    /// The id it has on every connection.
    pub const ID: u32 = 1;
    /// Nothing is stored here.
    pub const STATE_HOLE: u32 = 1 << 0;
    /// Reads as zeros.
    pub const STATE_ZERO: u32 = 1 << 1;
}

/// Read a big-endian number at `at`. The caller has checked the length, as every reader of fixed headers must.
macro_rules! big_endian {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(bytes: &[u8], at: usize) -> $type {
            const WIDTH: usize = size_of::<$type>();
            let mut word = [0; WIDTH];
            word.copy_from_slice(&bytes[at..at + WIDTH]);
            <$type>::from_be_bytes(word)
        }
    };
}

big_endian!(u16_at, u16);
big_endian!(u32_at, u32);
big_endian!(u64_at, u64);
