//! `ebscrypt._core`: the core for Python. Its surface is described, and kept true by stubtest, in `_core.pyi`.
//!
//! Every call that may wait or work releases the GIL. Nothing below this crate knows of Python.

mod arguments;
mod device;
mod filling;
mod nbd;
mod process;
mod reencryption;
mod secret;
mod snapshot;

use pyo3::prelude::*;

/// The compiled core of ebscrypt: secret memory, the device stack, NBD.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    secret::register(module)?;
    device::register(module)?;
    filling::register(module)?;
    snapshot::register(module)?;
    nbd::register(module)?;
    process::register(module)
}
