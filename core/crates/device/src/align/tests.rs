//! Read-modify-write: that it changes what it should, and that nobody suffers from it meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::testing::MemoryDevice;
use crate::{Error, Operation};

const UNIT: u64 = 4096;
const LAZY: WriteFlags = WriteFlags { fua: false };

/// A device that takes whole units in aligned memory only, and gives other threads a chance at every step.
struct Strict {
    memory: Arc<MemoryDevice>,
    address: usize,
}

impl Strict {
    fn check(&self, buffer: &[u8], offset: u64) {
        assert_eq!((offset | buffer.len() as u64) % UNIT, 0, "{} bytes at {offset}", buffer.len());
        assert!(buffer.is_empty() || buffer.as_ptr() as usize % self.address == 0);
        std::thread::yield_now();
    }
}

impl Device for Strict {
    fn size(&self) -> u64 {
        self.memory.size()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn alignment(&self) -> u32 {
        UNIT as u32
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.check(buffer, offset);
        let result = self.memory.read(buffer, offset);
        std::thread::yield_now();
        result
    }

    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        self.check(buffer, offset);
        self.memory.write(buffer, offset, flags)
    }

    fn flush(&self) -> Result<()> {
        self.memory.flush()
    }

    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        self.check(&[], offset | length);
        self.memory.discard(offset, length, flags)
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        self.check(&[], offset | length);
        self.memory.write_zeroes(offset, length, flags)
    }

    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.check(&[], offset | length);
        self.memory.extents(offset, length, each)
    }
}

fn aligned(size: u64, address: usize) -> (Align, Arc<MemoryDevice>) {
    let memory = Arc::new(MemoryDevice::new(size));
    (Align::new(Box::new(Strict { memory: memory.clone(), address }), address as u32), memory)
}

/// Offsets and lengths around units, scratch buffers and the volume's ends.
fn ranges(size: u64) -> Vec<(u64, u64)> {
    let scratch = SCRATCH as u64;
    let edges =
        [0, 1, 511, UNIT - 1, UNIT, UNIT + 1, scratch - 1, scratch, scratch + 7, 2 * scratch + UNIT, size - 1, size];
    let pairs = edges.iter().flat_map(|from| edges.iter().map(move |to| (*from, *to)));
    pairs.filter(|(from, to)| from < to).map(|(from, to)| (from, to - from)).collect()
}

/// Any range, from memory of any address, is written and read as asked, and nothing beside it changes.
#[test]
fn any_range_is_written_and_read() {
    let size = 3 * SCRATCH as u64;
    let (device, memory) = aligned(size, 4096);
    let mut model = vec![0; size as usize];
    for (round, (offset, length)) in ranges(size).into_iter().enumerate() {
        let data: Vec<u8> = (0..length).map(|index| (index as usize * 7 + round) as u8).collect();
        let range = offset as usize..(offset + length) as usize;
        device.write(&mut data.clone(), offset, LAZY).unwrap();
        model[range.clone()].copy_from_slice(&data);
        assert!(memory.contents() == model, "after {length} bytes at {offset}");
        let mut read = vec![0; length as usize + 1];
        device.read(&mut read[1..], offset).unwrap();
        assert!(read[1..] == model[range], "{length} bytes at {offset}");
    }
}

/// A whole request in suitable memory passes straight through, as one.
#[test]
fn whole_requests_pass_through() {
    let (device, memory) = aligned(1 << 20, 4096);
    let mut buffer = crate::Buffer::new(1 << 20);
    device.write(&mut buffer, 0, WriteFlags { fua: true }).unwrap();
    device.read(&mut buffer, 0).unwrap();
    device.discard(0, 1 << 20, LAZY).unwrap();
    device.write_zeroes(0, 1 << 20, ZeroFlags::default()).unwrap();
    assert_eq!(memory.calls().len(), 4);
    assert!(memory.calls()[0].flags.fua);
}

