//! A snapshot that is being made, as whoever stores it sees it: the stored bytes of a volume at one instant.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ebscrypt_secret::Sha256;

use crate::buffer::{SCRATCH, Scratch, is_zero};
use crate::gate::Volume;
use crate::open::SetupError;
use crate::track::header::LONGEST_BASE;
use crate::track::snapshot::Snapshot;
use crate::track::{Track, blocks_of};
use crate::{Device, Error, Result};

/// SHA-256 of a block; none for one that is all zeros.
pub type BlockDigest = Option<[u8; 32]>;

/// What a volume's change file knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// The name of the state since which changes are noted; empty where everything counts as changed.
    pub base: String,
    /// Blocks of the volume, of 512 KiB each.
    pub blocks: u64,
    /// How many of them have changed.
    pub changed: u64,
}

impl Volume {
    /// What is known of changes; none where the volume was opened without a change file.
    ///
    /// # Errors
    /// ESHUTDOWN once closed.
    pub fn tracking(&self) -> Result<Option<Tracking>> {
        let below = self.below.enter_aside().ok_or(Error::CLOSED)?;
        let blocks = blocks_of(self.size());
        Ok(below.track.as_ref().map(|track| {
            let (base, changed) = track.changes.report(blocks);
            Tracking { base, blocks, changed }
        }))
    }
}

/// A snapshot of a volume, from its beginning to its end. Dropped before its end it is given up.
pub struct SnapshotView {
    volume: Arc<Volume>,
    snapshot: Arc<Snapshot>,
    ended: AtomicBool,
}

impl SnapshotView {
    /// Fix this instant: every request that completed before is in, none that comes afterwards; of those under way each
    /// one is waited for. The view has what changed since `since` where that is the base of the change file, else
    /// everything. `spool` is an empty file for the old content of blocks that change before they are stored.
    ///
    /// # Errors
    /// EOPNOTSUPP without a change file; EBUSY while there is another snapshot, or a re-encryption; ESHUTDOWN once closed;
    /// EIO where the change file cannot be written.
    pub fn begin(volume: &Arc<Volume>, spool: OwnedFd, since: &str) -> std::result::Result<SnapshotView, SetupError> {
        let closed = || SetupError::system(Error::CLOSED.0, "the device is closed");
        // Nobody suspends, resumes, closes or begins another meanwhile.
        let _control = volume.control.lock();
        {
            let below = volume.below.enter_aside().ok_or_else(closed)?;
            let track = below.track.as_ref();
            let track = track.ok_or_else(|| SetupError::system(libc::EOPNOTSUPP, "there is no change file"))?;
            if track.is_copying() {
                return Err(SetupError::system(libc::EBUSY, "another snapshot is being made"));
            }
            let failed = |error: Error| SetupError::System(error.0, "the change file cannot be written".to_owned());
            if below.crypt.as_ref().is_some_and(|crypt| crypt.turning().is_some()) {
                // What is stored has two keys, and a snapshot can have only one.
                return Err(SetupError::system(libc::EBUSY, "the volume is being re-encrypted"));
            }
            track.changes.prepare(volume.size()).map_err(failed)?;
        }
        if !volume.below.hold() {
            return Err(closed());
        }
        let snapshot = volume.below.enter_aside().and_then(|below| {
            let track = below.track.as_ref()?;
            let size = volume.size();
            let changed = track.changes.begin(since, blocks_of(size));
            let snapshot = Arc::new(Snapshot::new(size, since, changed.as_ref(), fs::File::from(spool)));
            track.start(Arc::clone(&snapshot));
            Some(snapshot)
        });
        // Of a suspended volume the requests go on waiting.
        if !volume.suspended.load(Ordering::SeqCst) {
            volume.below.release();
        }
        let snapshot = snapshot.ok_or_else(closed)?;
        Ok(SnapshotView { volume: Arc::clone(volume), snapshot, ended: AtomicBool::new(false) })
    }

