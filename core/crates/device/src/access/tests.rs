//! Whether nothing comes through the gate that should not, and nothing is lost that waits at it.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;
use crate::faults::{Call, Fault, Faulty};
use crate::gate::Below;
use crate::open::{Options, assemble};
use crate::testing::MemoryDevice;
use crate::{Device, Extent, Operation, WriteFlags, ZeroFlags};

const MIB: u64 = 1 << 20;
const LAZY: WriteFlags = WriteFlags { fua: false };

/// The device below the gate, which the test looks at meanwhile.
struct Looked(Arc<MemoryDevice>);

impl Device for Looked {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_only(&self) -> bool {
        self.0.read_only()
    }
    fn alignment(&self) -> u32 {
        self.0.alignment()
    }
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.0.read(buffer, offset)
    }
    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        self.0.write(buffer, offset, flags)
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        self.0.discard(offset, length, flags)
    }
    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        self.0.write_zeroes(offset, length, flags)
    }
    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.0.extents(offset, length, each)
    }
}

fn volume_of(memory: MemoryDevice) -> (Arc<MemoryDevice>, Volume) {
    let memory = Arc::new(memory);
    let size = memory.size();
    let below = Box::new(Looked(Arc::clone(&memory)));
    (memory, Volume::new(Below::new(below, None, None, None), None, size))
}

fn until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

fn key_of(first: u8) -> SecretMemory {
    let mut key = SecretMemory::new(64).unwrap();
    key.fill(&(first..first + 64).collect::<Vec<u8>>()).unwrap();
    key
}

fn errno(result: Setup<()>) -> i32 {
    match result.unwrap_err() {
        SetupError::System(errno, _) => errno,
        SetupError::Argument(message) => panic!("{message}"),
    }
}

/// Suspending waits for requests under way, flushes after them, and lets new ones wait until it is over.
#[test]
fn suspension_comes_between_requests() {
    let (memory, volume) = volume_of(MemoryDevice::new(MIB));
    memory.hold();
    thread::scope(|scope| {
        let under_way = scope.spawn(|| volume.write(&mut [1; 512], 0, LAZY));
        memory.wait_until_held(1);
        let suspending = scope.spawn(|| volume.suspend(false, true));
        until(|| volume.below.is_barred());
        assert_eq!(volume.access(), Access::Suspended);
        let late = scope.spawn(|| volume.write(&mut [2; 512], 512, LAZY));
        memory.release();
        assert_eq!(suspending.join().unwrap(), Ok(()));
        assert_eq!(under_way.join().unwrap(), Ok(()));
        let operations: Vec<_> = memory.calls().iter().map(|call| call.operation).collect();
        assert_eq!(operations, [Operation::Write, Operation::Flush]);
        assert_eq!(volume.statistics(Operation::Write).operations, 1);
        volume.suspend(false, false).unwrap();
        assert!(!late.is_finished());
        volume.resume(None).unwrap();
        assert_eq!(late.join().unwrap(), Ok(()));
        assert_eq!(volume.access(), Access::ReadWrite);
        volume.resume(None).unwrap();
    });
    assert_eq!(memory.contents()[..1024], [[1; 512], [2; 512]].concat());
}

/// When read-only has been set no write goes on: the one under way was waited for, and later ones fail, for whatever
/// they would do; reading and flushing go on, and writing does too once it is allowed again.
#[test]
fn read_only_waits_for_writes() {
    let (memory, volume) = volume_of(MemoryDevice::new(MIB));
    memory.hold();
    thread::scope(|scope| {
        let under_way = scope.spawn(|| volume.write(&mut [1; 512], 0, LAZY));
        memory.wait_until_held(1);
        let setting = scope.spawn(|| volume.set_access(Access::ReadOnly));
        until(|| volume.below.is_barred());
        assert!(!setting.is_finished());
        memory.release();
        assert_eq!(setting.join().unwrap(), Ok(()));
        assert_eq!(under_way.join().unwrap(), Ok(()));
    });
    assert_eq!(volume.access(), Access::ReadOnly);
    assert!(!volume.read_only());
    assert_eq!(volume.write(&mut [2; 512], 0, LAZY), Err(Error::READ_ONLY));
    assert_eq!(volume.discard(0, 4096, LAZY), Err(Error::READ_ONLY));
    assert_eq!(volume.write_zeroes(0, 4096, ZeroFlags::default()), Err(Error::READ_ONLY));
    volume.read(&mut [0; 512], 0).unwrap();
    volume.flush().unwrap();
    assert_eq!(memory.count(Operation::Flush), 1);

    volume.suspend(false, false).unwrap();
    volume.resume(None).unwrap();
    assert_eq!(volume.access(), Access::ReadOnly);
    volume.suspend(false, false).unwrap();
    volume.set_access(Access::ReadWrite).unwrap();
    volume.write(&mut [2; 512], 0, LAZY).unwrap();
    volume.set_access(Access::Suspended).unwrap();
    volume.set_access(Access::ReadOnly).unwrap();
    assert_eq!(volume.write(&mut [2; 512], 0, LAZY), Err(Error::READ_ONLY));
}

