//! A volume on its way from one key to another: below the *boundary* sectors have the new one, from there on the old one.
//!
//! The boundary moves a *zone* at a time. Requests to the zone that is being turned wait; all others go on. How a zone is
//! turned, each step durable before the next:
//!
//! ```text
//!   its new bytes into the journal → in place → the boundary behind it into the journal → requests are let in again
//! ```
//!
//! If it ends before the first of these, nothing has changed. After it, the journal's record is written in place again,
//! whatever is there: nobody was let in since, so nobody's data is lost by that. After the third the record counts no more.
//! Sectors that were never written stay holes, and long holes are passed in one step.

pub(crate) mod journal;
mod volume;

pub use self::volume::Reencryption;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ebscrypt_secret::XtsCipher;
use parking_lot::{Condvar, Mutex};

use self::journal::{Journal, Zone};
use crate::buffer::{SCRATCH, is_zero};
use crate::stripes::{Shared, Stripes};
use crate::{Device, Error, Result, WriteFlags};

/// What boundaries are multiples of, but for the volume's end: no sector is cut.
const UNIT: u64 = 4096;

/// Who is kept out of what at this moment.
struct Gate {
    zone: Range<u64>,
    /// Requests that wait for the zone to move on. The next zone waits for them in turn, else one that touches much of
    /// the volume might never get in.
    waiting: usize,
    /// What the zone holds is not known: it needs the journal, when the volume is opened the next time.
    broken: bool,
}

/// What only one thread at a time works with.
struct Worker {
    journal: Journal,
    zone: Zone,
}

/// The two keys, and where each counts.
pub(crate) struct Turning {
    old: Arc<XtsCipher>,
    pub(crate) new: Arc<XtsCipher>,
    sector_size: usize,
    size: u64,
    zone_size: u64,
    boundary: AtomicU64,
    stripes: Stripes,
    gate: Mutex<Gate>,
    moved: Condvar,
    worker: Mutex<Worker>,
}

/// How a step failed: with everything as it was, or with a zone of which nobody knows what it holds.
enum Failure {
    Before(Error),
    Within(Error),
}

impl Turning {
    pub(crate) fn new(
        ciphers: (Arc<XtsCipher>, Arc<XtsCipher>),
        sector_size: usize,
        size: u64,
        zone_size: u64,
        journal: Journal,
        boundary: u64,
    ) -> Turning {
        let (old, new) = ciphers;
        let worker = Mutex::new(Worker { journal, zone: Zone::new(zone_size) });
        let gate = Mutex::new(Gate { zone: 0..0, waiting: 0, broken: false });
        let (boundary, stripes, moved) = (AtomicU64::new(boundary), Stripes::new(), Condvar::new());
        Turning { old, new, sector_size, size, zone_size, boundary, stripes, gate, moved, worker }
    }

    /// Where the old key begins to count.
    pub(crate) fn boundary(&self) -> u64 {
        self.boundary.load(Ordering::SeqCst)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.boundary() >= self.size
    }