    /// Bytes of the volume when it began.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.snapshot.size
    }

    /// The base whose changes the view has; empty where it has everything.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.snapshot.base
    }

    /// Blocks of the volume when it began, the last one perhaps in part.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.snapshot.blocks()
    }

    /// Blocks that are still to be stored.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.snapshot.remaining()
    }

    /// Blocks that had to be copied so far, because they were about to change.
    #[must_use]
    pub fn copies(&self) -> u64 {
        self.snapshot.copies()
    }

    /// The first block from `block` on that is still to be stored, a hole or not.
    #[must_use]
    pub fn next(&self, block: u64) -> Option<u64> {
        self.snapshot.next(block)
    }

    /// The same without the blocks that are known to be holes without reading them. Those count as `remaining`, too.
    ///
    /// # Errors
    /// Why the snapshot failed; ESHUTDOWN once it ended or the volume was closed.
    pub fn next_data(&self, block: u64) -> Result<Option<u64>> {
        self.with(|track| self.snapshot.next_data(track.below(), block))
    }

    /// Bytes of a block.
    ///
    /// # Errors
    /// EINVAL unless it is still to be stored.
    pub fn length(&self, block: u64) -> Result<usize> {
        if self.snapshot.is_wanted(block) { Ok(self.snapshot.place(block).1) } else { Err(Error::INVALID) }
    }

    /// Hash a block, and hand its bytes to `take` in order, which for a hole gets none.
    ///
    /// # Errors
    /// EINVAL unless it is still to be stored; why the snapshot failed; ESHUTDOWN once it ended or the volume was closed.
    pub fn read(&self, block: u64, mut take: impl FnMut(&[u8])) -> Result<BlockDigest> {
        let length = self.length(block)?;
        self.with(|track| {
            if self.snapshot.is_hole(track.below(), block)? {
                return Ok(None);
            }
            let mut scratch = Scratch::take();
            let (mut hash, mut zero) = (Sha256::new(), true);
            for start in (0..length).step_by(SCRATCH) {
                let piece = &mut scratch[..(length - start).min(SCRATCH)];
                self.snapshot.read(track.below(), block, start, piece)?;
                zero = zero && is_zero(piece);
                hash.update(piece);
                take(piece);
            }
            Ok((!zero).then(|| hash.finish()))
        })
    }

    /// A block is stored: it needs no copy any more, and cannot be read again.
    ///
    /// # Errors
    /// EINVAL unless it was still to be stored.
    pub fn done(&self, block: u64) -> Result<()> {
        self.length(block)?;
        self.snapshot.done(block);
        Ok(())
    }

    /// Every block that is still to be stored was a hole, or is stored: what `done` says of one, of all at once.
    pub fn done_rest(&self) {
        let mut next = self.next(0);
        while let Some(block) = next {
            self.snapshot.done(block);
            next = self.next(block + 1);
        }
    }

    /// Everything is stored, under a name: from now on the change file has what changed since this snapshot began.
    ///
    /// # Errors
    /// EINVAL for a name that is empty or longer than 128 bytes, and while blocks remain; why the snapshot failed;
    /// ESHUTDOWN once it ended or the volume was closed. EIO where the volume cannot be flushed or the change file not be
    /// written: the snapshot is whole, but the next one cannot build on it.
    pub fn commit(&self, name: &str) -> Result<()> {
        if name.is_empty() || name.len() > LONGEST_BASE || self.remaining() > 0 {
            return Err(Error::INVALID);
        }
        self.with(|track| {
            if self.ended.swap(true, Ordering::SeqCst) {
                return Err(Error::CLOSED);
            }
            let committed = track.commit(name);
            self.snapshot.end();
            // Last: until then nobody else begins.
            track.stop(&self.snapshot);
            committed
        })
    }

    /// Give it up: everything that changed before or since counts as changed since the base before. Idempotent.
    pub fn abort(&self) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        self.snapshot.end();
        if let Some(below) = self.volume.below.enter_aside() {
            if let Some(track) = &below.track {
                track.changes.give_up();
                track.stop(&self.snapshot);
            }
        }
    }

    fn with<R>(&self, work: impl FnOnce(&Track) -> Result<R>) -> Result<R> {
        self.snapshot.check()?;
        let below = self.volume.below.enter_aside().ok_or(Error::CLOSED)?;
        work(below.track.as_ref().ok_or(Error::CLOSED)?)
    }
}

impl Drop for SnapshotView {
    fn drop(&mut self) {
        self.abort();
    }
}
