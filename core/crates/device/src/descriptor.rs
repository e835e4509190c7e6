//! The real backing: a file descriptor of a regular file or block device, and the system calls on it.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use ebscrypt_secret::thread_number;
use libc::off_t;
use parking_lot::{Mutex, MutexGuard};

use crate::backing::{Backing, Demands, is_refusal, is_unsupported};

/// Requests that can be made durable at the same time, each on a file description of its own.
const WITNESSES: usize = 8;

/// What O_DIRECT is taken to ask where the kernel cannot say: the largest logical block size in use.
const DIRECT_DEFAULT: u32 = 4096;

/// `BLKSSZGET` and `BLKGETSIZE64` of linux/fs.h.
const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// A regular file or block device, held by a duplicate of the caller's descriptor.
pub(crate) struct Descriptor {
    fd: OwnedFd,
    /// The kernel reports a failed write-back once per file description. If two threads made writes durable through one
    /// description at the same time, one could take the error that was meant for the other, whose data would then be
    /// acknowledged and lost. So each such request has a description to itself.
    witnesses: Vec<Mutex<Witness>>,
    /// One more, that is only asked whether anything was lost since the volume was opened. None where the witness is the
    /// caller's own description.
    auditor: Auditor,
    block_device: bool,
    demands: Demands,
    /// pwritev2 with RWF_DSYNC was refused once: write and fdatasync instead.
    no_durable_write: AtomicBool,
}

impl Descriptor {
    /// Take a duplicate of `fd`.
    pub(crate) fn new(fd: BorrowedFd<'_>, read_only: bool) -> io::Result<Descriptor> {
        let fd = fd.try_clone_to_owned()?;
        // SAFETY: a plain query on a descriptor that we own.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        let file = fs::File::from(fd.try_clone()?);
        let kind = file.metadata()?.file_type();
        let block_device = std::os::unix::fs::FileTypeExt::is_block_device(&kind);
        // O_APPEND would let every pwrite go to the end of the file.
        if !(block_device || kind.is_file()) || flags < 0 || flags & libc::O_APPEND != 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let access = flags & libc::O_ACCMODE;
        if access == libc::O_WRONLY || (access == libc::O_RDONLY && !read_only) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let direct = flags & libc::O_DIRECT;
        let demands = demands(fd.as_fd(), direct != 0, block_device)?;
        let (witnesses, auditor) = if read_only { (Vec::new(), None) } else { witnesses(&fd, direct)? };
        let no_durable_write = AtomicBool::new(auditor.is_none());
        Ok(Descriptor { fd, witnesses, auditor, block_device, demands, no_durable_write })
    }

    /// A description for this request alone.
    fn witness(&self) -> io::Result<MutexGuard<'_, Witness>> {
        let count = self.witnesses.len();
        if count == 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let home = thread_number() % count;
        let free = (home..count).chain(0..home).find_map(|index| self.witnesses[index].try_lock());
        Ok(free.unwrap_or_else(|| self.witnesses[home].lock()))
    }

    /// A durable write found no space: was it refused, or accepted and then lost on its way (a thin pool, a network file
    /// system)? The witness cannot say: its one report of a loss was this error. Asked while the witness is held.
    fn audit(&self, witness: &mut Witness, refusal: io::Error) -> io::Error {
        match self.auditor.as_ref().map(|auditor| auditor.lock().sync()) {
            Some(Ok(())) => refusal,
            _ => {
                witness.failed = true;
                lost()
            }
        }
    }

    fn fallocate(&self, mode: c_int, offset: u64, length: u64) -> io::Result<()> {
        let (offset, length) = (position(offset)?, position(length)?);
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a plain system call on a descriptor that we own.
        check(unsafe { libc::fallocate(self.fd.as_raw_fd(), mode, offset, length) })
    }

    fn seek(&self, offset: u64, whence: c_int) -> io::Result<u64> {
        // SAFETY: as above. The description's own position is used by nobody.
        let found = unsafe { libc::lseek(self.fd.as_raw_fd(), position(offset)?, whence) };
        u64::try_from(found).map_err(|_| io::Error::last_os_error())
    }
}

/// A file description of our own, through which one request at a time is made durable.
struct Witness {
    fd: OwnedFd,
    /// It has reported a loss. The kernel does so once; set before anybody else can ask, so that nobody is told that all
    /// is well afterwards.
    failed: bool,
}

type Auditor = Option<Mutex<Witness>>;

impl Witness {
    fn new(fd: OwnedFd) -> Mutex<Witness> {
        Mutex::new(Witness { fd, failed: false })
    }

