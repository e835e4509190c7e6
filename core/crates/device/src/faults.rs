//! A backing in memory for tests, whose calls fail or fall short as the test says.

use std::collections::{HashMap, VecDeque};
use std::io;

use parking_lot::Mutex;

use crate::backing::{Backing, Demands};

/// Bytes that are data or hole together.
pub(crate) const UNIT: usize = 512;

/// The calls that can be told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Read,
    Write,
    WriteDurably,
    Sync,
    Punch,
    Zero,
    NextData,
    NextHole,
}

/// How one call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Errno(i32),
    /// At most so many bytes.
    Short(usize),
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    data: Vec<bool>,
    faults: HashMap<Call, VecDeque<Fault>>,
    always: HashMap<Call, i32>,
    calls: Vec<(Call, u64, u64)>,
}

/// The backing.
pub(crate) struct Faulty {
    state: Mutex<State>,
    pub(crate) demands: Demands,
}

impl Faulty {
    pub(crate) fn new(size: usize) -> Faulty {
        let state = State { bytes: vec![0; size], data: vec![false; size.div_ceil(UNIT)], ..State::default() };
        Faulty { state: Mutex::new(state), demands: Demands { offset: 1, memory: 1, fast_zero: true } }
    }

    /// What the next calls of a kind come to, one after another; later ones succeed.
    pub(crate) fn script(&self, call: Call, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().faults.entry(call).or_default().extend(faults);
    }

    /// Let every call of a kind fail.
    pub(crate) fn always(&self, call: Call, errno: i32) {
        self.state.lock().always.insert(call, errno);
    }

    /// Offset and length of all calls of a kind so far.
    pub(crate) fn calls(&self, kind: Call) -> Vec<(u64, u64)> {
        let state = self.state.lock();
        state.calls.iter().filter(|(call, ..)| *call == kind).map(|(_, offset, length)| (*offset, *length)).collect()
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        self.state.lock().bytes.clone()
    }

    /// Let a range be data with these bytes.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        self.state.lock().put(offset, bytes);
    }

    /// Note a call, and give what it may do: so many bytes at most.
    fn enter(&self, call: Call, offset: u64, length: u64) -> io::Result<(parking_lot::MutexGuard<'_, State>, usize)> {
        let mut state = self.state.lock();
        state.calls.push((call, offset, length));
        if let Some(errno) = state.always.get(&call) {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        let fault = state.faults.get_mut(&call).and_then(VecDeque::pop_front).unwrap_or(Fault::None);
        let left = (state.bytes.len() as u64).saturating_sub(offset).min(length) as usize;
        match fault {
            Fault::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
            Fault::Short(most) => Ok((state, left.min(most))),
            Fault::None => Ok((state, left)),
        }
    }

    fn write(&self, call: Call, buffer: &[u8], offset: u64) -> io::Result<usize> {
        let (mut state, count) = self.enter(call, offset, buffer.len() as u64)?;
        state.put(offset as usize, &buffer[..count]);
        Ok(count)
    }
}

impl State {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        let units = offset / UNIT..(offset + bytes.len()).div_ceil(UNIT);
        self.data[units].fill(true);
    }

    fn next(&self, offset: u64, data: bool) -> Option<u64> {
        let first = offset as usize / UNIT;
        let unit = (first..self.data.len()).find(|unit| self.data[*unit] == data)?;
        Some(((unit * UNIT) as u64).max(offset))
    }
}

impl Backing for Faulty {
    fn demands(&self) -> Demands {
        self.demands
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.state.lock().bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (state, count) = self.enter(Call::Read, offset, buffer.len() as u64)?;
        buffer[..count].copy_from_slice(&state.bytes[offset as usize..][..count]);
        Ok(count)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.write(Call::Write, buffer, offset)
    }

    fn write_durably_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.write(Call::WriteDurably, buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.enter(Call::Sync, 0, 0).map(drop)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Punch, offset, length)?;
        let (start, end) = (offset as usize, (offset + length) as usize);
        state.bytes[start..end].fill(0);
        let units = start.div_ceil(UNIT)..end / UNIT;
        state.data[units].fill(false);
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Zero, offset, length)?;
        let zeros = vec![0; length as usize];
        state.put(offset as usize, &zeros);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let (state, _) = self.enter(Call::NextData, offset, 0)?;
        Ok(state.next(offset, true))
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let (state, _) = self.enter(Call::NextHole, offset, 0)?;
        Ok(state.next(offset, false).unwrap_or(state.bytes.len() as u64))
    }
}
