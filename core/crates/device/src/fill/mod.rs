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
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use self::file::FillFile;
use crate::buffer::{SCRATCH, Scratch, is_zero};
use crate::track::bits::Bits;
use crate::track::{BLOCK, BLOCKS, blocks_of};
use crate::{Device, Error, Extent, Result, WriteFlags, ZeroFlags};

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

    /// Wait until the blocks of a range are there.
    fn await_there(&self, offset: u64, length: u64) -> Result<()> {
        let blocks = Fill::blocks(offset, length);
        if self.done.load(Ordering::Relaxed) || self.missing.next(blocks.clone()).is_none() {
            return Ok(());
        }
        self.wait(std::slice::from_ref(&blocks), |_| self.missing.next(blocks.clone()), |_| ())
    }

    /// Wait until `lacking` names no block any more, asking for what is missing of `asked`, and `take` what is to be taken
    /// under the same lock.
    #[cold]
    fn wait<R>(
        &self,
        asked: &[Range<u64>],
        lacking: impl Fn(&State) -> Option<u64>,
        take: impl FnOnce(&mut State) -> R,
    ) -> Result<R> {
        let deadline = Instant::now() + self.patience;
        let mut state = self.state.lock();
        let before = state.failures;
        loop {
            if state.closed {
                return Err(Error::CLOSED);
            }
            let Some(block) = lacking(&state) else { return Ok(take(&mut state)) };
            if let Some((_, error)) = state.failed.get(&block).filter(|(number, _)| *number > before) {
                return Err(*error);
            }
            asked.iter().for_each(|blocks| self.ask(&mut state, blocks.clone()));
            let now = Instant::now();
            if now >= deadline {
                return Err(Error::IO);
            }
            self.changed.wait_until(&mut state, deadline.min(now + AGAIN));
        }
    }

    /// Ask for the missing blocks of a range.
    fn ask(&self, state: &mut State, blocks: Range<u64>) {
        let mut next = blocks.start;
        while let Some(block) = self.missing.next(next..blocks.end) {
            if !state.busy.contains(&block) && !state.wanted.contains(&block) {
                state.wanted.push_back(block);
                self.asked.notify_all();
            }
            next = block + 1;
        }
    }

    /// Let `act` change a range when all blocks of it are settled, or are changed as a whole.
    fn change(&self, offset: u64, length: u64, act: impl FnOnce(&dyn Device) -> Result<()>) -> Result<()> {
        if !self.done.load(Ordering::Relaxed) {
            let blocks = Fill::blocks(offset, length);
            if self.unsettled.next(blocks.clone()).is_some() {
                return self.change_first(&blocks, &self.whole(offset, length), act);
            }
        }
        act(&*self.below)
    }

    /// The blocks of which a range has every byte.
    fn whole(&self, offset: u64, length: u64) -> Range<u64> {
        let end = offset + length;
        let first = blocks_of(offset);
        let behind = if end >= self.file.size { blocks_of(end) } else { end / BLOCK };
        first..behind.max(first)
    }

    #[cold]
    fn change_first(
        &self,
        blocks: &Range<u64>,
        whole: &Range<u64>,
        act: impl FnOnce(&dyn Device) -> Result<()>,
    ) -> Result<()> {
        let edges = [blocks.start..whole.start.min(blocks.end), whole.end.max(blocks.start)..blocks.end];
        let edges = if whole.is_empty() { [blocks.clone(), 0..0] } else { edges };
        let lacking = |state: &State| {
            let edge = edges.iter().find_map(|edge| self.missing.next(edge.clone()));
            edge.or_else(|| state.busy.iter().copied().find(|block| whole.contains(block)))
        };
        let claimed = self.wait(&edges, lacking, |state| {
            let (mut claimed, mut next) = (Vec::new(), whole.start);
            while let Some(block) = self.missing.next(next..whole.end) {
                claimed.push(block);
                next = block + 1;
            }
            state.busy.extend(&claimed);
            claimed
        })?;
        let changed = self.settle(blocks.clone()).and_then(|()| act(&*self.below));
        drop(self.arrived(&claimed, changed.is_ok()));
        changed?;
        // Before this is acknowledged: from then on it must not be supplied again.
        self.settle(blocks.clone())
    }

    /// Settle those of a range that are there, or wait for whoever does; many who want that are served at once.
    fn settle(&self, blocks: Range<u64>) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            let awaited = |found: &Vec<u64>| found.iter().any(|block| blocks.contains(block));
            if !awaited(&state.there) && !awaited(&state.settling) {
                return Ok(());
            }
            if state.broken {
                return Err(Error::IO);
            }
            if !state.settling.is_empty() {
                self.changed.wait(&mut state);
                continue;
            }
            let mut batch = std::mem::take(&mut state.there);
            state.settling.clone_from(&batch);
            let settled = MutexGuard::unlocked(&mut state, || self.make_durable(&mut batch));
            state.settling.clear();
            if settled.is_ok() {
                self.note_settled(&batch);
            } else {
                state.there.extend(batch);
                state.broken |= settled == Err(Unsettled::File);
            }
            self.changed.notify_all();
            settled.map_err(|_| Error::IO)?;
        }
    }

    fn make_durable(&self, batch: &mut [u64]) -> std::result::Result<(), Unsettled> {
        self.below.flush().map_err(|_| Unsettled::Content)?;
        self.file.settle(&self.unsettled, batch).map_err(|_| Unsettled::File)
    }

    fn note_settled(&self, batch: &[u64]) {
        batch.iter().for_each(|block| self.unsettled.unset(*block));
        let left = self.left.fetch_sub(batch.len() as u64, Ordering::SeqCst) - batch.len() as u64;
        if left == 0 {
            self.done.store(true, Ordering::SeqCst);
            self.asked.notify_all();
        }
    }
}