/// Zeroing a range zeroes all of it, the edges by rewriting; discarding one leaves its edges as they were.
#[test]
fn zeroing_and_discarding_any_range() {
    let size = 2 * SCRATCH as u64;
    for (offset, length) in ranges(size).into_iter().filter(|(offset, length)| offset + length <= size) {
        let (device, memory) = aligned(size, 512);
        let full = vec![9; size as usize];
        device.write(&mut full.clone(), 0, LAZY).unwrap();
        device.discard(offset, length, LAZY).unwrap();
        let (start, end) = (offset.next_multiple_of(UNIT), (offset + length) / UNIT * UNIT);
        let mut expected = full.clone();
        if start < end {
            expected[start as usize..end as usize].fill(0);
        }
        assert!(memory.contents() == expected);
        device.write_zeroes(offset, length, ZeroFlags { fua: true, ..ZeroFlags::default() }).unwrap();
        expected[offset as usize..(offset + length) as usize].fill(0);
        assert!(memory.contents() == expected);
        let late = memory.calls();
        let zeroing = late.iter().filter(|call| call.operation == Operation::WriteZeroes || call.flags.fua);
        assert!(zeroing.clone().count() > 0);
        assert!(zeroing.into_iter().all(|call| call.flags.fua));
    }
}

/// When the middle cannot be zeroed fast, the edges stay as they were.
#[test]
fn refused_zeroing_changes_nothing() {
    let (device, memory) = aligned(1 << 20, 1);
    let full = vec![9; 1 << 20];
    device.write(&mut full.clone(), 0, LAZY).unwrap();
    memory.fail_always(Operation::WriteZeroes, libc::EOPNOTSUPP);
    let flags = ZeroFlags { fast: true, ..ZeroFlags::default() };
    assert_eq!(device.write_zeroes(100, 100_000, flags), Err(Error::UNSUPPORTED));
    assert!(memory.contents() == full);
}

/// A failure to read what must be kept stops the write before anything is changed.
#[test]
fn unreadable_unit_is_not_overwritten() {
    let (device, memory) = aligned(1 << 20, 1);
    memory.fail_once(Operation::Read, libc::EIO, 1);
    assert_eq!(device.write(&mut [1; 8192], 100, LAZY), Err(Error::IO));
    assert_eq!(memory.count(Operation::Write), 0);
}

/// Extents are told for exactly the range that was asked for.
#[test]
fn extents_are_clipped() {
    let (device, _) = aligned(1 << 20, 1);
    device.write(&mut [1; 10], 8192, LAZY).unwrap();
    let mut found = Vec::new();
    let mut each = |extent: Extent| {
        found.push((extent.offset, extent.length, extent.hole));
        true
    };
    device.extents(5, 20_000, &mut each).unwrap();
    assert_eq!(found, [(5, 8187, true), (8192, 4096, false), (12288, 7717, true)]);
}

/// Threads that write different bytes of one unit never lose each other's writes.
#[test]
fn neighbours_never_lose_a_write() {
    const ROUNDS: usize = 300;
    let (device, memory) = aligned(2 * UNIT, 1);
    std::thread::scope(|scope| {
        for slot in 0..4_u64 {
            let device = &device;
            scope.spawn(move || {
                // Each thread owns 16 bytes of either unit; one of them uses write_zeroes as well.
                for round in 0..ROUNDS {
                    for offset in [slot * 16, UNIT + slot * 16] {
                        let mark = (round as u8) ^ (slot as u8) << 6;
                        if slot == 0 {
                            device.write_zeroes(offset, 16, ZeroFlags::default()).unwrap();
                        }
                        device.write(&mut [mark; 16], offset, LAZY).unwrap();
                        let mut read = [0; 16];
                        device.read(&mut read, offset).unwrap();
                        assert_eq!(read, [mark; 16], "round {round}, slot {slot}");
                    }
                }
            });
        }
    });
    assert!(memory.count(Operation::Write) >= 8 * ROUNDS);
}

/// A whole-unit write or discard that comes while another thread rewrites part of that unit is not undone by it.
#[test]
fn whole_writes_are_not_undone() {
    let (device, _) = aligned(UNIT, 1);
    let rounds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while rounds.load(Ordering::Relaxed) < 2000 {
                device.write(&mut [0xEE; 16], 0, LAZY).unwrap();
            }
        });
        let mut intact = true;
        while rounds.fetch_add(1, Ordering::Relaxed) < 2000 {
            let mark = rounds.load(Ordering::Relaxed) as u8;
            let mut read = [0; UNIT as usize];
            device.write(&mut [mark; UNIT as usize], 0, LAZY).unwrap();
            device.read(&mut read, 0).unwrap();
            intact &= read[16..].iter().all(|byte| *byte == mark);
            device.discard(0, UNIT, LAZY).unwrap();
            device.read(&mut read, 0).unwrap();
            intact &= read[16..].iter().all(|byte| *byte == 0);
        }
        assert!(intact);
    });
}
