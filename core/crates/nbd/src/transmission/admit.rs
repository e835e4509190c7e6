//! Decides whether a request is served: the protocol's rules, command by command, and which error each breach gives.

use ebscrypt_device::{WriteFlags, ZeroFlags};

use super::request::Request;
use crate::proto::{MAXIMUM_PAYLOAD, command, command_flag as flag, error};
use crate::terms::{Headers, Terms};

/// What a request asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Read; with `holes`, zeros may be told instead of sent.
    Read {
        /// Structured or extended replies, and the client did not ask for one content chunk.
        holes: bool,
    },
    /// Write the payload.
    Write(WriteFlags),
    /// End the connection, without a reply.
    Disconnect,
    /// Make completed writes durable.
    Flush,
    /// Forget a range.
    Discard(WriteFlags),
    /// Read a range into the page cache.
    Cache,
    /// Zero a range.
    WriteZeroes(ZeroFlags),
    /// Tell the extents of a range.
    BlockStatus {
        /// Only the first of them.
        one: bool,
    },
}

/// An error on its way to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// One of [`error`].
    pub error: u32,
    /// For people; sent where replies come in chunks.
    pub text: &'static str,
}

impl Refusal {
    const fn new(error: u32, text: &'static str) -> Refusal {
        Refusal { error, text }
    }

    const UNKNOWN_COMMAND: Refusal = Refusal::new(error::EINVAL, "unknown command");
    const UNKNOWN_FLAG: Refusal = Refusal::new(error::EINVAL, "a flag that this command does not have");
    const NO_PAYLOAD: Refusal = Refusal::new(error::EINVAL, "a write needs the payload flag with extended headers");
    const NO_CONTEXT: Refusal = Refusal::new(error::EINVAL, "no metadata context was negotiated for this export");
    const NOT_ZERO: Refusal = Refusal::new(error::EINVAL, "offset and length of a flush must be zero");
    const EMPTY: Refusal = Refusal::new(error::EINVAL, "a length of zero");
    const READ_ONLY: Refusal = Refusal::new(error::EPERM, "the volume is read-only");
    const OUTSIDE: Refusal = Refusal::new(error::EINVAL, "the range ends beyond the volume");
    const NO_SPACE: Refusal = Refusal::new(error::ENOSPC, "the range ends beyond the volume");
    const TOO_LONG: Refusal = Refusal::new(error::EINVAL, "longer than the maximum payload of 32 MiB");
    const OVERFLOW: Refusal = Refusal::new(error::EOVERFLOW, "longer than the maximum payload of 32 MiB");
    pub(crate) const INVALID_CONTEXTS: Refusal =
        Refusal::new(error::EINVAL, "the payload must name the negotiated context once");
    pub(crate) const NO_MEMORY: Refusal = Refusal::new(error::ENOMEM, "no memory for a request of this length");
    pub(crate) const NO_EXTENTS: Refusal = Refusal::new(error::EIO, "the device told no extents");

    /// What a device's errno becomes: one of the values that the protocol allows, EOPNOTSUPP only for a fast zero.
    #[must_use]
    pub fn from_device(errno: i32, fast: bool) -> Refusal {
        match errno {
            libc::EPERM | libc::EROFS | libc::EACCES => Refusal::READ_ONLY,
            libc::ENOMEM => Refusal::new(error::ENOMEM, "out of memory"),
            libc::EINVAL => Refusal::new(error::EINVAL, "the device finds the request invalid"),
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Refusal::new(error::ENOSPC, "no space left for the volume"),
            libc::EOPNOTSUPP if fast => Refusal::new(error::ENOTSUP, "zeroing would not be faster than writing"),
            libc::ESHUTDOWN => Refusal::new(error::ESHUTDOWN, "the volume is being detached"),
            _ => Refusal::new(error::EIO, "input/output error"),
        }
    }
}

/// What of the volume the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Volume {
    /// Bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// Decide. Refusals come in this order: command, flags, read-only, range, length.
///
/// # Errors
/// The refusal to send instead of a result.
pub fn admit(request: &Request, terms: Terms, volume: Volume) -> Result<Operation, Refusal> {
    let operation = operation(request, terms)?;
    if request.flags & !allowed_flags(request.command, terms.headers) != 0 {
        return Err(Refusal::UNKNOWN_FLAG);
    }
    match operation {
        Operation::Disconnect => return Ok(operation),
        Operation::Flush if request.offset == 0 && request.length == 0 => return Ok(operation),
        Operation::Flush => return Err(Refusal::NOT_ZERO),
        Operation::BlockStatus { .. } if !terms.allocation => return Err(Refusal::NO_CONTEXT),
        Operation::Write(_) if terms.headers == Headers::Extended && !request.has(flag::PAYLOAD_LEN) => {
            return Err(Refusal::NO_PAYLOAD);
        }
        _ => {}
    }
    let changes = matches!(operation, Operation::Write(_) | Operation::Discard(_) | Operation::WriteZeroes(_));
    if changes && volume.read_only {
        return Err(Refusal::READ_ONLY);
    }
    check_range(request, operation, terms.headers, volume.size)?;
    Ok(operation)
}

fn operation(request: &Request, terms: Terms) -> Result<Operation, Refusal> {
    let fua = request.has(flag::FUA);
    Ok(match request.command {
        command::READ => Operation::Read { holes: terms.headers.chunked() && !request.has(flag::DF) },
        command::WRITE => Operation::Write(WriteFlags { fua }),
        command::DISC => Operation::Disconnect,
        command::FLUSH => Operation::Flush,
        command::TRIM => Operation::Discard(WriteFlags { fua }),
        command::CACHE => Operation::Cache,
        command::WRITE_ZEROES => Operation::WriteZeroes(ZeroFlags {
            fua,
            no_hole: request.has(flag::NO_HOLE),
            fast: request.has(flag::FAST_ZERO),
        }),
        command::BLOCK_STATUS => Operation::BlockStatus { one: request.has(flag::REQ_ONE) },
        _ => return Err(Refusal::UNKNOWN_COMMAND),
    })
}

/// The flags that a command may carry. FUA goes with every one, since the export offers it.
fn allowed_flags(command: u16, headers: Headers) -> u16 {
    let own = match command {
        command::READ if headers.chunked() => flag::DF,
        command::WRITE if headers == Headers::Extended => flag::PAYLOAD_LEN,
        command::DISC => !0,
        command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
        command::BLOCK_STATUS => flag::REQ_ONE,
        _ => 0,
    };
    flag::FUA | own
}

fn check_range(request: &Request, operation: Operation, headers: Headers, size: u64) -> Result<(), Refusal> {
    // The protocol leaves a length of zero unspecified; told as a mistake, it cannot be taken for something done.
    if request.length == 0 {
        return Err(Refusal::EMPTY);
    }
    let writes = matches!(operation, Operation::Write(_) | Operation::WriteZeroes(_));
    if request.offset.checked_add(request.length).is_none_or(|end| end > size) {
        return Err(if writes { Refusal::NO_SPACE } else { Refusal::OUTSIDE });
    }
    // Only what goes over the wire or through a buffer is limited; to trim or zero a whole volume is one request.
    let buffered = matches!(operation, Operation::Read { .. } | Operation::Write(_) | Operation::Cache);
    if buffered && request.length > u64::from(MAXIMUM_PAYLOAD) {
        // EOVERFLOW is for clients that may send the DF flag, and never for a payload.
        let hint = headers.chunked() && !matches!(operation, Operation::Write(_));
        return Err(if hint { Refusal::OVERFLOW } else { Refusal::TOO_LONG });
    }
    Ok(())
}
