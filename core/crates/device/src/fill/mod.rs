//! Lets a volume be used whose blocks are still to come: a request to a block that is missing waits until it is there.
//!
//! The layer sees bytes as they are stored, below the cipher and below `track`, for which a block that comes is no change.
//! Who has the blocks asks which are wanted ([`Fill::wanted`]), and brings those and the rest ([`Fill::supply`]).
//!
//! A block goes from *missing* over *there* to *settled*, and the fill file says missing until it is settled:
//!
//! ```text
//! missing   its content is in the snapshot; nobody but who supplies it writes here
//! there     its content is here, perhaps not durable; it can be read
//! settled   its content was made durable, and after that the bit of the fill file; it can be changed
//! ```
//!
//! So a block whose content is not durable is supplied again after a crash, and one that was changed never is: no late
//! block can overwrite a change, whatever dies when. Who changes a whole block need not wait for what was in it. Such a
//! change counts as the block's supply, is made durable, settled, and only then acknowledged: until then the content from
//! before may come back, as for any change that was not acknowledged.
//!
//! Once every block is settled a request costs one load and a comparison.

pub(crate) mod file;
mod requests;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use self::file::FillFile;
pub(crate) use self::requests::Shared;
use crate::buffer::{SCRATCH, Scratch, is_zero};
use crate::track::bits::Bits;
use crate::track::{BLOCK, BLOCKS, blocks_of};
use crate::{Device, Error, Result, WriteFlags, ZeroFlags};

/// How many blocks may be there without being settled before whoever supplies one settles them: 128 MiB.
const BATCH: usize = 256;
/// Bytes that are left a hole where they are zero: a page, which is what file systems allocate at least.
const GRAIN: usize = 4096;
/// After so long whoever waits asks again: who was to supply the block may have died.
const AGAIN: Duration = Duration::from_secs(1);

/// What changes under the lock.
#[derive(Default)]
struct State {
    /// Missing blocks that somebody waits for, each once.
    wanted: VecDeque<u64>,
    /// Missing blocks to which somebody is writing.
    busy: HashSet<u64>,
    /// Why a block could not be supplied, and the how-manyeth failure that was.
    failed: HashMap<u64, (u64, Error)>,
    failures: u64,
    /// Blocks that are there and not settled.
    there: Vec<u64>,
    /// Those of them that somebody is settling just now.
    settling: Vec<u64>,
    /// The fill file could not be written: what is on its disk is not known any more, and nothing can be settled.
    broken: bool,
    closed: bool,
}

/// What the layer begins with.
pub(crate) struct Filling {
    pub(crate) file: FillFile,
    pub(crate) missing: Bits,
    /// How long a request waits for a block.
    pub(crate) patience: Duration,
}

/// The layer.
pub(crate) struct Fill {
    below: Box<dyn Device>,
    file: FillFile,
    /// Not there yet.
    missing: Bits,
    /// Not settled yet: what the file has.
    unsettled: Bits,
    /// How many are not settled.
    left: AtomicU64,
    done: AtomicBool,
    state: Mutex<State>,
    /// Somebody's block may be there or settled, or cannot be.
    changed: Condvar,
    /// Somebody wants a block.
    asked: Condvar,
    /// How long a request waits for a block.
    patience: Duration,
    /// Whether the layer below gives discarded space back.
    discards: bool,
}

impl Fill {
    /// `discards`: whether a discard does anything below.
    pub(crate) fn new(below: Box<dyn Device>, filling: Filling, discards: bool) -> Fill {
        let Filling { file, missing, patience } = filling;
        let blocks = blocks_of(file.size);
        let unsettled = Bits::new(BLOCKS, blocks);
        unsettled.copy(&missing, blocks, false);
        let left = missing.count(blocks);
        Fill {
            below,
            file,
            missing,
            unsettled,
            left: AtomicU64::new(left),
            done: AtomicBool::new(left == 0),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            asked: Condvar::new(),
            patience,
            discards,
        }
    }

