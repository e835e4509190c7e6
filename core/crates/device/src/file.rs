//! The lowest layer: requests become system calls, and what system calls leave undone is done here.
//!
//! A failed fdatasync is for ever: the kernel has dropped the dirty pages by then and marked them clean, so that asking
//! again would succeed although the data is lost ("fsyncgate", 2018). Hence, after the first failure, every FLUSH and
//! FUA fails until the volume is opened anew, and its user has to look after the data.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backing::{Backing, is_unsupported};
use crate::{Device, Error, Extent, Result, WriteFlags, ZeroFlags};

/// How often EAGAIN is answered with a pause of a millisecond before it becomes EIO. Neither regular files nor block
/// devices should give it at all; network and FUSE file systems have been seen to.
const PATIENCE: u32 = 1000;

/// What is written where zeros have to be written, page-aligned for O_DIRECT.
#[repr(align(4096))]
struct Zeros([u8; 128 * 1024]);
static ZEROS: Zeros = Zeros([0; 128 * 1024]);

/// The bytes of the volume as they are stored, from `data_offset` of the backing.
pub(crate) struct File<B> {
    backing: B,
    data_offset: u64,
    read_only: bool,
    discard: bool,
    /// The stack's alignment: what a request is a multiple of, and a hole is made of.
    unit: u32,
    lost: AtomicBool,
    cannot_punch: AtomicBool,
    cannot_zero: AtomicBool,
}

impl<B: Backing> File<B> {
    /// `data_offset` and all requests are multiples of `unit`, a power of two that the backing's demands divide.
    pub(crate) fn new(backing: B, data_offset: u64, unit: u32, read_only: bool, discard: bool) -> File<B> {
        let (lost, cannot_punch, cannot_zero) =
            (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
        File { backing, data_offset, read_only, discard, unit, lost, cannot_punch, cannot_zero }
    }

    /// Repeat `step`, which is told how much is done already, until `length` bytes are. A part of the backing's unit is
    /// done again, since O_DIRECT would not go on from there.
    fn all(&self, length: usize, mut step: impl FnMut(usize) -> io::Result<usize>) -> Result<()> {
        let unit = self.backing.demands().offset as usize;
        let mut done = 0;
        while done < length {
            let count = persist(|| step(done))?;
            let progress = if done + count < length { count - count % unit } else { count };
            if progress == 0 {
                // The backing ended before the volume does, or takes no more bytes without saying why.
                return Err(Error::IO);
            }
            done += progress;
        }
        Ok(())
    }

    /// Note a failure to make data durable.
    fn durable<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.lost.store(true, Ordering::SeqCst);
        }
        result
    }

    fn check_durable(&self) -> Result<()> {
        if self.lost.load(Ordering::SeqCst) { Err(Error::IO) } else { Ok(()) }
    }

    /// Try one way of zeroing; false when the backing does not have it.
    fn attempt(&self, cannot: &AtomicBool, way: impl Fn() -> io::Result<()>) -> Result<bool> {
        if cannot.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let result = persist(|| match way() {
            Err(error) if is_unsupported(&error) => Ok(false),
            result => result.map(|()| true),
        })?;
        cannot.store(!result, Ordering::Relaxed);
        Ok(result)
    }

    fn punch(&self, start: u64, length: u64) -> Result<bool> {
        self.attempt(&self.cannot_punch, || self.backing.punch(start, length))
    }

    fn zero(&self, start: u64, length: u64, fast: bool) -> Result<bool> {
        if fast && !self.backing.demands().fast_zero {
            return Ok(false);
        }
        self.attempt(&self.cannot_zero, || self.backing.zero(start, length))
    }

    fn write_zeros_out(&self, start: u64, length: u64) -> Result<()> {
        let mut done = 0;
        while done < length {
            let piece = &ZEROS.0[..(length - done).min(ZEROS.0.len() as u64) as usize];
            self.all(piece.len(), |at| self.backing.write_at(&piece[at..], start + done + at as u64))?;
            done += piece.len() as u64;
        }
        Ok(())
    }
}

/// Make a system call again when a signal came in between, and for a while when it is told to try again.
fn persist<T>(mut call: impl FnMut() -> io::Result<T>) -> Result<T> {
    let mut patience = PATIENCE;
    loop {
        let error = match call() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN) if patience > 0 => {
                patience -= 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Some(libc::EAGAIN) => return Err(Error::IO),
            // A quota or a limit on the file's size is, to a block device, no space.
            Some(libc::EDQUOT | libc::EFBIG) => return Err(Error(libc::ENOSPC)),
            _ => return Err(error.into()),
        }
    }
}

