//! Requests on their way through the layer: who waits, who goes on, and who need not wait.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{AGAIN, Fill, State};
use crate::track::{BLOCK, blocks_of};
use crate::{Device, Error, Extent, Result, WriteFlags, ZeroFlags};

impl Fill {
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
