//! Notes which blocks change, and keeps the old ones for a snapshot that is being made.
//!
//! The layer sees bytes as they are stored, below the cipher, so that it needs no key, and a snapshot neither. A block is
//! what a snapshot moves: 512 KiB. A request to blocks that were changed before costs the look at their bits.

pub(crate) mod bits;
pub(crate) mod changes;
#[cfg(test)]
pub(crate) mod disk;
pub(crate) mod file;
pub(crate) mod header;
pub(crate) mod snapshot;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use self::changes::Changes;
use self::snapshot::Snapshot;
use crate::{Device, Extent, Result, WriteFlags, ZeroFlags};

/// Bytes of a block.
pub const BLOCK: u64 = 512 * 1024;
/// The most blocks that a volume with this layer has: 64 TiB.
pub(crate) const BLOCKS: u64 = 1 << 27;

/// How many blocks `size` bytes have, the last one perhaps in part.
pub(crate) fn blocks_of(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

/// The layer.
pub(crate) struct Track {
    below: Box<dyn Device>,
    pub(crate) changes: Changes,
    copying: AtomicBool,
    snapshot: RwLock<Option<Arc<Snapshot>>>,
}

impl Track {
    pub(crate) fn new(below: Box<dyn Device>, changes: Changes) -> Track {
        Track { below, changes, copying: AtomicBool::new(false), snapshot: RwLock::new(None) }
    }

    /// The layer below, as a snapshot reads it.
    pub(crate) fn below(&self) -> &dyn Device {
        &*self.below
    }

    /// Whether a snapshot is being made.
    pub(crate) fn is_copying(&self) -> bool {
        self.copying.load(Ordering::SeqCst)
    }

    /// Copy for this snapshot from now on. No request is under way.
    pub(crate) fn start(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.write() = Some(snapshot);
        self.copying.store(true, Ordering::SeqCst);
    }

    /// Copy no more for this snapshot.
    pub(crate) fn stop(&self, snapshot: &Arc<Snapshot>) {
        let mut current = self.snapshot.write();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, snapshot)) {
            self.copying.store(false, Ordering::SeqCst);
            *current = None;
        }
    }

    /// Note that a snapshot is stored under this name, and that from now on changes since it began count.
    ///
    /// What the snapshot has must be durable here too: a power cut could bring older content of a block back, which has
    /// not changed since as far as anybody knows.
    pub(crate) fn commit(&self, name: &str) -> Result<()> {
        let flushed = self.below.flush();
        if flushed.is_err() {
            self.changes.give_up();
            return flushed;
        }
        self.changes.commit(name)
    }

    /// The blocks of a range are about to change.
    fn prepare(&self, offset: u64, length: u64) -> Result<()> {
        let blocks = offset / BLOCK..blocks_of(offset + length);
        if blocks.is_empty() {
            return Ok(());
        }
        self.changes.mark(blocks.clone())?;
        if self.copying.load(Ordering::SeqCst) {
            self.preserve(blocks);
        }
        Ok(())
    }

    #[cold]
    fn preserve(&self, blocks: Range<u64>) {
        let snapshot = self.snapshot.read().clone();
        if let Some(snapshot) = snapshot {
            snapshot.preserve(self.below(), blocks);
        }
    }
}

impl Device for Track {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn read_only(&self) -> bool {
        self.below.read_only()
    }

    fn alignment(&self) -> u32 {
        self.below.alignment()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.below.read(buffer, offset)
    }

    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        self.prepare(offset, buffer.len() as u64)?;
        self.below.write(buffer, offset, flags)
    }

    fn flush(&self) -> Result<()> {
        self.below.flush()
    }

    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        self.prepare(offset, length)?;
        self.below.discard(offset, length, flags)
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        self.prepare(offset, length)?;
        self.below.write_zeroes(offset, length, flags)
    }

    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.below.extents(offset, length, each)
    }
}

#[cfg(test)]
mod tests;