/// What could not be made durable.
#[derive(PartialEq, Eq)]
enum Unsettled {
    Content,
    File,
}

/// The layer as part of a stack, beside whom somebody else holds it too.
pub(crate) struct Shared(pub(crate) Arc<Fill>);

impl Device for Shared {
    fn size(&self) -> u64 {
        self.0.below.size()
    }

    fn read_only(&self) -> bool {
        self.0.below.read_only()
    }

    fn alignment(&self) -> u32 {
        self.0.below.alignment()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.0.await_there(offset, buffer.len() as u64)?;
        self.0.below.read(buffer, offset)
    }

    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        self.0.change(offset, buffer.len() as u64, |below| below.write(buffer, offset, flags))
    }

    fn flush(&self) -> Result<()> {
        self.0.below.flush()
    }

    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        let fill = &self.0;
        if !fill.discards {
            return Ok(());
        }
        if fill.missing.next(Fill::blocks(offset, length)).is_none() {
            return fill.change(offset, length, |below| below.discard(offset, length, flags));
        }
        // A missing block may have anything in it by now, which a discard below might leave there.
        let flags = ZeroFlags { fua: flags.fua, ..ZeroFlags::default() };
        fill.change(offset, length, |below| below.write_zeroes(offset, length, flags))
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        self.0.change(offset, length, |below| below.write_zeroes(offset, length, flags))
    }

    /// What is missing counts as data.
    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        let (mut at, end, mut on) = (offset, offset + length, true);
        while on && at < end {
            let missing = self.0.missing.next(Fill::blocks(at, end - at)).map_or(end, |block| (block * BLOCK).max(at));
            if missing > at {
                self.0.below.extents(at, missing - at, &mut |found| {
                    on = each(found);
                    on
                })?;
                at = missing;
                continue;
            }
            let mut stop = (at / BLOCK + 1) * BLOCK;
            while stop < end && self.0.missing.get(stop / BLOCK) {
                stop += BLOCK;
            }
            let stop = stop.min(end);
            on = each(Extent { offset: at, length: stop - at, hole: false });
            at = stop;
        }
        Ok(())
    }
}
