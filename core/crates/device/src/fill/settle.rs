//! How blocks that are there become settled, many at a time.

use std::ops::Range;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::Fill;
use crate::{Error, Result};

impl Fill {
    /// Settle those of a range that are there, or wait for whoever does; many who want that are served at once.
    pub(super) fn settle(&self, blocks: Range<u64>) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            let awaited = |found: &Vec<u64>| found.iter().any(|block| blocks.contains(block));
            if !awaited(&state.there) && !awaited(&state.settling) {
                return Ok(());
            }
            if state.broken {
                return Err(Error::IO);
            }
            if !state.settling.is_empty() {
                self.changed.wait(&mut state);
                continue;
            }
            let mut batch = std::mem::take(&mut state.there);
            state.settling.clone_from(&batch);
            let settled = MutexGuard::unlocked(&mut state, || self.make_durable(&mut batch));
            state.settling.clear();
            if settled.is_ok() {
                self.note_settled(&batch);
            } else {
                state.there.extend(batch);
                state.broken |= settled == Err(Unsettled::File);
            }
            self.changed.notify_all();
            settled.map_err(|_| Error::IO)?;
        }
    }

    fn make_durable(&self, batch: &mut [u64]) -> std::result::Result<(), Unsettled> {
        self.below.flush().map_err(|_| Unsettled::Content)?;
        self.file.settle(&self.unsettled, batch).map_err(|_| Unsettled::File)
    }

    fn note_settled(&self, batch: &[u64]) {
        batch.iter().for_each(|block| self.unsettled.unset(*block));
        let left = self.left.fetch_sub(batch.len() as u64, Ordering::SeqCst) - batch.len() as u64;
        if left == 0 {
            self.done.store(true, Ordering::SeqCst);
            self.asked.notify_all();
        }
    }
}

/// What could not be made durable.
#[derive(PartialEq, Eq)]
enum Unsettled {
    Content,
    File,
}
