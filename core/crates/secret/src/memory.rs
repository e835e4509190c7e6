//! [`SecretMemory`]: the bytes of one data key.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::mapping::{self, Kind, Mapping};

/// Memory for one key. Its content can be filled, hashed and made into a cipher, but not taken out.
///
/// The content belongs to everybody who has the descriptor: dropping this leaves it alone, so that the process which
/// unwraps a key can end, and a service manager can keep it over a restart. When the last descriptor and mapping are
/// gone the kernel zeroes the pages of `memfd_secret` itself; [`SecretMemory::wipe`] does so at once, for everybody.
pub struct SecretMemory {
    mapping: Mapping,
    fd: OwnedFd,
    kind: Kind,
    size: usize,
}

impl SecretMemory {
    /// `size` zeroed bytes, in the best kind of memory that this machine has.
    ///
    /// # Errors
    /// EINVAL for size 0; EAGAIN or ENOMEM when RLIMIT_MEMLOCK leaves no room.
    pub fn new(size: usize) -> io::Result<SecretMemory> {
        let (fd, kind, mapping) = mapping::allocate(length_of(size)?)?;
        Ok(SecretMemory { mapping, fd, kind, size })
    }

    /// The same in one kind of memory only.
    ///
    /// # Errors
    /// As above, and whatever the kernel says when it has no such kind (ENOSYS).
    pub fn with_kind(kind: Kind, size: usize) -> io::Result<SecretMemory> {
        let (fd, kind, mapping) = mapping::allocate_as(kind, length_of(size)?)?;
        Ok(SecretMemory { mapping, fd, kind, size })
    }

    /// Map what an inherited descriptor stands for, content included. The descriptor is made close-on-exec.
    ///
    /// # Errors
    /// EINVAL when it is not secret memory, or not of this size.
    pub fn adopt(fd: OwnedFd, size: usize) -> io::Result<SecretMemory> {
        let length = length_of(size)?;
        let (kind, actual) = mapping::inspect(fd.as_fd())?;
        if actual != length {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: a plain system call on a descriptor that we own.
        mapping::check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
        let mapping = Mapping::new(fd.as_fd(), length, kind)?;
        Ok(SecretMemory { mapping, fd, kind, size })
    }

    /// Bytes of the key.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// What kind of memory it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Replace the content.
    ///
    /// # Errors
    /// EINVAL unless `data` has exactly the size of this memory.
    pub fn fill(&mut self, data: &[u8]) -> io::Result<()> {
        if data.len() != self.size {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.check_present()?;
        // SAFETY: mapped for at least `size` bytes; `&mut self` excludes every other user in this process.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.mapping.start(), self.size) };
        Ok(())
    }

    /// Zero the content for everybody who has the descriptor, and let go of it.
    pub fn wipe(mut self) {
        self.mapping.wipe();
    }

    /// The content, for this crate's ciphers and hashes alone.
    pub(crate) fn bytes(&self) -> io::Result<&[u8]> {
        self.check_present()?;
        // SAFETY: mapped for at least `size` bytes. Another process that has the descriptor could write to them, but
        // that is the unwrap process, which has ended by then; and any bytes are a valid `[u8]`.
        Ok(unsafe { std::slice::from_raw_parts(self.mapping.start(), self.size) })
    }

    fn check_present(&self) -> io::Result<()> {
        if crate::fork::forked() { Err(io::Error::from_raw_os_error(libc::EBADFD)) } else { Ok(()) }
    }
}

impl AsFd for SecretMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn length_of(size: usize) -> io::Result<usize> {
    if size == 0 { Err(io::Error::from_raw_os_error(libc::EINVAL)) } else { mapping::whole_pages(size) }
}
