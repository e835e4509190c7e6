//! One snapshot that is being made: which blocks it still needs, and the old content of those that have changed since.
//!
//! A block is *settled* when it may change: its old content is in the spool, or nobody needs it. Whoever changes a block
//! settles it before. So who reads a block for the snapshot reads the backing, and looks afterwards whether it is settled
//! by now: if not, nobody can have changed what was read; if so, the spool has it. No reader keeps a writer waiting.
//!
//! Trouble with the spool ends the snapshot, never a write.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering, fence};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::bits::Bits;
use super::{BLOCK, BLOCKS, blocks_of};
use crate::buffer::{SCRATCH, Scratch, is_zero};
use crate::{Device, Error, Result};

/// Locks, each for every so many-th block.
const STRIPES: usize = 256;

/// The state of a snapshot.
pub(crate) struct Snapshot {
    /// Bytes of the volume when it began.
    pub(crate) size: u64,
    /// The base whose changes it holds; empty where it holds everything.
    pub(crate) base: String,
    wanted: Bits,
    settled: Bits,
    copied: Bits,
    stripes: Box<[Mutex<()>; STRIPES]>,
    /// A sparse file in which each block has the place that it has in the volume; none once it is over.
    spool: RwLock<Option<fs::File>>,
    copies: AtomicU64,
    failure: AtomicI32,
}

impl Snapshot {
    /// Of a volume of `size` bytes: of what has `changed` since `base`, or of everything. `spool` is empty.
    pub(crate) fn new(size: u64, base: &str, changed: Option<&Bits>, spool: fs::File) -> Snapshot {
        let blocks = blocks_of(size);
        let bits = || Bits::new(BLOCKS, blocks);
        let (wanted, settled) = (bits(), bits());
        match changed {
            Some(changed) => {
                wanted.copy(changed, blocks, false);
                settled.copy(changed, blocks, true);
            }
            None => wanted.set(0..blocks),
        }
        Snapshot {
            size,
            base: if changed.is_some() { base.to_owned() } else { String::new() },
            wanted,
            settled,
            copied: bits(),
            stripes: Box::new(std::array::from_fn(|_| Mutex::new(()))),
            spool: RwLock::new(Some(spool)),
            copies: AtomicU64::new(0),
            failure: AtomicI32::new(0),
        }
    }

    pub(crate) fn blocks(&self) -> u64 {
        blocks_of(self.size)
    }

    /// Blocks still to be stored.
    pub(crate) fn remaining(&self) -> u64 {
        self.wanted.count(self.blocks())
    }

    /// Blocks copied to the spool so far.
    pub(crate) fn copies(&self) -> u64 {
        self.copies.load(Ordering::Relaxed)
    }

