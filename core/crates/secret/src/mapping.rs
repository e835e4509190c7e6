//! Memory that only this process can read: how it is made, mapped between guard pages, and recognised.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use crate::fork;
use crate::wipe::wipe;

/// Type of the file system behind `memfd_secret` (linux/magic.h, SECRETMEM_MAGIC: "SECM").
const SECRETMEM_MAGIC: libc::c_long = 0x5345_434d;

/// What kind of memory holds a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Taken out of the kernel's direct map, unreadable through /proc and ptrace, never swapped.
    MemfdSecret,
    /// Ordinary shared memory: locked, and kept out of core files and children, but root can read it.
    Memfd,
}

impl Kind {
    /// The name that users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::MemfdSecret => "memfd_secret",
            Kind::Memfd => "memfd",
        }
    }
}

/// Bytes of a page of this machine.
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf has no precondition.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// `size` in whole pages.
pub(crate) fn whole_pages(size: usize) -> io::Result<usize> {
    size.checked_next_multiple_of(page_size()).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A shared mapping of secret memory between two guard pages. Dropping it unmaps it and leaves the content alone, which
/// another process may be meant to have.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; who may touch its bytes is for its owner to say.
unsafe impl Send for Mapping {}
// SAFETY: as above; through a shared reference only a raw pointer can be had.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Map the first `length` bytes (whole pages) of `fd`.
    pub(crate) fn new(fd: BorrowedFd<'_>, length: usize, kind: Kind) -> io::Result<Mapping> {
        fork::watch();
        let guard = page_size();
        let reserved = length + 2 * guard;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `base` starts `reserved` bytes, and a guard page is fewer.
        let start = unsafe { base.cast::<u8>().add(guard) };
        let Some(start) = NonNull::new(start) else { return Err(io::Error::from_raw_os_error(libc::ENOMEM)) };
        let mapping = Mapping { start, length };
        // SAFETY: replaces the middle of the reservation made above, which nobody else knows of.
        let mapped = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            libc::mmap(start.as_ptr().cast(), length, protection, flags, fd.as_raw_fd(), 0)
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        mapping.protect(kind)?;
        Ok(mapping)
    }

    /// Keep the pages out of children, core files and (where the kind does not do so itself) swap.
    fn protect(&self, kind: Kind) -> io::Result<()> {
        let start = self.start.as_ptr().cast();
        for advice in [libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // SAFETY: the range is our own mapping, and neither advice changes what is in it.
            check(unsafe { libc::madvise(start, self.length, advice) })?;
        }
        if kind == Kind::Memfd {
            // SAFETY: the range is our own mapping.
            check(unsafe { libc::mlock(start, self.length) })?;
        }
        Ok(())
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Zero all of it. Nobody else may be using it.
    pub(crate) fn wipe(&mut self) {
        if !fork::forked() {
            // SAFETY: mapped for `length` bytes, and `&mut self` says that nobody else uses them.
            wipe(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) });
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if fork::forked() {
            // The middle was not inherited, and the kernel may have put something else there since.
            return;
        }
        let guard = page_size();
        // SAFETY: the range is the reservation of `new`, and no pointer into it outlives the mapping.
        unsafe { libc::munmap(self.start.as_ptr().sub(guard).cast(), self.length + 2 * guard) };
    }
}

pub(crate) fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new descriptor of secret memory, `length` bytes (whole pages) of zeros, and its mapping.
pub(crate) fn allocate(length: usize) -> io::Result<(OwnedFd, Kind, Mapping)> {
    match allocate_as(Kind::MemfdSecret, length) {
        // ENOSYS: no such call in this kernel, or switched off at boot. EPERM: a container's system call filter.
        // Anything else (EAGAIN: RLIMIT_MEMLOCK) would befall the fallback as well, and must not weaken us silently.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            allocate_as(Kind::Memfd, length)
        }
        result => result,
    }
}

/// The same, of one kind only.
pub(crate) fn allocate_as(kind: Kind, length: usize) -> io::Result<(OwnedFd, Kind, Mapping)> {
    let fd = create(kind)?;
    let size = libc::off_t::try_from(length).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: plain system calls on a descriptor that we own.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })?;
    if kind == Kind::Memfd {
        // memfd_secret refuses a second resize by itself; a memfd has to be told, else a shrink would be a SIGBUS.
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    }
    let mapping = Mapping::new(std::os::fd::AsFd::as_fd(&fd), length, kind)?;
    Ok((fd, kind, mapping))
}

fn create(kind: Kind) -> io::Result<OwnedFd> {
    // SAFETY: both calls make a new descriptor and read nothing but a static string.
    let fd = unsafe {
        match kind {
            Kind::MemfdSecret => libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC),
            Kind::Memfd => {
                let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
                libc::syscall(libc::SYS_memfd_create, c"ebscrypt-key".as_ptr(), flags)
            }
        }
    };
    match c_int::try_from(fd) {
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Which kind of secret memory is behind `fd`, and how many bytes. EINVAL for anything else.
pub(crate) fn inspect(fd: BorrowedFd<'_>) -> io::Result<(Kind, usize)> {
    // SAFETY: both structures are plain data for which zero bytes are valid, and are filled by the calls.
    let (filesystem, status) = unsafe {
        let mut filesystem: libc::statfs = std::mem::zeroed();
        let mut status: libc::stat = std::mem::zeroed();
        check(libc::fstatfs(fd.as_raw_fd(), &raw mut filesystem))?;
        check(libc::fstat(fd.as_raw_fd(), &raw mut status))?;
        (filesystem, status)
    };
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    // SAFETY: a plain query. A file that is no memfd knows no seals (EINVAL), or cannot be sealed any more.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    let needed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    let kind = match filesystem.f_type {
        SECRETMEM_MAGIC => Kind::MemfdSecret,
        libc::TMPFS_MAGIC if seals >= 0 && seals & needed == needed => Kind::Memfd,
        _ => return Err(invalid()),
    };
    Ok((kind, usize::try_from(status.st_size).map_err(|_| invalid())?))
}