    /// Wait until the range is not being turned. While the stay lasts no part of it is, and the boundary does not pass
    /// through it.
    pub(crate) fn enter(&self, offset: u64, length: u64) -> Result<Shared<'_>> {
        let touches = |zone: &Range<u64>| zone.start < offset + length && offset < zone.end;
        let mut waited = false;
        loop {
            let shared = self.stripes.share(offset, length);
            let mut gate = self.gate.lock();
            if !touches(&gate.zone) {
                self.stop_waiting(&mut gate, waited);
                return Ok(shared);
            }
            drop(shared);
            if !waited {
                gate.waiting += 1;
                waited = true;
            }
            while touches(&gate.zone) && !gate.broken {
                self.moved.wait(&mut gate);
            }
            if gate.broken && touches(&gate.zone) {
                self.stop_waiting(&mut gate, waited);
                return Err(Error::IO);
            }
        }
    }

    fn stop_waiting(&self, gate: &mut Gate, waited: bool) {
        if waited {
            gate.waiting -= 1;
            self.moved.notify_all();
        }
    }

    /// Which key counts where in a range that was entered: each part with its cipher, its offset first.
    pub(crate) fn parts<'a>(&'a self, buffer: &'a mut [u8], offset: u64) -> [(&'a XtsCipher, u64, &'a mut [u8]); 2] {
        let below = self.boundary().clamp(offset, offset + buffer.len() as u64) - offset;
        let (new, old) = buffer.split_at_mut(below as usize);
        [(&*self.new, offset, new), (&*self.old, offset + below, old)]
    }

    /// Keep requests out of a range, which begins at the boundary, and wait for those in it.
    fn bar(&self, zone: Range<u64>) -> Result<()> {
        let mut gate = self.gate.lock();
        if gate.broken {
            return Err(Error::IO);
        }
        while gate.waiting > 0 {
            self.moved.wait(&mut gate);
        }
        drop(gate);
        let _exclusive = self.stripes.exclude(zone.start, zone.end - zone.start);
        self.gate.lock().zone = zone;
        Ok(())
    }

    /// Turn the next zone, or pass the next hole. When it returns that is durable. Gives the new boundary.
    pub(crate) fn next(&self, below: &dyn Device) -> Result<u64> {
        let mut worker = self.worker.lock();
        let start = self.boundary();
        if start >= self.size {
            return Ok(start);
        }
        let data = self.first_data(below, start..self.size)?;
        let zone_end = self.size.min(start + self.zone_size);
        self.bar(start..data.max(zone_end))?;
        let turned = if data > zone_end {
            worker.pass(below, self, start..data)
        } else {
            worker.turn(below, self, start..zone_end)
        };
        let mut gate = self.gate.lock();
        let result = match turned {
            Ok(boundary) => {
                self.boundary.store(boundary, Ordering::SeqCst);
                Ok(boundary)
            }
            Err(Failure::Before(error)) => Err(error),
            Err(Failure::Within(error)) => {
                gate.broken = true;
                self.moved.notify_all();
                return Err(error);
            }
        };
        gate.zone = 0..0;
        self.moved.notify_all();
        result
    }

    /// Where the first data of a range may be, at a boundary; its end where there is none.
    fn first_data(&self, below: &dyn Device, range: Range<u64>) -> Result<u64> {
        let found = below.first_data(range.start, range.end - range.start)?;
        Ok(found.map_or(range.end, |data| (data / UNIT * UNIT).max(range.start)))
    }

    /// Turn stored sectors in place; holes stay what they are.
    fn turn_bytes(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        let size = self.sector_size;
        for (piece, at) in bytes.chunks_mut(SCRATCH).zip((offset..).step_by(SCRATCH)) {
            for run in runs(piece, size) {
                let (sectors, from) = (&mut piece[run.clone()], at + run.start as u64);
                self.old.decrypt(sectors, size, from).map_err(Error::from)?;
                self.new.encrypt(sectors, size, from).map_err(Error::from)?;
            }
        }
        Ok(())
    }

    /// Do again what the journal says was begun at the boundary, if it says so. Nobody else is at work yet.
    pub(crate) fn recover(&self, below: &dyn Device) -> Result<()> {
        let mut worker = self.worker.lock();
        let Worker { journal, zone } = &mut *worker;
        if journal.read_zone(zone, self.boundary(), self.size).map_err(Error::from)? {
            let boundary = worker.put(below)?;
            self.boundary.store(boundary, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Worker {
    /// Turn a zone, from which requests are kept.
    fn turn(&mut self, below: &dyn Device, turning: &Turning, range: Range<u64>) -> std::result::Result<u64, Failure> {
        let zone = &mut self.zone;
        (zone.offset, zone.length) = (range.start, (range.end - range.start) as usize);
        below.read(zone.bytes(), range.start).map_err(Failure::Before)?;
        if is_zero(zone.bytes()) {
            return self.advance(below, range.end).map_err(Failure::Within);
        }
        turning.turn_bytes(zone.bytes(), range.start).map_err(Failure::Before)?;
        // From here on nobody can tell what a later recovery will find.
        let recorded = self.journal.write_zone(zone).map_err(Error::from).and_then(|()| below.flush());
        recorded.and_then(|()| self.put(below)).map_err(Failure::Within)
    }

    /// Write a zone that the journal has in place, and the boundary behind it into the journal.
    fn put(&mut self, below: &dyn Device) -> Result<u64> {
        let (offset, unit) = (self.zone.offset, below.alignment() as usize);
        let bytes = self.zone.bytes();
        for run in runs(bytes, unit.max(512)) {
            let at = offset + run.start as u64;
            below.write(&mut bytes[run], at, WriteFlags { fua: false })?;
        }
        below.flush()?;
        self.advance(below, offset + self.zone.length as u64)
    }

    /// Pass a hole, from which requests are kept; less of it where somebody was quicker.
    fn pass(&mut self, below: &dyn Device, turning: &Turning, range: Range<u64>) -> std::result::Result<u64, Failure> {
        let start = range.start;
        let data = turning.first_data(below, range).map_err(Failure::Before)?;
        if data == start { Ok(start) } else { self.advance(below, data).map_err(Failure::Within) }
    }

    fn advance(&mut self, below: &dyn Device, boundary: u64) -> Result<u64> {
        self.journal.write_progress(boundary).map_err(Error::from)?;
        below.flush()?;
        Ok(boundary)
    }
}

/// The runs of units that are not all zeros.
fn runs(bytes: &[u8], unit: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (start, part) in (0..).step_by(unit).zip(bytes.chunks(unit)) {
        if is_zero(part) {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += part.len(),
            _ => runs.push(start..start + part.len()),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
