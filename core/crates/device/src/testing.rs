//! A device in memory for tests: it counts what it is asked, fails on demand, and can be held still.

use parking_lot::{Condvar, Mutex};

use crate::{Device, Error, Extent, Operation, Result, WriteFlags, ZeroFlags};

/// Bytes that become data or a hole together.
const UNIT: u64 = 4096;

/// One request as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// First byte; 0 for flush.
    pub offset: u64,
    /// Bytes; 0 for flush.
    pub length: u64,
    /// The flags as they came; `fua` of writes and discards is found here too.
    pub flags: ZeroFlags,
}

/// A failure to come.
struct Fault {
    operation: Operation,
    errno: i32,
    /// Requests of that operation that still succeed first.
    after: u64,
    once: bool,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    stored: Vec<bool>,
    calls: Vec<Call>,
    faults: Vec<Fault>,
    held: bool,
    waiting: usize,
}

/// A volume in memory.
pub struct MemoryDevice {
    state: Mutex<State>,
    changed: Condvar,
    read_only: bool,
}

impl MemoryDevice {
    /// A volume of `size` bytes, all hole.
    #[must_use]
    pub fn new(size: u64) -> MemoryDevice {
        let bytes = usize::try_from(size).expect("a test volume fits into memory");
        let stored = vec![false; size.div_ceil(UNIT) as usize];
        let state = State { bytes: vec![0; bytes], stored, ..State::default() };
        MemoryDevice { state: Mutex::new(state), changed: Condvar::new(), read_only: false }
    }

    /// The same, refusing writes.
    #[must_use]
    pub fn new_read_only(size: u64) -> MemoryDevice {
        MemoryDevice { read_only: true, ..MemoryDevice::new(size) }
    }

    /// Everything asked so far, in order of arrival, failed requests too.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state.lock().calls.clone()
    }

    /// How often `operation` was asked so far.
    #[must_use]
    pub fn count(&self, operation: Operation) -> usize {
        self.state.lock().calls.iter().filter(|call| call.operation == operation).count()
    }

    /// The volume's bytes now.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.state.lock().bytes.clone()
    }

    /// After `after` more successful requests of this kind, let the next one fail with `errno`, once.
    pub fn fail_once(&self, operation: Operation, errno: i32, after: u64) {
        self.state.lock().faults.push(Fault { operation, errno, after, once: true });
    }

    /// Let every request of this kind fail with `errno` from now on.
    pub fn fail_always(&self, operation: Operation, errno: i32) {
        self.state.lock().faults.push(Fault { operation, errno, after: 0, once: false });
    }

    /// Keep every request that arrives from now on waiting, until [`MemoryDevice::release`].
    pub fn hold(&self) {
        self.state.lock().held = true;
    }

    /// Let the waiting requests go on.
    pub fn release(&self) {
        self.state.lock().held = false;
        self.changed.notify_all();
    }

    /// Return once `count` requests are waiting at the same time.
    pub fn wait_until_held(&self, count: usize) {
        let mut state = self.state.lock();
        while state.waiting < count {
            self.changed.wait(&mut state);
        }
    }

    fn enter(&self, call: Call) -> Result<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        state.calls.push(call);
        state.waiting += 1;
        self.changed.notify_all();
        while state.held {
            self.changed.wait(&mut state);
        }
        state.waiting -= 1;
        state.take_fault(call.operation)?;
        let changes = matches!(call.operation, Operation::Write | Operation::Discard | Operation::WriteZeroes);
        if changes && self.read_only {
            return Err(Error::READ_ONLY);
        }
        match call.offset.checked_add(call.length) {
            Some(end) if end <= state.bytes.len() as u64 => Ok(state),
            _ => Err(Error::INVALID),
        }
    }
}

impl State {
    fn take_fault(&mut self, operation: Operation) -> Result<()> {
        let Some(index) = self.faults.iter().position(|fault| fault.operation == operation) else { return Ok(()) };
        let fault = &mut self.faults[index];
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let errno = fault.errno;
        if fault.once {
            self.faults.remove(index);
        }
        Err(Error(errno))
    }

    fn zero(&mut self, call: Call) {
        self.bytes[call.offset as usize..(call.offset + call.length) as usize].fill(0);
        if !call.flags.no_hole {
            let (first, last) = (call.offset.div_ceil(UNIT), (call.offset + call.length) / UNIT);
            (first..last).for_each(|unit| self.stored[unit as usize] = false);
        }
    }
}

impl Device for MemoryDevice {
    fn size(&self) -> u64 {
        self.state.lock().bytes.len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn alignment(&self) -> u32 {
        1
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let length = buffer.len() as u64;
        let state = self.enter(Call { operation: Operation::Read, offset, length, flags: ZeroFlags::default() })?;
        buffer.copy_from_slice(&state.bytes[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        let length = buffer.len() as u64;
        let flags = ZeroFlags { fua: flags.fua, ..ZeroFlags::default() };
        let mut state = self.enter(Call { operation: Operation::Write, offset, length, flags })?;
        state.bytes[offset as usize..][..buffer.len()].copy_from_slice(buffer);
        for unit in offset / UNIT..(offset + length).div_ceil(UNIT) {
            state.stored[unit as usize] = true;
        }
        // The contract says that the buffer is unspecified afterwards: a caller that relies on it must fail its tests.
        buffer.fill(0xA5);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let flags = ZeroFlags::default();
        self.enter(Call { operation: Operation::Flush, offset: 0, length: 0, flags }).map(drop)
    }

    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        let flags = ZeroFlags { fua: flags.fua, ..ZeroFlags::default() };
        let call = Call { operation: Operation::Discard, offset, length, flags };
        self.enter(call)?.zero(call);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        let call = Call { operation: Operation::WriteZeroes, offset, length, flags };
        self.enter(call)?.zero(call);
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        let flags = ZeroFlags::default();
        let state = self.enter(Call { operation: Operation::BlockStatus, offset, length, flags })?;
        let end = offset + length;
        let mut next = offset;
        while next < end {
            let hole = !state.stored[(next / UNIT) as usize];
            let mut stop = next;
            while stop < end && state.stored[(stop / UNIT) as usize] != hole {
                stop = (stop / UNIT + 1) * UNIT;
            }
            let stop = stop.min(end);
            if !each(Extent { offset: next, length: stop - next, hole }) {
                return Ok(());
            }
            next = stop;
        }
        Ok(())
    }
}
