//! `Filling` for Python: the blocks of a volume that are still to come.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use ebscrypt_device::{Error, Volume};

use crate::arguments::{Bytes, Memory, from_device, from_setup, os_error};

/// Seconds as Python has them.
pub(crate) fn patience(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{seconds} is not a number of seconds to wait")))
}

/// The blocks of a volume that are still to come. Of a closed device everything is ESHUTDOWN.
#[pyclass(frozen, module = "ebscrypt._core")]
pub(crate) struct Filling {
    volume: Arc<Volume>,
}

impl Filling {
    pub(crate) fn new(volume: &Arc<Volume>) -> Filling {
        Filling { volume: Arc::clone(volume) }
    }
}

#[pymethods]
impl Filling {
    /// Blocks that a crash would let be supplied again.
    #[getter]
    fn left(&self) -> PyResult<u64> {
        self.volume.fill_left().map_err(from_device)
    }

    /// The first block from `index` on that is missing.
    #[pyo3(signature = (index=0))]
    fn next_missing(&self, index: u64) -> PyResult<Option<u64>> {
        self.volume.next_missing(index).map_err(from_device)
    }

    /// The missing blocks for which requests wait.
    fn wanted(&self, py: Python<'_>, timeout: f64) -> PyResult<Vec<u64>> {
        let timeout = patience(timeout)?;
        py.detach(|| self.volume.wanted(timeout)).map_err(from_device)
    }

    /// A block's bytes as they are stored, without the zeros at its end.
    fn supply(&self, py: Python<'_>, index: u64, stored: &Bound<'_, PyAny>) -> PyResult<()> {
        let stored = Memory::readable(stored)?;
        py.detach(|| self.volume.supply(index, stored.bytes())).map_err(from_device)
    }

    /// A block cannot be had now.
    fn fail(&self, py: Python<'_>, index: u64, errno: i32) -> PyResult<()> {
        py.detach(|| self.volume.fail(index, Error(errno))).map_err(from_device)
    }

    /// Make durable what is there.
    fn settle(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.volume.settle()).map_err(from_device)
    }
}

/// Make an empty file the fill file of a volume of `size` bytes; `missing` has the first block and the count of each run.
#[pyfunction]
fn create_fill_file(py: Python<'_>, fd: RawFd, size: Bytes, missing: Vec<(u64, u64)>) -> PyResult<()> {
    if fd < 0 {
        return Err(os_error(libc::EBADF));
    }
    let missing: Vec<_> = missing.into_iter().map(|(first, count)| first..first.saturating_add(count)).collect();
    py.detach(|| {
        // SAFETY: used only to make a duplicate, which fails with EBADF when there is no such descriptor.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        ebscrypt_device::create_fill_file(fd, size.0, &missing).map_err(from_setup)
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(create_fill_file, module)?)?;
    module.add_class::<Filling>()
}
