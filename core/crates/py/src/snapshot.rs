//! `SnapshotView` for Python: the stored bytes of a volume at one instant.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use ebscrypt_device::{BlockDigest, Volume};

use crate::arguments::{Memory, from_device, from_io, from_setup, os_error};

/// What a device's change file knows.
#[pyclass(frozen, get_all, module = "ebscrypt._core")]
pub(crate) struct Tracking {
    base: String,
    blocks: u64,
    changed: u64,
}

impl From<ebscrypt_device::Tracking> for Tracking {
    fn from(tracking: ebscrypt_device::Tracking) -> Tracking {
        let ebscrypt_device::Tracking { base, blocks, changed } = tracking;
        Tracking { base, blocks, changed }
    }
}

/// The stored bytes of a volume at the instant at which a snapshot began, block by block.
#[pyclass(frozen, module = "ebscrypt._core")]
pub(crate) struct SnapshotView {
    view: ebscrypt_device::SnapshotView,
}

impl SnapshotView {
    pub(crate) fn begin(py: Python<'_>, volume: &Arc<Volume>, spool: RawFd, since: &str) -> PyResult<SnapshotView> {
        if spool < 0 {
            return Err(os_error(libc::EBADF));
        }
        py.detach(|| {
            // SAFETY: used only to make a duplicate, which fails with EBADF when there is no such descriptor.
            let spool = unsafe { BorrowedFd::borrow_raw(spool) }.try_clone_to_owned().map_err(from_io)?;
            let view = ebscrypt_device::SnapshotView::begin(volume, spool, since).map_err(from_setup)?;
            Ok(SnapshotView { view })
        })
    }

    /// Read a block into `buffer`, which has its length.
    fn fill(&self, py: Python<'_>, index: u64, buffer: &mut [u8]) -> PyResult<BlockDigest> {
        py.detach(|| {
            let mut done = 0;
            let digest = self.view.read(index, |piece| {
                buffer[done..done + piece.len()].copy_from_slice(piece);
                done += piece.len();
            })?;
            // Of a hole nothing was handed over.
            buffer[done..].fill(0);
            Ok(digest)
        })
        .map_err(from_device)
    }
}

fn digest_bytes(py: Python<'_>, digest: BlockDigest) -> Option<Bound<'_, PyBytes>> {
    digest.map(|digest| PyBytes::new(py, &digest))
}

#[pymethods]
impl SnapshotView {
    /// Bytes of the volume when it began.
    #[getter]
    fn size(&self) -> u64 {
        self.view.size()
    }

    /// The base whose changes this has; empty where it has everything.
    #[getter]
    fn base(&self) -> &str {
        self.view.base()
    }

    /// Blocks of the volume when it began.
    #[getter]
    fn blocks(&self) -> u64 {
        self.view.blocks()
    }

    /// Blocks that are still to be stored.
    #[getter]
    fn remaining(&self) -> u64 {
        self.view.remaining()
    }

    /// Blocks that were copied to the spool so far.
    #[getter]
    fn copies(&self) -> u64 {
        self.view.copies()
    }

    /// The first block from `index` on that is still to be stored.
    #[pyo3(signature = (index=0))]
    fn next_block(&self, py: Python<'_>, index: u64) -> Option<u64> {
        py.detach(|| self.view.next(index))
    }

    /// The same without known holes.
    #[pyo3(signature = (index=0))]
    fn next_data(&self, py: Python<'_>, index: u64) -> PyResult<Option<u64>> {
        py.detach(|| self.view.next_data(index)).map_err(from_device)
    }

    /// A block's bytes.
    fn read_block<'py>(&self, py: Python<'py>, index: u64) -> PyResult<Bound<'py, PyBytes>> {
        let length = self.view.length(index).map_err(from_device)?;
        PyBytes::new_with(py, length, |buffer| self.fill(py, index, buffer).map(drop))
    }

    /// Fill the beginning of a buffer with a block, and give its SHA-256; None for zeros.
    fn read_block_into<'py>(
        &self,
        py: Python<'py>,
        buffer: &Bound<'py, PyAny>,
        index: u64,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut buffer = Memory::writable(buffer)?;
        let length = self.view.length(index).map_err(from_device)?;
        if buffer.len() < length {
            let message = format!("block {index} has {length} bytes, the buffer only {}", buffer.len());
            return Err(PyValueError::new_err(message));
        }
        let digest = self.fill(py, index, &mut buffer.bytes_mut()[..length])?;
        Ok(digest_bytes(py, digest))
    }

    /// The SHA-256 of each of these blocks; None for zeros.
    fn hash_blocks<'py>(&self, py: Python<'py>, indexes: Vec<u64>) -> PyResult<Vec<Option<Bound<'py, PyBytes>>>> {
        let hash = |index: &u64| self.view.read(*index, |_| {});
        let digests: Vec<BlockDigest> =
            py.detach(|| indexes.iter().map(hash).collect::<ebscrypt_device::Result<_>>()).map_err(from_device)?;
        Ok(digests.into_iter().map(|digest| digest_bytes(py, digest)).collect())
    }

    /// The block is stored: it may change without a copy, and cannot be read again.
    fn done(&self, py: Python<'_>, index: u64) -> PyResult<()> {
        py.detach(|| self.view.done(index)).map_err(from_device)
    }

    /// The same of every block that is left.
    fn done_rest(&self, py: Python<'_>) {
        py.detach(|| self.view.done_rest());
    }

    /// Everything is stored under this name, which becomes the base.
    fn commit(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        py.detach(|| self.view.commit(name)).map_err(from_device)
    }

    /// Give it up.
    fn abort(&self, py: Python<'_>) {
        py.detach(|| self.view.abort());
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Tracking>()?;
    module.add_class::<SnapshotView>()
}
