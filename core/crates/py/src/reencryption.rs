//! Re-encryption for Python: what `Device` hands on with a descriptor and a key.

use std::ops::Range;
use std::os::fd::{BorrowedFd, RawFd};

use pyo3::prelude::*;

use ebscrypt_device::{Reencryption, Volume};

use crate::arguments::{from_setup, os_error};
use crate::secret::SecretMemory;

pub(crate) fn begin(
    py: Python<'_>,
    volume: &Volume,
    fd: RawFd,
    key: &SecretMemory,
    journal: Range<u64>,
    id: [u8; 16],
) -> PyResult<()> {
    if fd < 0 {
        return Err(os_error(libc::EBADF));
    }
    py.detach(|| {
        // SAFETY: used only to make a duplicate, which fails with EBADF when there is no such descriptor.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        key.with(|key| volume.begin_reencryption(fd, &Reencryption { key, journal, id }).map_err(from_setup))
    })
}
