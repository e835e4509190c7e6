//! A volume that is being filled, as whoever has its blocks sees it.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::descriptor::Descriptor;
use crate::fill::Fill;
use crate::fill::file::FillFile;
use crate::gate::Volume;
use crate::open::SetupError;
use crate::{Error, Result};

/// Make the empty file behind `fd` the fill file of a volume of `size` bytes, of which the blocks of these ranges are still
/// to come. Durable when it returns, but for the file's name.
///
/// # Errors
/// [`SetupError`]: no regular file, a volume beyond 64 TiB, blocks that it does not have, no space.
pub fn create_fill_file(fd: BorrowedFd<'_>, size: u64, missing: &[Range<u64>]) -> std::result::Result<(), SetupError> {
    let failed = |error| SetupError::from_io(error, "the fill file cannot be made");
    let file = Descriptor::new(fd, false).map_err(failed)?;
    FillFile::create(&file, size, missing).map_err(failed)
}

/// All of this works while the volume is suspended, too: nobody else could let the requests finish that wait for a block.
/// Of a volume without a fill file nothing is missing.
impl Volume {
    /// Blocks that a crash would let be supplied again; zero: the volume is whole, durably.
    ///
    /// # Errors
    /// ESHUTDOWN once closed.
    pub fn fill_left(&self) -> Result<u64> {
        self.filled(|fill| Ok(fill.left())).map(Option::unwrap_or_default)
    }

    /// The first block from `block` on that is missing.
    ///
    /// # Errors
    /// ESHUTDOWN once closed.
    pub fn next_missing(&self, block: u64) -> Result<Option<u64>> {
        self.filled(|fill| Ok(fill.next_missing(block))).map(Option::flatten)
    }

    /// The missing blocks for which requests wait, after waiting up to `timeout` for one.
    ///
    /// # Errors
    /// ESHUTDOWN once closed.
    pub fn wanted(&self, timeout: Duration) -> Result<Vec<u64>> {
        self.filled(|fill| Ok(fill.wanted(timeout))).map(Option::unwrap_or_default)
    }

    /// Supply a block: its bytes as they are stored, and zeros up to its end where there are fewer. Nothing happens
    /// where it is there already.
    ///
    /// # Errors
    /// EINVAL for a block that the volume does not have, and for more bytes than one has; ESHUTDOWN once closed; what writing
    /// says, which those who wait for the block are told too; EIO where what is there cannot be made durable.
    pub fn supply(&self, block: u64, stored: &[u8]) -> Result<()> {
        self.filled(|fill| fill.supply(block, stored)).map(drop)
    }

    /// Say that a block cannot be supplied: the requests that wait for it fail, and the next one asks for it again.
    ///
    /// # Errors
    /// ESHUTDOWN once closed.
    pub fn fail(&self, block: u64, error: Error) -> Result<()> {
        self.filled(|fill| {
            fill.fail(block, error);
            Ok(())
        })
        .map(drop)
    }

    /// Make durable what is there.
    ///
    /// # Errors
    /// EIO where that fails; ESHUTDOWN once closed.
    pub fn settle(&self) -> Result<()> {
        self.filled(Fill::settle_all).map(drop)
    }

    fn filled<R>(&self, work: impl FnOnce(&Fill) -> Result<R>) -> Result<Option<R>> {
        let below = self.below.enter_aside().ok_or(Error::CLOSED)?;
        below.fill.as_deref().map(work).transpose()
    }
}
