//! Which blocks have changed since a named state of the volume, its *base*, kept in a file that survives crashes.
//!
//! Unsure means changed, never the reverse. A block's bit is in the file before the first write to that block goes down.
//! When this process dies, the kernel still has both. When the machine does, each may or may not have reached its disk:
//! so there is a second, coarse bit for each region, and that one is made durable before the first write to the region goes
//! down. After an end that was not in order, under another boot, a region's bit stands for all of its blocks.
//!
//! ```text
//!   0      header (see `header`)
//!   4096   area 0:  regions, 8 KiB · blocks, 16 MiB
//!   …      area 1:  the same
//! ```
//!
//! Of the two areas one counts. While a snapshot is being made the other collects what has changed since it began, and
//! both are written: the snapshot's end makes the other one count by a single sector, its failure changes nothing.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::bits::Bits;
use super::header::{self, Header};
use super::{BLOCKS, blocks_of};
use crate::Result;
use crate::backing::{Backing, read_all, write_all};

/// Blocks of a region: 1 GiB.
const REGION: u64 = 2048;
const REGIONS: u64 = BLOCKS / REGION;
const FIRST_AREA: u64 = 4096;
const AREA: u64 = REGIONS / 8 + BLOCKS / 8;
/// Bytes of bits that are written at once.
const PIECE: usize = 4096;

/// One area: its bits in memory, and where they are in the file.
struct Area {
    regions: Bits,
    blocks: Bits,
    offset: u64,
}

/// What changes rarely, and only under its lock.
struct State {
    base: String,
    /// What the header in the file says is not known: everything must be forgotten before anything is noted again.
    unsettled: bool,
}

/// The change file of an open volume.
pub(crate) struct Changes {
    file: Box<dyn Backing>,
    boot: [u8; 16],
    areas: [Area; 2],
    /// The area that counts.
    active: AtomicUsize,
    /// The area in which a bit must be set before a block may change: the active one but during a snapshot.
    current: AtomicUsize,
    state: Mutex<State>,
}

/// Bytes that the file needs to have for a volume of `size` bytes in each area, as ranges of the file.
pub(crate) fn room(size: u64) -> [Range<u64>; 3] {
    let area = |number: u64| {
        let start = FIRST_AREA + number * AREA;
        start..start + REGIONS / 8 + blocks_of(size).div_ceil(8).next_multiple_of(PIECE as u64)
    };
    [0..FIRST_AREA, area(0), area(1)]
}

impl Changes {
    /// Take a file over for a volume of `size` bytes. What it says is believed if it was closed in order, or by a process
    /// that died under this `boot`; after another boot died a region's bit stands for its blocks. Where it says nothing
    /// that can be believed there is no base.
    pub(crate) fn open(file: Box<dyn Backing>, boot: [u8; 16], size: u64) -> io::Result<Changes> {
        let area = |number| Area {
            regions: Bits::new(REGIONS, REGIONS),
            blocks: Bits::new(BLOCKS, blocks_of(size)),
            offset: FIRST_AREA + number * AREA,
        };
        let mut bytes = [0; header::SIZE];
        read_all(&*file, &mut bytes, 0)?;
        // What the kernel could not write down it says once, to the first who asks.
        let intact = file.sync().is_ok();
        let found = Header::parse(&bytes).filter(|_| intact);
        let active = found.as_ref().map_or(0, |header| header.active);
        let mut changes = Changes {
            file,
            boot,
            areas: [area(0), area(1)],
            active: AtomicUsize::new(active),
            current: AtomicUsize::new(active),
            state: Mutex::new(State { base: String::new(), unsettled: false }),
        };
        if let Some(header) = found.filter(|header| !header.base.is_empty()) {
            let exact = header.clean || (header.boot == boot && boot != [0; 16]);
            if changes.load(exact, blocks_of(size)).is_ok() {
                changes.state.get_mut().base = header.base;
            }
        }
        let state = changes.state.lock();
        changes.write_header(&state.base, active, false)?;
        drop(state);
        Ok(changes)
    }

    fn load(&self, exact: bool, blocks: u64) -> io::Result<()> {
        let area = &self.areas[self.active.load(Ordering::SeqCst)];
        let mut bytes = [0; PIECE];
        for at in (0..REGIONS / 8).step_by(PIECE) {
            read_all(&*self.file, &mut bytes, area.offset + at)?;
            area.regions.merge(at, &bytes);
        }
        for at in (0..blocks.div_ceil(8)).step_by(PIECE) {
            read_all(&*self.file, &mut bytes, area.blocks_offset() + at)?;
            area.blocks.merge(at, &bytes);
        }
        let mut from = 0;
        while let Some(region) = area.regions.next(from..REGIONS).filter(|_| !exact) {
            let meant = region * REGION..(region + 1) * REGION;
            self.write_bits(&area.blocks, area.blocks_offset(), meant.clone())?;
            area.blocks.set(meant);
            from = region + 1;
        }
        if exact { Ok(()) } else { self.file.sync() }
    }

    /// Write the bytes around a range of bits, that range set.
    fn write_bits(&self, bits: &Bits, offset: u64, range: Range<u64>) -> io::Result<()> {
        let mut bytes = [0; PIECE];
        let (first, end) = (range.start / 64 * 8, range.end.div_ceil(64) * 8);
        for at in (first..end).step_by(PIECE) {
            let piece = &mut bytes[..(end - at).min(PIECE as u64) as usize];
            bits.store(at, piece);
            for bit in range.start.max(at * 8)..range.end.min((at + piece.len() as u64) * 8) {
                piece[(bit / 8 - at) as usize] |= 1 << (bit % 8);
            }
            write_all(&*self.file, piece, offset + at)?;
        }
        Ok(())
    }

