//! Memory for payloads: page-aligned, filled by the kernel only where it is used, and kept out of core files.
//!
//! `ebscrypt_device::Buffer` ends the process when memory is exhausted. How much is asked for here is a client's choice,
//! and under `mlockall` with a limit it can be refused: so this one can fail.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A private anonymous mapping.
pub(crate) struct Buffer {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a `Buffer` owns its mapping alone, as a `Vec<u8>` does.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Map `length` zeroed bytes, more than none.
    pub(crate) fn new(length: usize) -> io::Result<Buffer> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping just made. The data are a volume's plaintext; where the kernel will not keep
        // them out of core files, serving goes on, since the process has core files switched off as a whole.
        unsafe { libc::madvise(start, length, libc::MADV_DONTDUMP) };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Buffer { start, length })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and nothing borrows it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `length` initialised bytes for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}
