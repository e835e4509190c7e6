//! The top of the stack: lets in what is allowed, and counts it. Who changes what is allowed: see `access`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::access::{Control, Keyed};
use crate::crypt::Crypt;
use crate::fill::Fill;
use crate::open::SetupError;
use crate::statistics::{OperationStatistics, Statistics};
use crate::track::{self, Track};
use crate::turnstile::{Turnstile, Visit};
use crate::{Device, Error, Extent, Operation, Result, WriteFlags, ZeroFlags};

/// Bytes that a discard or write-zeroes changes at once, at least and at most. While it does, it keeps those sectors from
/// requests that are not whole sectors, and these may keep others waiting in turn.
const WINDOW: (u64, u64) = (64 << 20, 64 << 30);
/// A window that took longer than this is made smaller, one that took less larger: punching a hole where there is one
/// already takes no time, writing zeros does.
const WINDOW_TIME: Duration = Duration::from_millis(20);

/// What the gate guards: everything below it.
pub(crate) struct Below {
    top: Box<dyn Device>,
    /// One of the layers, for who makes a snapshot.
    pub(crate) track: Option<Arc<Track>>,
    /// Another one, for who re-encrypts.
    pub(crate) crypt: Option<Arc<Crypt>>,
    /// And another, for who supplies its blocks.
    pub(crate) fill: Option<Arc<Fill>>,
}

impl Below {
    pub(crate) fn new(
        top: Box<dyn Device>,
        track: Option<Arc<Track>>,
        crypt: Option<Arc<Crypt>>,
        fill: Option<Arc<Fill>>,
    ) -> Below {
        Below { top, track, crypt, fill }
    }

    pub(crate) fn flush(&self) -> Result<()> {
        self.top.flush()
    }
}

/// A volume: the whole stack, as everybody above sees it.
pub struct Volume {
    pub(crate) below: Turnstile<Below>,
    /// For who ends the waits of those inside.
    pub(crate) fill: Weak<Fill>,
    pub(crate) keyed: Option<Keyed>,
    size: AtomicU64,
    /// Opened read-only: nothing can change that.
    pub(crate) read_only: bool,
    alignment: u32,
    statistics: Statistics,
    /// Whether changes are let in; never where it was opened read-only.
    pub(crate) writable: AtomicBool,
    /// Whether requests wait, for those who ask; the turnstile is what lets them.
    pub(crate) suspended: AtomicBool,
    pub(crate) control: Mutex<Control>,
}

impl Volume {
    pub(crate) fn new(below: Below, keyed: Option<Keyed>, size: u64) -> Volume {
        let (read_only, alignment) = (below.top.read_only(), below.top.alignment());
        Volume {
            fill: below.fill.as_ref().map_or_else(Weak::new, Arc::downgrade),
            below: Turnstile::new(below),
            keyed,
            size: AtomicU64::new(size),
            read_only,
            alignment,
            statistics: Statistics::new(),
            writable: AtomicBool::new(!read_only),
            suspended: AtomicBool::new(false),
            control: Mutex::new(Control::default()),
        }
    }

    /// Whether there is a cipher in the stack.
    #[must_use]
    pub fn encrypted(&self) -> bool {
        self.keyed.is_some()
    }

    /// One operation's counters.
    #[must_use]
    pub fn statistics(&self, operation: Operation) -> OperationStatistics {
        self.statistics.of(operation)
    }