    /// Whether it can still come to a good end.
    pub(crate) fn check(&self) -> Result<()> {
        match self.failure.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(Error(errno)),
        }
    }

    /// Give it up for a reason; the first one stays.
    pub(crate) fn fail(&self, error: Error) {
        let _ = self.failure.compare_exchange(0, error.0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// It is over: nothing can be read any more, and the spool is let go.
    pub(crate) fn end(&self) {
        self.fail(Error::CLOSED);
        drop(self.spool.write().take());
    }

    fn with_spool<R>(&self, work: impl FnOnce(&fs::File) -> io::Result<R>) -> Result<R> {
        match self.spool.read().as_ref() {
            Some(spool) => work(spool).map_err(Error::from),
            None => Err(Error::CLOSED),
        }
    }

    fn lock(&self, block: u64) -> MutexGuard<'_, ()> {
        self.stripes[(block % STRIPES as u64) as usize].lock()
    }

    /// Where a block is in the volume, and in the spool.
    pub(crate) fn place(&self, block: u64) -> (u64, usize) {
        let offset = block * BLOCK;
        (offset, (self.size - offset).min(BLOCK) as usize)
    }

    /// Settle blocks that are about to change.
    pub(crate) fn preserve(&self, below: &dyn Device, blocks: Range<u64>) {
        let end = blocks.end.min(self.blocks());
        let mut block = blocks.start;
        while block < end && self.check().is_ok() {
            let settled = if self.settled.get(block) { Ok(block + 1) } else { self.settle(below, block, end) };
            match settled {
                Ok(next) => block = next,
                Err(error) => self.fail(error),
            }
        }
        // What is written after this must not be seen by who does not see the bits.
        fence(Ordering::SeqCst);
    }

    /// Settle a run of holes, or else one block; the next one to look at.
    fn settle(&self, below: &dyn Device, block: u64, end: u64) -> Result<u64> {
        let (from, to) = (block * BLOCK, (end * BLOCK).min(self.size));
        let data = below.first_data(from, to - from)?.map_or(end, |data| data / BLOCK);
        if data > block {
            // A hole now was one when the snapshot began, or was copied before it became one. The spool is a hole there
            // in the first case, and right in the second.
            self.copied.set(block..data);
            self.settled.set(block..data);
            return Ok(data);
        }
        let _lock = self.lock(block);
        if !self.settled.get(block) {
            self.copy(below, block)?;
            self.copied.set(block..block + 1);
            self.settled.set(block..block + 1);
        }
        Ok(block + 1)
    }

    fn copy(&self, below: &dyn Device, block: u64) -> Result<()> {
        let (offset, length) = self.place(block);
        let mut scratch = Scratch::take();
        for start in (0..length).step_by(SCRATCH) {
            let piece = &mut scratch[..(length - start).min(SCRATCH)];
            below.read(piece, offset + start as u64)?;
            if !is_zero(piece) {
                self.with_spool(|spool| spool.write_all_at(piece, offset + start as u64))?;
            }
        }
        self.copies.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Fill `buffer` with what a block had `start` bytes in when the snapshot began.
    pub(crate) fn read(&self, below: &dyn Device, block: u64, start: usize, buffer: &mut [u8]) -> Result<()> {
        let at = self.place(block).0 + start as u64;
        if !self.settled.get(block) {
            below.read(buffer, at)?;
            if self.is_untouched(block) {
                return Ok(());
            }
        }
        let _lock = self.lock(block);
        self.check()?;
        if !self.copied.get(block) {
            return Err(Error::INVALID);
        }
        self.with_spool(|spool| read_sparse(spool, buffer, at))
    }

    /// Whether what was read of a block before this call is what it had when the snapshot began.
    fn is_untouched(&self, block: u64) -> bool {
        fence(Ordering::SeqCst);
        // Of a snapshot that failed blocks change unsettled.
        !self.settled.get(block) && self.check().is_ok()
    }

    /// Whether a block is to be stored, and was not stored yet.
    pub(crate) fn is_wanted(&self, block: u64) -> bool {
        self.wanted.get(block)
    }

    /// Whether a block had nothing but zeros when the snapshot began; false where that is not known without reading it.
    pub(crate) fn is_hole(&self, below: &dyn Device, block: u64) -> Result<bool> {
        let (offset, length) = self.place(block);
        Ok(!self.settled.get(block) && below.first_data(offset, length as u64)?.is_none() && self.is_untouched(block))
    }

    /// The first wanted block from `block` on that is not known to be a hole without reading it.
    pub(crate) fn next_data(&self, below: &dyn Device, block: u64) -> Result<Option<u64>> {
        let mut next = self.next(block);
        while let Some(block) = next {
            let offset = block * BLOCK;
            let data = below.first_data(offset, self.size - offset)?.map_or(self.blocks(), |data| data / BLOCK);
            // What was data, and was discarded before we looked, has been copied before that.
            fence(Ordering::SeqCst);
            let copied = self.copied.next(block..data).unwrap_or(data);
            let found = copied.min(data);
            next = self.next(found);
            if next == Some(found) {
                break;
            }
        }
        self.check()?;
        Ok(next)
    }

    /// The first wanted block from `block` on.
    pub(crate) fn next(&self, block: u64) -> Option<u64> {
        self.wanted.next(block..self.blocks())
    }

    /// The block is stored: it may change without a copy, and its place in the spool is free.
    pub(crate) fn done(&self, block: u64) {
        let _lock = self.lock(block);
        self.wanted.unset(block);
        self.settled.set(block..block + 1);
        if self.copied.get(block) {
            self.copied.unset(block);
            let (offset, length) = self.place(block);
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // Where it fails the space is free a little later.
            let _ = self.with_spool(|spool| {
                // SAFETY: a plain system call on a descriptor that we own.
                let done =
                    unsafe { libc::fallocate(spool.as_raw_fd(), mode, offset as libc::off_t, length as libc::off_t) };
                if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            });
        }
    }
}

/// Read what was written, and zeros where nothing was.
fn read_sparse(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
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

#[cfg(test)]
mod tests;