/// What was opened read-only stays so, suspended or not; it is not flushed, for nothing was written through it.
#[test]
fn opened_read_only_stays_read_only() {
    let (memory, volume) = volume_of(MemoryDevice::new_read_only(MIB));
    assert_eq!(volume.access(), Access::ReadOnly);
    assert_eq!(volume.set_access(Access::ReadWrite), Err(Error::READ_ONLY));
    volume.set_access(Access::Suspended).unwrap();
    assert_eq!(volume.set_access(Access::ReadWrite), Err(Error::READ_ONLY));
    volume.resume(None).unwrap();
    assert_eq!(volume.access(), Access::ReadOnly);
    assert_eq!(memory.count(Operation::Flush), 0);
}

/// A zeroing of many windows neither delays a suspension by more than one nor loses the rest; where the volume has become
/// read-only meanwhile, its rest is refused.
#[test]
fn a_long_zeroing_steps_aside() {
    for access in [Access::ReadWrite, Access::ReadOnly] {
        let (memory, volume) = volume_of(MemoryDevice::new(256 * MIB));
        memory.hold();
        thread::scope(|scope| {
            let zeroing = scope.spawn(|| volume.write_zeroes(0, 256 * MIB, ZeroFlags::default()));
            memory.wait_until_held(1);
            let suspending = scope.spawn(|| volume.suspend(false, false));
            until(|| volume.below.is_barred());
            memory.release();
            assert_eq!(suspending.join().unwrap(), Ok(()));
            assert_eq!(memory.count(Operation::WriteZeroes), 1);
            volume.grow(256 * MIB).unwrap();
            volume.set_access(access).unwrap();
            let expected = if access == Access::ReadOnly { Err(Error::READ_ONLY) } else { Ok(()) };
            assert_eq!(zeroing.join().unwrap(), expected);
        });
        let zeroed: u64 =
            memory.calls().iter().filter(|call| call.operation == Operation::WriteZeroes).map(|call| call.length).sum();
        assert_eq!(zeroed, if access == Access::ReadOnly { 64 * MIB } else { 256 * MIB });
    }
}

/// Whoever waits at the gate gets ESHUTDOWN from closing and from aborting, which also ends a suspension that is still
/// waiting for a request; nothing hangs.
#[test]
fn closing_ends_every_wait() {
    let (_, volume) = volume_of(MemoryDevice::new(MIB));
    volume.suspend(false, true).unwrap();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| volume.read(&mut [0; 512], 0))).collect();
        volume.close().unwrap();
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap() == Err(Error::CLOSED)));
    });
    assert_eq!(volume.set_access(Access::ReadOnly), Err(Error::CLOSED));
    assert_eq!(volume.suspend(false, true), Err(Error::CLOSED));
    assert_eq!(errno(volume.resume(None)), libc::ESHUTDOWN);

    let (memory, volume) = volume_of(MemoryDevice::new(MIB));
    memory.hold();
    thread::scope(|scope| {
        let under_way = scope.spawn(|| volume.write(&mut [1; 512], 0, LAZY));
        memory.wait_until_held(1);
        let suspending = scope.spawn(|| volume.suspend(false, true));
        until(|| volume.below.is_barred());
        let late = scope.spawn(|| volume.read(&mut [0; 512], 0));
        volume.abort();
        assert_eq!(suspending.join().unwrap(), Err(Error::CLOSED));
        assert_eq!(late.join().unwrap(), Err(Error::CLOSED));
        assert!(!under_way.is_finished());
        memory.release();
        assert_eq!(under_way.join().unwrap(), Ok(()));
    });
    assert_eq!(memory.count(Operation::Flush), 0);
    volume.close().unwrap();
    assert_eq!(memory.count(Operation::Flush), 1);
}