    fn write_header(&self, base: &str, active: usize, clean: bool) -> io::Result<()> {
        let header = Header { clean, active, boot: self.boot, base: base.to_owned() };
        write_all(&*self.file, &header.to_bytes(), 0)?;
        self.file.sync()
    }

    /// Note that blocks are about to change. When it returns, they may.
    pub(crate) fn mark(&self, blocks: Range<u64>) -> Result<()> {
        let current = &self.areas[self.current.load(Ordering::SeqCst)];
        if current.blocks.all(blocks.clone()) { Ok(()) } else { self.mark_new(blocks) }
    }

    #[cold]
    fn mark_new(&self, blocks: Range<u64>) -> Result<()> {
        let mut state = self.state.lock();
        if state.unsettled {
            self.forget(&mut state)?;
        }
        let (active, current) = (self.active.load(Ordering::SeqCst), self.current.load(Ordering::SeqCst));
        // Without a base everything counts as changed, and its area need not be kept.
        let kept = [
            (!state.base.is_empty()).then_some(&self.areas[active]),
            (current != active).then_some(&self.areas[current]),
        ];
        if self.write_marks(kept, &blocks).is_err() {
            // Not noted: so nothing that was noted before can be believed any more. Where not even that can be written
            // down the volume must not change.
            self.forget(&mut state)?;
        }
        for area in [active, current] {
            self.areas[area].blocks.set(blocks.clone());
        }
        Ok(())
    }

    fn write_marks(&self, kept: [Option<&Area>; 2], blocks: &Range<u64>) -> io::Result<()> {
        let regions = blocks.start / REGION..blocks.end.div_ceil(REGION);
        let new = || kept.into_iter().flatten().filter(|area| !area.regions.all(regions.clone()));
        if new().next().is_some() {
            new().try_for_each(|area| self.write_bits(&area.regions, area.offset, regions.clone()))?;
            self.file.sync()?;
            kept.into_iter().flatten().for_each(|area| area.regions.set(regions.clone()));
        }
        kept.into_iter()
            .flatten()
            .try_for_each(|area| self.write_bits(&area.blocks, area.blocks_offset(), blocks.clone()))
    }

    /// Let everything count as changed, durably. While a snapshot is being made its area is given up too. Where this fails
    /// no new block may change, and those that may are noted in whichever area the file names.
    fn forget(&self, state: &mut State) -> Result<()> {
        state.base = String::new();
        state.unsettled = true;
        let active = self.active.load(Ordering::SeqCst);
        self.write_header("", active, false)?;
        self.current.store(active, Ordering::SeqCst);
        state.unsettled = false;
        Ok(())
    }

    /// Ready the area that collects for a snapshot to come: no bit in it, in memory and in the file.
    pub(crate) fn prepare(&self, size: u64) -> Result<()> {
        let mut state = self.state.lock();
        if state.unsettled {
            // The file may name the area that is cleared here.
            self.forget(&mut state)?;
        }
        let active = self.active.load(Ordering::SeqCst);
        let area = &self.areas[1 - active];
        area.regions.clear();
        area.blocks.clear();
        area.blocks.make_room(blocks_of(size));
        for at in (0..AREA.min(REGIONS / 8 + blocks_of(size).div_ceil(8))).step_by(PIECE) {
            write_all(&*self.file, &[0; PIECE], area.offset + at)?;
        }
        Ok(())
    }

    /// Begin to collect, and give what has changed since `base`, as far as `blocks`; none where that is not known. No
    /// request is under way, and `prepare` was called before.
    pub(crate) fn begin(&self, base: &str, blocks: u64) -> Option<Bits> {
        let state = self.state.lock();
        let active = self.active.load(Ordering::SeqCst);
        self.current.store(1 - active, Ordering::SeqCst);
        let known = !base.is_empty() && state.base == base;
        known.then(|| {
            let changed = Bits::new(BLOCKS, blocks);
            changed.copy(&self.areas[active].blocks, blocks, false);
            changed
        })
    }

    /// The snapshot is complete: what has changed since it began is from now on what has changed since `base`.
    pub(crate) fn commit(&self, base: &str) -> Result<()> {
        let mut state = self.state.lock();
        let (active, current) = (self.active.load(Ordering::SeqCst), self.current.load(Ordering::SeqCst));
        if active == current {
            // Something was not noted meanwhile: everything counts as changed already.
            return Ok(());
        }
        let written = self.file.sync().and_then(|()| self.write_header(base, current, false));
        if written.is_err() {
            return self.forget(&mut state);
        }
        state.base = base.to_owned();
        self.active.store(current, Ordering::SeqCst);
        Ok(())
    }

    /// The snapshot is not to be: everything is as if it had never begun.
    pub(crate) fn give_up(&self) {
        let state = self.state.lock();
        if !state.unsettled {
            self.current.store(self.active.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }

    /// The base, and how many of the first `blocks` blocks have changed since.
    pub(crate) fn report(&self, blocks: u64) -> (String, u64) {
        let state = self.state.lock();
        let area = &self.areas[self.active.load(Ordering::SeqCst)];
        let changed = if state.base.is_empty() { blocks } else { area.blocks.count(blocks) };
        (state.base.clone(), changed)
    }
}

impl Area {
    fn blocks_offset(&self) -> u64 {
        self.offset + REGIONS / 8
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let state = self.state.lock();
        let active = self.active.load(Ordering::SeqCst);
        if !state.unsettled {
            let base = if self.file.sync().is_ok() { state.base.as_str() } else { "" };
            // Where this fails the file stays in use, which whoever opens it next takes into account.
            let _ = self.write_header(base, active, true);
        }
    }
}
