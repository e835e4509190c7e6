//! What the `file` layer needs of the thing that stores bytes: the seam at which tests inject faults, and under which
//! another way of doing I/O can be put.

use std::io;

/// Bytes in a regular file or block device. Each method is one system call's worth of work and may fail or fall short
/// as system calls do; the `file` layer deals with that.
pub(crate) trait Backing: Send + Sync {
    /// What this backing asks of requests.
    fn demands(&self) -> Demands;
    /// Bytes there are now.
    fn length(&self) -> io::Result<u64>;
    /// Read some of `buffer`; 0 is the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Write some of `buffer`.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize>;
    /// Write some of `buffer`, and return when that is durable. An error for want of space ([`is_refusal`]) says that the
    /// write was refused and nothing that was accepted before is lost; any other but EINTR and EAGAIN, that it may be.
    fn write_durably_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize>;
    /// Make all completed writes durable. Once it has failed, what was accepted before may be lost.
    fn sync(&self) -> io::Result<()>;
    /// Give the space of a range back; it reads as zeros afterwards.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Zero a range and keep its space.
    fn zero(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Where the first data at or after `offset` begins; none up to the end.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Where the first hole at or after `offset` begins; the end is one.
    fn next_hole(&self, offset: u64) -> io::Result<u64>;
}

/// What a backing asks of requests, in bytes; powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demands {
    /// Offsets and lengths are multiples of this.
    pub(crate) offset: u32,
    /// Addresses of buffers are multiples of this.
    pub(crate) memory: u32,
    /// Whether [`Backing::zero`] is faster than writing zeros.
    pub(crate) fast_zero: bool,
}

/// Whether an error says that there is no room for a write: no space, no quota, or beyond the largest file.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}

/// Whether an error says that the backing cannot do this at all.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV))
}

/// Fill `buffer` from `offset`, with zeros beyond the end.
pub(crate) fn read_all(file: &dyn Backing, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[done..].fill(0);
    Ok(())
}

/// Write all of `bytes`.
pub(crate) fn write_all(file: &dyn Backing, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write_at(&bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
