//! A disk for tests, whose cache is lost when the power is cut.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use super::BLOCK;
use crate::backing::{Backing, Demands};

pub(crate) const SECTOR: u64 = 512;

pub(crate) type Sector = [u8; SECTOR as usize];

/// Chance, the same in every run.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[derive(Default)]
struct State {
    seen: HashMap<u64, Sector>,
    durable: HashMap<u64, Sector>,
    pending: Vec<(u64, Sector)>,
    failing: bool,
    /// Writes and syncs that still succeed; none: all of them.
    fuse: Option<Arc<AtomicI64>>,
}

impl State {
    fn burn(&self) -> io::Result<()> {
        let blown = self.fuse.as_ref().is_some_and(|fuse| fuse.fetch_sub(1, Ordering::SeqCst) <= 0);
        if blown || self.failing { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }
}

/// A disk with a cache: what was written since the last sync outlives a power cut in part, as chance has it.
pub(crate) struct Disk {
    pub(crate) size: u64,
    state: Mutex<State>,
}

impl Disk {
    pub(crate) fn new(size: u64) -> Arc<Disk> {
        Arc::new(Disk { size, state: Mutex::new(State::default()) })
    }

    pub(crate) fn cut_power(&self, chance: &mut Chance) {
        let mut state = self.state.lock();
        for (number, sector) in std::mem::take(&mut state.pending) {
            if chance.below(2) == 0 {
                state.durable.insert(number, sector);
            }
        }
        state.seen = state.durable.clone();
    }

    pub(crate) fn block(&self, block: u64) -> Vec<Sector> {
        let state = self.state.lock();
        let first = block * BLOCK / SECTOR;
        (first..first + BLOCK / SECTOR).map(|number| state.seen.get(&number).copied().unwrap_or([0; 512])).collect()
    }

    /// Let everything fail after so many more calls, as if the machine had stopped there; none: nothing fails any more.
    pub(crate) fn stop_after(&self, calls: Option<u64>) {
        self.state.lock().fuse = calls.map(|left| Arc::new(AtomicI64::new(left as i64)));
    }

    pub(crate) fn fail(&self, failing: bool) {
        self.state.lock().failing = failing;
    }

    /// Let as many writes and syncs go well as `fuse` says, which several disks may share, and no more.
    pub(crate) fn light(&self, fuse: &Arc<AtomicI64>) {
        self.state.lock().fuse = Some(Arc::clone(fuse));
    }
}

pub(crate) struct Attached(pub(crate) Arc<Disk>);

impl Backing for Attached {
    fn demands(&self) -> Demands {
        Demands { offset: 512, memory: 1, fast_zero: true }
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.size)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.0.state.lock();
        assert_eq!(offset % SECTOR, 0);
        for (number, part) in (offset / SECTOR..).zip(buffer.chunks_mut(512)) {
            part.copy_from_slice(&state.seen.get(&number).unwrap_or(&[0; 512])[..part.len()]);
        }
        Ok(buffer.len())
    }
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        state.burn()?;
        let mut rest = buffer;
        while !rest.is_empty() {
            let at = offset + (buffer.len() - rest.len()) as u64;
            let (number, inside) = (at / SECTOR, (at % SECTOR) as usize);
            let (part, left) = rest.split_at(rest.len().min(SECTOR as usize - inside));
            let mut sector = state.seen.get(&number).copied().unwrap_or([0; 512]);
            sector[inside..inside + part.len()].copy_from_slice(part);
            state.seen.insert(number, sector);
            state.pending.push((number, sector));
            rest = left;
        }
        Ok(buffer.len())
    }
    fn write_durably_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        // This write alone: what others wrote before may still be lost.
        let written = self.write_at(buffer, offset)?;
        let mut state = self.0.state.lock();
        state.burn()?;
        for number in offset / SECTOR..(offset + written as u64).div_ceil(SECTOR) {
            state.pending.retain(|(other, _)| *other != number);
            let sector = state.seen[&number];
            state.durable.insert(number, sector);
        }
        Ok(written)
    }
    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.burn()?;
        for (number, sector) in std::mem::take(&mut state.pending) {
            state.durable.insert(number, sector);
        }
        Ok(())
    }
    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_at(&vec![0; length as usize], offset).map(drop)
    }
    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.punch(offset, length)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let written = self.0.state.lock();
        let first = written.seen.keys().filter(|number| **number >= offset / SECTOR).min();
        Ok(first.map(|number| (number * SECTOR).max(offset)))
    }
    fn next_hole(&self, _offset: u64) -> io::Result<u64> {
        Ok(self.0.size)
    }
}
