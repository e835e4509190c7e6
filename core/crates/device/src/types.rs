//! The words of a request, shared by every layer.

use std::fmt;
use std::io;

/// Why a request failed, as an errno that a block device would give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error(pub i32);

/// Shorthand for what every request gives back.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A request outside the volume, or an argument that makes no sense.
    pub const INVALID: Error = Error(libc::EINVAL);
    /// A write to a read-only volume.
    pub const READ_ONLY: Error = Error(libc::EPERM);
    /// The backing failed, or cannot be trusted any more.
    pub const IO: Error = Error(libc::EIO);
    /// The backing cannot do this, at least not fast.
    pub const UNSUPPORTED: Error = Error(libc::EOPNOTSUPP);
    /// The device was closed.
    pub const CLOSED: Error = Error(libc::ESHUTDOWN);
    /// The data key was wiped, and not given again.
    pub const NO_KEY: Error = Error(libc::ENOKEY);

    /// The errno that the last system call of this thread left; EIO where it left none.
    #[must_use]
    pub fn last_os_error() -> Error {
        io::Error::last_os_error().into()
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::from_raw_os_error(error.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(formatter)
    }
}

impl std::error::Error for Error {}

/// What can be asked of a device; the index of its counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`crate::Device::read`]
    Read,
    /// [`crate::Device::write`]
    Write,
    /// [`crate::Device::flush`]
    Flush,
    /// [`crate::Device::discard`]
    Discard,
    /// [`crate::Device::write_zeroes`]
    WriteZeroes,
    /// [`crate::Device::extents`], under the name that NBD gives it.
    BlockStatus,
}

impl Operation {
    /// Every operation, in the order of the counters.
    pub const ALL: [Operation; 6] = [
        Operation::Read,
        Operation::Write,
        Operation::Flush,
        Operation::Discard,
        Operation::WriteZeroes,
        Operation::BlockStatus,
    ];

    /// The name that statistics use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Discard => "discard",
            Operation::WriteZeroes => "write_zeroes",
            Operation::BlockStatus => "block_status",
        }
    }
}

/// What requests may do to a volume at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Nothing that changes it: that fails with EPERM. Flushing goes on.
    ReadOnly,
    /// Nothing: requests wait until it is over.
    Suspended,
}

impl Access {
    /// Every access.
    pub const ALL: [Access; 3] = [Access::ReadWrite, Access::ReadOnly, Access::Suspended];

    /// The name that everybody above uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Access::ReadWrite => "read-write",
            Access::ReadOnly => "read-only",
            Access::Suspended => "suspended",
        }
    }
}

/// How a write-like request must end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteFlags {
    /// The data is durable before the request completes (NBD_CMD_FLAG_FUA).
    pub fua: bool,
}

/// How zeros are to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ZeroFlags {
    /// Durable before the request completes.
    pub fua: bool,
    /// Keep the space allocated (NBD_CMD_FLAG_NO_HOLE).
    pub no_hole: bool,
    /// Fail with EOPNOTSUPP rather than write zeros one by one (NBD_CMD_FLAG_FAST_ZERO).
    pub fast: bool,
}

/// A run of bytes in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Nothing is stored here; it reads as zeros.
    pub hole: bool,
}

impl Extent {
    /// One past the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}
