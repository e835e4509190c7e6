//! The top of the stack: lets in what is allowed, counts it, and can be closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ebscrypt_secret::XtsCipher;
use parking_lot::Mutex;

use crate::open::SetupError;
use crate::statistics::{OperationStatistics, Statistics};
use crate::turnstile::Turnstile;
use crate::{Device, Error, Extent, Operation, Result, WriteFlags, ZeroFlags};

/// Bytes that a discard or write-zeroes changes at once, at least and at most. While it does, it keeps those sectors from
/// requests that are not whole sectors, and these may keep others waiting in turn.
const WINDOW: (u64, u64) = (64 << 20, 64 << 30);
/// A window that took longer than this is made smaller, one that took less larger: punching a hole where there is one
/// already takes no time, writing zeros does.
const WINDOW_TIME: Duration = Duration::from_millis(20);

/// A volume: the whole stack, as everybody above sees it.
pub struct Volume {
    below: Turnstile<Box<dyn Device>>,
    cipher: Option<Arc<XtsCipher>>,
    size: AtomicU64,
    read_only: bool,
    alignment: u32,
    statistics: Statistics,
    /// Held while closing: who closes a second time returns when all is closed.
    closing: Mutex<()>,
}

impl Volume {
    pub(crate) fn new(below: Box<dyn Device>, cipher: Option<Arc<XtsCipher>>, size: u64) -> Volume {
        let (read_only, alignment) = (below.read_only(), below.alignment());
        let (size, statistics) = (AtomicU64::new(size), Statistics::new());
        let closing = Mutex::new(());
        Volume { below: Turnstile::new(below), cipher, size, read_only, alignment, statistics, closing }
    }

    /// Whether there is a cipher in the stack.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        self.cipher.is_some()
    }

    /// One operation's counters.
    #[must_use]
    pub fn statistics(&self, operation: Operation) -> OperationStatistics {
        self.statistics.of(operation)
    }

    /// Let the volume end at `size`.
    ///
    /// # Errors
    /// When that is smaller than now, not a multiple of the alignment, or more than the backing has.
    pub fn grow(&self, size: u64) -> std::result::Result<(), SetupError> {
        let below = self.below.enter().ok_or_else(|| SetupError::system(libc::ESHUTDOWN, "the device is closed"))?;
        let now = self.size.load(Ordering::SeqCst);
        if size < now {
            return Err(SetupError::Argument(format!("size {size} is smaller than the volume, {now} bytes")));
        }
        check_size(size, self.alignment)?;
        check_room(size, below.size())?;
        // Of two that grow at once, the larger size stays.
        self.size.fetch_max(size, Ordering::SeqCst);
        Ok(())
    }

    /// Let no request in any more, wait for those under way, flush, wipe the round keys and close the backing. The
    /// second time it only waits for the first. A long discard or write-zeroes under way is cut off with an error.
    ///
    /// # Errors
    /// When the flush fails; all the rest is done nevertheless. The first call tells.
    pub fn close(&self) -> Result<()> {
        let _closing = self.closing.lock();
        let Some(below) = self.below.close() else { return Ok(()) };
        let flushed = if self.read_only { Ok(()) } else { below.flush() };
        if let Some(cipher) = &self.cipher {
            cipher.wipe();
        }
        flushed
    }

    /// Pass a request on, and count it with `length` bytes.
    fn pass(&self, operation: Operation, length: u64, request: impl FnOnce(&dyn Device) -> Result<()>) -> Result<()> {
        let below = self.below.enter().ok_or(Error::CLOSED)?;
        let start = Instant::now();
        let result = request(&**below);
        self.statistics.count(operation, result.is_ok().then_some(length), start.elapsed());
        result
    }

    /// Do a long request a window at a time, and stop when the volume is being closed.
    fn in_windows(&self, offset: u64, length: u64, mut step: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let (mut at, end, mut window) = (offset, offset + length, WINDOW.0);
        while at < end {
            if self.below.is_closed() {
                return Err(Error::CLOSED);
            }
            // Windows end at multiples of their smallest size, so that no sector is cut.
            let stop = end.min((at + window) / WINDOW.0 * WINDOW.0);
            let start = Instant::now();
            step(at, stop - at)?;
            window = if start.elapsed() < WINDOW_TIME { window * 2 } else { window / 2 }.clamp(WINDOW.0, WINDOW.1);
            at = stop;
        }
        Ok(())
    }

    fn check_bounds(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size.load(Ordering::Relaxed) => Ok(()),
            _ => Err(Error::INVALID),
        }
    }

    fn check_change(&self, offset: u64, length: u64) -> Result<()> {
        if self.read_only { Err(Error::READ_ONLY) } else { self.check_bounds(offset, length) }
    }
}

/// Refuse a size that the stack could not serve to its last byte.
pub(crate) fn check_size(size: u64, alignment: u32) -> std::result::Result<(), SetupError> {
    if size == 0 || size % u64::from(alignment) != 0 {
        return Err(SetupError::Argument(format!("size {size} is not a positive multiple of {alignment}")));
    }
    Ok(())
}

/// Refuse a size for which the backing has no room.
pub(crate) fn check_room(size: u64, room: u64) -> std::result::Result<(), SetupError> {
    if size > room {
        let message = format!("the backing has room for {room} bytes, fewer than the volume's {size}");
        return Err(SetupError::system(libc::EINVAL, &message));
    }
    Ok(())
}

impl Device for Volume {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn alignment(&self) -> u32 {
        self.alignment
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let length = buffer.len() as u64;
        self.pass(Operation::Read, length, |below| {
            self.check_bounds(offset, length)?;
            if length == 0 { Ok(()) } else { below.read(buffer, offset) }
        })
    }

    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        let length = buffer.len() as u64;
        self.pass(Operation::Write, length, |below| {
            self.check_change(offset, length)?;
            if length == 0 { Ok(()) } else { below.write(buffer, offset, flags) }
        })
    }

    fn flush(&self) -> Result<()> {
        // Through a read-only volume nothing was written.
        self.pass(Operation::Flush, 0, |below| if self.read_only { Ok(()) } else { below.flush() })
    }

    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        self.pass(Operation::Discard, length, |below| {
            self.check_change(offset, length)?;
            let lazy = WriteFlags { fua: false };
            self.in_windows(offset, length, |at, part| below.discard(at, part, lazy))?;
            if flags.fua { below.flush() } else { Ok(()) }
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        self.pass(Operation::WriteZeroes, length, |below| {
            self.check_change(offset, length)?;
            // Where it cannot be done fast, the first window says so, and nothing has been changed.
            let lazy = ZeroFlags { fua: false, ..flags };
            self.in_windows(offset, length, |at, part| below.write_zeroes(at, part, lazy))?;
            if flags.fua { below.flush() } else { Ok(()) }
        })
    }

    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.pass(Operation::BlockStatus, length, |below| {
            self.check_bounds(offset, length)?;
            if length == 0 { Ok(()) } else { below.extents(offset, length, each) }
        })
    }
}
