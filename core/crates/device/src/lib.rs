//! The device stack: what a volume is between a request and the backing.
//!
//! [`open`] assembles it, and nobody else does. Every layer speaks [`Device`], does one thing and hands the rest on:
//!
//! ```text
//! gate    bounds, access, counters, closing           any request
//! align   read-modify-write of partial sectors        any request
//! crypt   AES-256-XTS, in place                       whole sectors
//! track   changed blocks, copies for a snapshot       the same
//! fill    blocks that are still to come               the same
//! file    pread, pwrite, fdatasync, fallocate, lseek  what O_DIRECT wants
//! ```

mod access;
mod align;
mod backing;
mod buffer;
mod crypt;
mod descriptor;
#[cfg(test)]
mod faults;
mod file;
mod fill;
mod filling;
mod gate;
mod open;
mod statistics;
mod stripes;
mod track;
mod turn;
mod turnstile;
mod types;
mod view;

pub mod testing;

use std::sync::Arc;

pub use buffer::{Buffer, SCRATCH, Scratch};
pub use filling::create_fill_file;
pub use gate::Volume;
pub use open::{FillOptions, Options, SetupError, open, open_filling, open_tracked};
pub use statistics::{BUCKETS, OperationStatistics};
pub use track::BLOCK;
pub use turn::Reencryption;
pub use types::{Access, Error, Extent, Operation, Result, WriteFlags, ZeroFlags};
pub use view::{BlockDigest, SnapshotView, Tracking};

/// One operation vocabulary, the same in every layer. Offsets and lengths are bytes of the volume.
///
/// Requests may come from several threads at once. No layer allocates on the path of read and write.
pub trait Device: Send + Sync {
    /// Bytes of the volume. It may grow while the device is open, never shrink.
    fn size(&self) -> u64;
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// What offsets and lengths of a request should be multiples of, in bytes, for the stack to do its best. The top
    /// takes any request; a layer below `align` takes only these.
    fn alignment(&self) -> u32;
    /// Fill `buffer` from `offset`.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
    /// Store `buffer` at `offset`. The buffer belongs to the stack until it returns and is turned in place: what is in
    /// it afterwards is unspecified.
    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()>;
    /// Make every write that completed before this call durable, whichever thread made it.
    fn flush(&self) -> Result<()>;
    /// Forget a range. Whole sectors of it read as zeros afterwards where the backing can punch holes.
    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()>;
    /// Let a range read as zeros.
    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()>;
    /// The states of a range in order, covering it without a gap; `each` returns false to stop early.
    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()>;
    /// Where the first data of a range is; none where all of it is hole. Cheaper than [`Device::extents`] where a layer
    /// need not look for the end of that data.
    fn first_data(&self, offset: u64, length: u64) -> Result<Option<u64>> {
        let mut found = None;
        self.extents(offset, length, &mut |extent| {
            found = (!extent.hole).then_some(extent.offset);
            extent.hole
        })?;
        Ok(found)
    }
}

/// A layer as part of a stack, beside whom somebody else holds it too.
impl<D: Device> Device for Arc<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_only(&self) -> bool {
        (**self).read_only()
    }

    fn alignment(&self) -> u32 {
        (**self).alignment()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        (**self).read(buffer, offset)
    }

    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        (**self).write(buffer, offset, flags)
    }

    fn flush(&self) -> Result<()> {
        (**self).flush()
    }

    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        (**self).discard(offset, length, flags)
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        (**self).write_zeroes(offset, length, flags)
    }

    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        (**self).extents(offset, length, each)
    }

    fn first_data(&self, offset: u64, length: u64) -> Result<Option<u64>> {
        (**self).first_data(offset, length)
    }
}
