//! Functions that concern the whole process.

use pyo3::prelude::*;

use crate::arguments::from_io;

/// PR_SET_DUMPABLE 0, RLIMIT_CORE 0, and on wish mlockall and PR_SET_IO_FLUSHER.
#[pyfunction]
#[pyo3(signature = (*, lock_memory, io_flusher))]
fn harden_process(lock_memory: bool, io_flusher: bool) -> PyResult<Vec<String>> {
    ebscrypt_secret::harden_process(lock_memory, io_flusher).map_err(from_io)
}

/// Become `uid`:`gid`, without capabilities, supplementary groups, and any way back.
#[pyfunction]
fn drop_privileges(py: Python<'_>, uid: u32, gid: u32) -> PyResult<()> {
    // The C library changes the ids in all threads and waits for each, so none may be kept waiting for the GIL.
    py.detach(|| ebscrypt_secret::drop_privileges(uid, gid)).map_err(from_io)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(harden_process, module)?)?;
    module.add_function(wrap_pyfunction!(drop_privileges, module)?)
}