impl<B: Backing> Device for File<B> {
    fn size(&self) -> u64 {
        self.backing.length().unwrap_or(0).saturating_sub(self.data_offset)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn alignment(&self) -> u32 {
        self.unit
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let start = self.data_offset + offset;
        self.all(buffer.len(), |done| self.backing.read_at(&mut buffer[done..], start + done as u64))
    }

    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        let start = self.data_offset + offset;
        if !flags.fua {
            return self.all(buffer.len(), |done| self.backing.write_at(&buffer[done..], start + done as u64));
        }
        self.check_durable()?;
        let written =
            self.all(buffer.len(), |done| self.backing.write_durably_at(&buffer[done..], start + done as u64));
        if written == Err(Error(libc::ENOSPC)) {
            // Refused: nothing was promised, and nothing is lost.
            return written;
        }
        // Whether the write failed or only its way to the disk cannot be told apart: the latter is assumed.
        self.durable(written)?;
        self.check_durable()
    }

    fn flush(&self) -> Result<()> {
        self.check_durable()?;
        self.durable(persist(|| self.backing.sync()))?;
        self.check_durable()
    }

    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        if self.discard && length > 0 && self.punch(self.data_offset + offset, length)? && flags.fua {
            self.flush()?;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        let start = self.data_offset + offset;
        // Who wants no discards wants the space kept, and no holes that tell where nothing is.
        let punch = self.discard && !flags.no_hole;
        let zeroed = length == 0 || (punch && self.punch(start, length)?) || self.zero(start, length, flags.fast)?;
        if !zeroed {
            if flags.fast {
                return Err(Error::UNSUPPORTED);
            }
            self.write_zeros_out(start, length)?;
        }
        if flags.fua { self.flush() } else { Ok(()) }
    }

    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        let start = self.data_offset + offset;
        let found = |at: u64, length: u64, hole: bool| Extent { offset: at - self.data_offset, length, hole };
        let mut joined = Joined { pending: None, each };
        let end = start + length;
        let unit = u64::from(self.unit);
        let mut next = start;
        while next < end {
            let Some(data) = self.data_from(next, end)? else {
                joined.push(found(next, end - next, false));
                break;
            };
            // A unit that is data in part is data: holes shrink to whole units.
            let data = (data / unit * unit).max(next);
            if data > next && !joined.push(found(next, data - next, true)) {
                return Ok(());
            }
            if data == end {
                break;
            }
            let hole = persist(|| self.backing.next_hole(data))?;
            let stop = hole.max(data + 1).next_multiple_of(unit).min(end);
            if !joined.push(found(data, stop - data, false)) {
                return Ok(());
            }
            next = stop;
        }
        joined.finish();
        Ok(())
    }

    fn first_data(&self, offset: u64, length: u64) -> Result<Option<u64>> {
        let (start, end) = (self.data_offset + offset, self.data_offset + offset + length);
        let data = self.data_from(start, end)?.unwrap_or(start);
        Ok((data < end).then(|| data - self.data_offset))
    }
}

impl<B: Backing> File<B> {
    /// Where data begins between `next` and `end` (`end` if nowhere); none when the backing cannot tell.
    fn data_from(&self, next: u64, end: u64) -> Result<Option<u64>> {
        persist(|| match self.backing.next_data(next) {
            Ok(data) => Ok(Some(data.unwrap_or(end).min(end))),
            Err(error) if is_unsupported(&error) || error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
        })
    }
}

/// Hands extents on, neighbours of the same state as one.
struct Joined<'a> {
    pending: Option<Extent>,
    each: &'a mut dyn FnMut(Extent) -> bool,
}

impl Joined<'_> {
    fn push(&mut self, extent: Extent) -> bool {
        match &mut self.pending {
            Some(pending) if pending.hole == extent.hole => {
                pending.length += extent.length;
                true
            }
            pending => match pending.replace(extent) {
                Some(done) => (self.each)(done),
                None => true,
            },
        }
    }

    fn finish(self) {
        if let Some(extent) = self.pending {
            (self.each)(extent);
        }
    }
}

#[cfg(test)]
mod tests;