    /// Blocks that are not settled.
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::SeqCst)
    }

    /// The first block from `block` on that is missing.
    pub(crate) fn next_missing(&self, block: u64) -> Option<u64> {
        self.missing.next(block..blocks_of(self.file.size))
    }

    /// The missing blocks for which somebody waits, after waiting up to `timeout` for there to be one. Each is told
    /// again after a while as long as it is waited for.
    pub(crate) fn wanted(&self, timeout: Duration) -> Vec<u64> {
        let deadline = Instant::now() + timeout;
        let mut state = self.state.lock();
        loop {
            let wanted: Vec<u64> = state.wanted.drain(..).filter(|block| self.missing.get(*block)).collect();
            if !wanted.is_empty() || state.closed || self.left() == 0 {
                return wanted;
            }
            if self.asked.wait_until(&mut state, deadline).timed_out() {
                return Vec::new();
            }
        }
    }

    /// Where a block is in the volume.
    fn place(&self, block: u64) -> Result<(u64, usize)> {
        let offset = block.checked_mul(BLOCK).filter(|offset| *offset < self.file.size).ok_or(Error::INVALID)?;
        Ok((offset, BLOCK.min(self.file.size - offset) as usize))
    }

    /// The content of a block, as it is stored; where `stored` is shorter than the block zeros follow. Nothing happens where it
    /// is there by now, or somebody else is writing it.
    ///
    /// # Errors
    /// EINVAL for a block that the volume does not have, or more bytes than one has; what the write says, which is
    /// also told to those who wait for the block; what settling says: the block is there nevertheless.
    pub(crate) fn supply(&self, block: u64, stored: &[u8]) -> Result<()> {
        let (offset, length) = self.place(block)?;
        if stored.len() > length {
            return Err(Error::INVALID);
        }
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Error::CLOSED);
            }
            if !self.missing.get(block) || !state.busy.insert(block) {
                return Ok(());
            }
        }
        let written = self.put(offset, length, stored);
        let full = self.arrived(&[block], written.is_ok()).there.len() >= BATCH;
        if let Err(error) = written {
            self.fail(block, error);
            return Err(error);
        }
        if full { self.settle_all() } else { Ok(()) }
    }

    /// A block cannot be supplied now: those who wait for it fail.
    pub(crate) fn fail(&self, block: u64, error: Error) {
        let mut state = self.state.lock();
        if self.missing.get(block) {
            state.failures += 1;
            let failure = (state.failures, error);
            state.failed.insert(block, failure);
            self.changed.notify_all();
        }
    }

    /// Settle what is there.
    ///
    /// # Errors
    /// When the content or the fill file cannot be made durable. It is tried again for content only.
    pub(crate) fn settle_all(&self) -> Result<()> {
        self.settle(0..blocks_of(self.file.size))
    }

    /// Let nobody wait any more: those who do, and those to come, fail with ESHUTDOWN.
    pub(crate) fn shut(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        self.asked.notify_all();
    }

    /// Write a whole block, holes where it has zeros: what is there may be older than the hole that belongs there.
    fn put(&self, offset: u64, length: usize, stored: &[u8]) -> Result<()> {
        let mut scratch = Scratch::take();
        for start in (0..length).step_by(SCRATCH) {
            let piece = &mut scratch[..(length - start).min(SCRATCH)];
            let given = stored.get(start..).unwrap_or_default();
            let given = &given[..given.len().min(piece.len())];
            piece[..given.len()].copy_from_slice(given);
            piece[given.len()..].fill(0);
            self.put_piece(offset + start as u64, piece)?;
        }
        Ok(())
    }

    fn put_piece(&self, offset: u64, piece: &mut [u8]) -> Result<()> {
        let grain = GRAIN.max(self.below.alignment() as usize);
        let mut start = 0;
        while start < piece.len() {
            let zero = is_zero(&piece[start..piece.len().min(start + grain)]);
            let mut end = start;
            while end < piece.len() && is_zero(&piece[end..piece.len().min(end + grain)]) == zero {
                end = piece.len().min(end + grain);
            }
            let at = offset + start as u64;
            if zero {
                self.below.write_zeroes(at, (end - start) as u64, ZeroFlags::default())?;
            } else {
                self.below.write(&mut piece[start..end], at, WriteFlags::default())?;
            }
            start = end;
        }
        Ok(())
    }

    /// Nobody writes these blocks any more, which were missing; where it went `well` they are there.
    fn arrived(&self, blocks: &[u64], well: bool) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        for block in blocks {
            state.busy.remove(block);
            if well {
                state.failed.remove(block);
                state.there.push(*block);
                self.missing.unset(*block);
            }
        }
        self.changed.notify_all();
        state
    }

    /// Blocks that a range touches.
    fn blocks(offset: u64, length: u64) -> Range<u64> {
        if length == 0 { 0..0 } else { offset / BLOCK..blocks_of(offset + length) }
    }
}