    fn check(&self) -> io::Result<()> {
        if self.failed { Err(lost()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.check()?;
        let result = sync(&self.fd);
        self.failed = result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        result
    }

    fn write_durably_at(&mut self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.check()?;
        let part = libc::iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() };
        let position = position(offset)?;
        // SAFETY: the kernel only reads the one part, which is valid for its own length.
        let written =
            count(unsafe { libc::pwritev2(self.fd.as_raw_fd(), &raw const part, 1, position, libc::RWF_DSYNC) });
        self.failed = written.as_ref().is_err_and(|error| {
            let again = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
            !(again || is_unsupported(error) || is_refusal(error))
        });
        written
    }
}

/// What is told when data that was accepted may not have reached the disk.
fn lost() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Backing for Descriptor {
    fn demands(&self) -> Demands {
        self.demands
    }

    fn length(&self) -> io::Result<u64> {
        length(self.fd.as_fd(), self.block_device)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let position = position(offset)?;
        // SAFETY: the buffer is valid for its own length.
        count(unsafe { libc::pread(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), position) })
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        write_at(&self.fd, buffer, offset)
    }

    fn write_durably_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        let mut witness = self.witness()?;
        if !self.no_durable_write.load(Ordering::Relaxed) {
            match witness.write_durably_at(buffer, offset) {
                Err(error) if is_unsupported(&error) => self.no_durable_write.store(true, Ordering::Relaxed),
                Err(error) if is_refusal(&error) => return Err(self.audit(&mut witness, error)),
                result => return result,
            }
        }
        let written = write_at(&witness.fd, buffer, offset)?;
        // Space that is missing only now was promised before: that is a loss, not a refusal.
        witness.sync().map_err(|error| if is_refusal(&error) { lost() } else { error })?;
        Ok(written)
    }

    fn sync(&self) -> io::Result<()> {
        self.witness()?.sync()
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, offset, length)
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_ZERO_RANGE, offset, length)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match self.seek(offset, libc::SEEK_DATA) {
            Ok(data) => Ok(Some(data)),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        self.seek(offset, libc::SEEK_HOLE)
    }
}

fn position(offset: u64) -> io::Result<off_t> {
    off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn write_at(fd: &OwnedFd, buffer: &[u8], offset: u64) -> io::Result<usize> {
    let position = position(offset)?;
    // SAFETY: the buffer is valid for its own length.
    count(unsafe { libc::pwrite(fd.as_raw_fd(), buffer.as_ptr().cast(), buffer.len(), position) })
}

fn sync(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that we own.
    check(unsafe { libc::fdatasync(fd.as_raw_fd()) })
}

/// Bytes of a regular file or block device.
fn length(fd: BorrowedFd<'_>, block_device: bool) -> io::Result<u64> {
    if !block_device {
        return Ok(fs::File::from(fd.try_clone_to_owned()?).metadata()?.len());
    }
    let mut length = 0_u64;
    // SAFETY: BLKGETSIZE64 stores 64 bits where it is told.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64, &raw mut length) })?;
    Ok(length)
}

/// File descriptions of their own for making writes durable, and the auditor's. Where /proc or the file's mode does not
/// let us open it again, the one that we have must do, for one request at a time.
fn witnesses(fd: &OwnedFd, direct: c_int) -> io::Result<(Vec<Mutex<Witness>>, Auditor)> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let open = || fs::OpenOptions::new().read(true).write(true).custom_flags(direct).open(&path);
    match (0..=WITNESSES).map(|_| open()).collect::<io::Result<Vec<fs::File>>>() {
        Ok(files) => {
            let mut witnesses: Vec<_> = files.into_iter().map(|file| Witness::new(file.into())).collect();
            let auditor = witnesses.pop();
            Ok((witnesses, auditor))
        }
        Err(_) => Ok((vec![Witness::new(fd.try_clone()?)], None)),
    }
}

fn demands(fd: BorrowedFd<'_>, direct: bool, block_device: bool) -> io::Result<Demands> {
    let mut demands = Demands { offset: 1, memory: 1, fast_zero: !block_device };
    if block_device {
        // fallocate on a block device wants whole logical blocks, also through the page cache. Its FALLOC_FL_ZERO_RANGE
        // falls back to writing zeros inside the kernel.
        let mut logical: c_int = 0;
        // SAFETY: BLKSSZGET stores an int where it is told.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKSSZGET, &raw mut logical) })?;
        demands.offset = u32::try_from(logical).unwrap_or(0);
    }
    if direct {
        let (memory, offset) = direct_alignment(fd).unwrap_or((DIRECT_DEFAULT, DIRECT_DEFAULT));
        demands.memory = memory;
        demands.offset = demands.offset.max(offset);
    }
    let odd = |value: u32| !value.is_power_of_two() || value > 65536;
    if odd(demands.offset) || odd(demands.memory) {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    } else {
        Ok(demands)
    }
}

/// What O_DIRECT asks of addresses and of offsets, where the kernel (6.1 and later) says it.
fn direct_alignment(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    // SAFETY: plain data for which zero bytes are valid; statx fills it for the descriptor itself (empty path).
    let status = unsafe {
        let mut status: libc::statx = std::mem::zeroed();
        let (fd, path, flags) = (fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
        check(libc::statx(fd, path, flags, libc::STATX_DIOALIGN, &raw mut status)).ok()?;
        status
    };
    let known = status.stx_mask & libc::STATX_DIOALIGN != 0 && status.stx_dio_offset_align != 0;
    known.then_some((status.stx_dio_mem_align.max(1), status.stx_dio_offset_align))
}