    /// Let the volume end at `size`.
    ///
    /// # Errors
    /// When that is smaller than now, not a multiple of the alignment, or more than the backing has; EBUSY during a
    /// re-encryption.
    pub fn grow(&self, size: u64) -> std::result::Result<(), SetupError> {
        // Whether requests wait or not: only the size of the backing is looked at.
        let below =
            self.below.enter_aside().ok_or_else(|| SetupError::system(libc::ESHUTDOWN, "the device is closed"))?;
        let now = self.size.load(Ordering::SeqCst);
        if size < now {
            return Err(SetupError::Argument(format!("size {size} is smaller than the volume, {now} bytes")));
        }
        check_size(size, self.alignment)?;
        if below.crypt.as_ref().is_some_and(|crypt| crypt.turning().is_some()) {
            return Err(SetupError::system(libc::EBUSY, "the volume is being re-encrypted"));
        }
        check_room(size, below.top.size())?;
        if below.track.is_some() {
            track::file::check_size(size)?;
        }
        if below.fill.as_ref().is_some_and(|fill| fill.left() > 0) {
            return Err(SetupError::system(libc::EBUSY, "the volume is still being filled"));
        }
        // Of two that grow at once, the larger size stays.
        self.size.fetch_max(size, Ordering::SeqCst);
        Ok(())
    }

    /// Pass a request on, and count it with `length` bytes.
    fn pass(&self, operation: Operation, length: u64, request: impl FnOnce(&dyn Device) -> Result<()>) -> Result<()> {
        let below = self.below.enter().ok_or(Error::CLOSED)?;
        let start = Instant::now();
        let result = request(&*below.top);
        self.statistics.count(operation, result.is_ok().then_some(length), start.elapsed());
        result
    }

    /// Pass a request on that changes a long range, a window at a time, and count it. Whoever bars the gate waits for one
    /// window at most: the others come when it is open again, if that is still allowed then.
    fn pass_in_windows(
        &self,
        operation: Operation,
        range: (u64, u64),
        fua: bool,
        step: impl Fn(&dyn Device, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let below = self.below.enter().ok_or(Error::CLOSED)?;
        let start = Instant::now();
        let result = self.in_windows(below, range, fua, step);
        self.statistics.count(operation, result.is_ok().then_some(range.1), start.elapsed());
        result
    }

    fn in_windows<'gate>(
        &'gate self,
        mut below: Visit<'gate, Below>,
        (offset, length): (u64, u64),
        fua: bool,
        step: impl Fn(&dyn Device, u64, u64) -> Result<()>,
    ) -> Result<()> {
        self.check_change(offset, length)?;
        let (mut at, end, mut window) = (offset, offset + length, WINDOW.0);
        while at < end {
            if self.below.is_barred() {
                drop(below);
                below = self.below.enter().ok_or(Error::CLOSED)?;
                self.check_change(offset, length)?;
            }
            // Windows end at multiples of their smallest size, so that no sector is cut.
            let stop = end.min((at + window) / WINDOW.0 * WINDOW.0);
            let start = Instant::now();
            step(&*below.top, at, stop - at)?;
            window = if start.elapsed() < WINDOW_TIME { window * 2 } else { window / 2 }.clamp(WINDOW.0, WINDOW.1);
            at = stop;
        }
        if fua { below.flush() } else { Ok(()) }
    }

    fn check_bounds(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size.load(Ordering::Relaxed) => Ok(()),
            _ => Err(Error::INVALID),
        }
    }

    fn check_change(&self, offset: u64, length: u64) -> Result<()> {
        // Asked inside the turnstile: `set_access` either is seen here, or waits for us.
        if self.writable.load(Ordering::SeqCst) { self.check_bounds(offset, length) } else { Err(Error::READ_ONLY) }
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
        let lazy = WriteFlags { fua: false };
        self.pass_in_windows(Operation::Discard, (offset, length), flags.fua, |below, at, part| {
            below.discard(at, part, lazy)
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        // Where it cannot be done fast, the first window says so, and nothing has been changed.
        let lazy = ZeroFlags { fua: false, ..flags };
        self.pass_in_windows(Operation::WriteZeroes, (offset, length), flags.fua, |below, at, part| {
            below.write_zeroes(at, part, lazy)
        })
    }

    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.pass(Operation::BlockStatus, length, |below| {
            self.check_bounds(offset, length)?;
            if length == 0 { Ok(()) } else { below.extents(offset, length, each) }
        })
    }
}