/// A wiped volume comes back with its own key only: not without one, not with another's, not with one that is none.
#[test]
fn wiped_key_must_come_back() {
    let (key, other) = (key_of(0), key_of(1));
    let options =
        Options { size: MIB, data_offset: 4096, sector_size: 4096, key: Some(&key), read_only: false, discard: true };
    let volume = assemble(Faulty::new(MIB as usize + 4096), &options).unwrap();
    volume.write(&mut [7; 4096], 0, LAZY).unwrap();
    assert!(matches!(volume.resume(Some(&key)), Err(SetupError::Argument(_))));
    volume.suspend(false, true).unwrap();
    volume.suspend(true, true).unwrap();
    let mut equal_halves = SecretMemory::new(64).unwrap();
    equal_halves.fill(&[9; 64]).unwrap();
    assert_eq!(errno(volume.resume(None)), libc::ENOKEY);
    assert_eq!(volume.set_access(Access::ReadOnly), Err(Error::NO_KEY));
    assert_eq!(errno(volume.resume(Some(&other))), libc::EKEYREJECTED);
    assert!(matches!(volume.resume(Some(&equal_halves)), Err(SetupError::Argument(_))));
    assert_eq!(errno(volume.resume(None)), libc::ENOKEY);
    assert_eq!(volume.access(), Access::Suspended);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut read = [0; 4096];
            volume.read(&mut read, 0).map(|()| read)
        });
        volume.resume(Some(&key)).unwrap();
        assert_eq!(waiting.join().unwrap(), Ok([7; 4096]));
    });
    volume.suspend(true, true).unwrap();
    volume.close().unwrap();
}

/// A flush that fails as a suspension begins is told, and the volume is suspended and wiped all the same.
#[test]
fn failed_flush_suspends_nevertheless() {
    let key = key_of(0);
    let backing = Faulty::new(MIB as usize);
    backing.script(Call::Sync, [Fault::Errno(libc::EIO)]);
    let options =
        Options { size: MIB, data_offset: 0, sector_size: 4096, key: Some(&key), read_only: false, discard: true };
    let volume = assemble(backing, &options).unwrap();
    assert_eq!(volume.suspend(true, true), Err(Error::IO));
    assert_eq!(volume.access(), Access::Suspended);
    assert_eq!(errno(volume.resume(None)), libc::ENOKEY);
    volume.resume(Some(&key)).unwrap();
    assert_eq!(volume.flush(), Err(Error::IO));
}

/// Under threads in full swing every access holds from the moment its call returns, fifty times in a row.
#[test]
fn access_holds_under_load() {
    let (_, volume) = volume_of(MemoryDevice::new(MIB));
    let stop = AtomicBool::new(false);
    let written = || volume.statistics(Operation::Write).bytes;
    let requests = || volume.statistics(Operation::Read).operations + volume.statistics(Operation::Write).operations;
    thread::scope(|scope| {
        for number in 0..4_u64 {
            let (volume, stop) = (&volume, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let written = volume.write(&mut [1; 512], number * 4096, LAZY);
                    assert!(matches!(written, Ok(()) | Err(Error::READ_ONLY)));
                    volume.read(&mut [0; 512], number * 4096).unwrap();
                }
            });
        }
        for _ in 0..50 {
            volume.set_access(Access::Suspended).unwrap();
            let before = requests();
            thread::yield_now();
            assert_eq!(requests(), before);
            volume.set_access(Access::ReadOnly).unwrap();
            let (before, bytes) = (requests(), written());
            until(|| requests() > before);
            assert_eq!(written(), bytes);
            volume.set_access(Access::ReadWrite).unwrap();
            until(|| written() > bytes);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
