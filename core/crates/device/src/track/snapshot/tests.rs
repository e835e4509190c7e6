//! A reader of a snapshot whose block changes at the worst moment.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use super::*;
use crate::testing::MemoryDevice;
use crate::{Extent, WriteFlags, ZeroFlags};

/// A device on which somebody else changes block 0 just before it is read or looked at, as the layer above has it done.
struct Raced {
    memory: MemoryDevice,
    snapshot: Arc<Snapshot>,
    discards: bool,
}

impl Raced {
    fn race(&self) {
        self.snapshot.preserve(&self.memory, 0..1);
        if self.discards {
            self.memory.discard(0, BLOCK, WriteFlags::default()).unwrap();
        } else {
            self.memory.write(&mut [2; 512], 0, WriteFlags::default()).unwrap();
        }
    }
}

impl Device for Raced {
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn alignment(&self) -> u32 {
        1
    }
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.race();
        self.memory.read(buffer, offset)
    }
    fn write(&self, _buffer: &mut [u8], _offset: u64, _flags: WriteFlags) -> Result<()> {
        Err(Error::UNSUPPORTED)
    }
    fn flush(&self) -> Result<()> {
        Err(Error::UNSUPPORTED)
    }
    fn discard(&self, _offset: u64, _length: u64, _flags: WriteFlags) -> Result<()> {
        Err(Error::UNSUPPORTED)
    }
    fn write_zeroes(&self, _offset: u64, _length: u64, _flags: ZeroFlags) -> Result<()> {
        Err(Error::UNSUPPORTED)
    }
    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.race();
        self.memory.extents(offset, length, each)
    }
}

fn raced(discards: bool) -> Raced {
    let memory = MemoryDevice::new(2 * BLOCK);
    memory.write(&mut [1; 512], 0, WriteFlags::default()).unwrap();
    // SAFETY: a plain system call; the new descriptor is owned right away.
    let spool = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"spool".as_ptr(), libc::MFD_CLOEXEC)) };
    Raced { memory, snapshot: Arc::new(Snapshot::new(2 * BLOCK, "", None, spool.into())), discards }
}

/// What changed while it was read is read again from the spool; and no block passes for a hole that became one meanwhile.
#[test]
fn what_changes_meanwhile_is_seen_as_it_was() {
    for discards in [false, true] {
        let device = raced(discards);
        let mut buffer = [9; 1024];
        device.snapshot.read(&device, 0, 0, &mut buffer).unwrap();
        assert_eq!(buffer, [[1; 512], [0; 512]].concat()[..]);
        let device = raced(discards);
        assert!(!device.snapshot.is_hole(&device, 0).unwrap());
        let device = raced(discards);
        assert_eq!(device.snapshot.next_data(&device, 0).unwrap(), Some(0));
    }
}

/// Once it failed, nothing is read any more, also what was being read when it did.
#[test]
fn failure_is_final() {
    let device = raced(false);
    device.snapshot.fail(Error(libc::ENOSPC));
    device.snapshot.fail(Error::IO);
    assert_eq!(device.snapshot.read(&device, 0, 0, &mut [0; 512]), Err(Error(libc::ENOSPC)));
    assert_eq!(device.snapshot.copies(), 0);
    assert!(!device.snapshot.is_hole(&device, 1).unwrap());
    device.snapshot.end();
    assert_eq!(device.snapshot.read(&device, 1, 0, &mut [0; 512]), Err(Error(libc::ENOSPC)));
}
