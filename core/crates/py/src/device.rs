//! `Device` for Python: the stack, with buffers in and out.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use ebscrypt_device::{
    Access, Device as _, FillOptions, Operation, Options, SCRATCH, Scratch, Volume, WriteFlags, ZeroFlags,
};

use crate::arguments::{Bytes, Memory, from_device, from_setup, os_error};
use crate::filling::{Filling, patience};
use crate::reencryption;
use crate::secret::SecretMemory;
use crate::snapshot::{SnapshotView, Tracking};

/// One operation's counters since the device was opened.
#[pyclass(frozen, get_all, module = "ebscrypt._core")]
struct OperationStatistics {
    operations: u64,
    bytes: u64,
    errors: u64,
    latency: Vec<u64>,
}

/// A run of the volume in one state. `hole`: nothing stored, reads as zeros.
#[pyclass(frozen, get_all, module = "ebscrypt._core")]
struct Extent {
    offset: u64,
    length: u64,
    hole: bool,
}

/// The device stack over one backing: gate, align, crypt, track, file. Offsets and lengths are bytes of the volume.
#[pyclass(frozen, module = "ebscrypt._core")]
pub(crate) struct Device {
    volume: Arc<Volume>,
    has_fill_file: bool,
}

impl Device {
    /// The stack for another part of the core. It outlives this object, but not `close`.
    #[allow(clippy::unnecessary_wraps, reason = "callers treat getting the stack as something that may fail")]
    pub(crate) fn stack(&self) -> PyResult<Arc<dyn ebscrypt_device::Device>> {
        Ok(self.volume.clone())
    }
}

#[pymethods]
impl Device {
    #[new]
    #[pyo3(signature = (fd, *, size, data_offset=0, sector_size=4096, key=None, read_only=false, discard=true, change_file=None, fill_file=None, fill_patience=60.0))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        fd: RawFd,
        size: u64,
        data_offset: u64,
        sector_size: u32,
        key: Option<Bound<'_, SecretMemory>>,
        read_only: bool,
        discard: bool,
        change_file: Option<RawFd>,
        fill_file: Option<RawFd>,
        fill_patience: f64,
    ) -> PyResult<Device> {
        if [Some(fd), change_file, fill_file].into_iter().flatten().any(|fd| fd < 0) {
            return Err(os_error(libc::EBADF));
        }
        let patience = patience(fill_patience)?;
        let key = key.as_ref().map(Bound::get);
        py.detach(|| {
            // SAFETY: used only to make a duplicate, which fails with EBADF when there is no such descriptor.
            let borrow = |fd| unsafe { BorrowedFd::borrow_raw(fd) };
            let (fd, change_file) = (borrow(fd), change_file.map(borrow));
            let open = |key: Option<&ebscrypt_secret::SecretMemory>| {
                let options = Options { size, data_offset, sector_size, key, read_only, discard };
                match (fill_file, change_file) {
                    (Some(file), _) => {
                        let fill = FillOptions { file: borrow(file), patience };
                        ebscrypt_device::open_filling(fd, change_file, &fill, &options)
                    }
                    (None, Some(change_file)) => ebscrypt_device::open_tracked(fd, change_file, &options),
                    (None, None) => ebscrypt_device::open(fd, &options),
                }
                .map_err(from_setup)
            };
            let volume = match key {
                Some(key) => key.with(|key| open(Some(key)))?,
                None => open(None)?,
            };
            Ok(Device { volume: Arc::new(volume), has_fill_file: fill_file.is_some() })
        })
    }

    /// Bytes of the volume.
    #[getter]
    fn size(&self) -> u64 {
        self.volume.size()
    }

    /// Whether writes are refused.
    #[getter]
    fn read_only(&self) -> bool {
        self.volume.read_only()
    }

    /// Whether there is a cipher in the stack.
    #[getter]
    fn encrypted(&self) -> bool {
        self.volume.encrypted()
    }

    fn pread<'py>(&self, py: Python<'py>, length: Bytes, offset: Bytes) -> PyResult<Bound<'py, PyBytes>> {
        // Before that much memory is taken for it.
        let length = self.within(offset, length.0)?;
        PyBytes::new_with(py, length, |buffer| py.detach(|| self.volume.read(buffer, offset.0)).map_err(from_device))
    }

    fn pread_into(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>, offset: Bytes) -> PyResult<()> {
        let mut buffer = Memory::writable(buffer)?;
        py.detach(|| self.volume.read(buffer.bytes_mut(), offset.0)).map_err(from_device)
    }

    #[pyo3(signature = (data, offset, *, fua=false))]
    fn pwrite(&self, py: Python<'_>, data: &Bound<'_, PyAny>, offset: Bytes, fua: bool) -> PyResult<()> {
        let data = Memory::readable(data)?;
        // A request that goes in pieces must be refused before the first of them.
        self.within(offset, data.len() as u64)?;
        py.detach(|| self.write(data.bytes(), offset.0, WriteFlags { fua })).map_err(from_device)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.volume.flush()).map_err(from_device)
    }

    #[pyo3(signature = (offset, length, *, fua=false))]
    fn discard(&self, py: Python<'_>, offset: Bytes, length: Bytes, fua: bool) -> PyResult<()> {
        py.detach(|| self.volume.discard(offset.0, length.0, WriteFlags { fua })).map_err(from_device)
    }

    #[pyo3(signature = (offset, length, *, fua=false, no_hole=false, fast=false))]
    fn write_zeroes(
        &self,
        py: Python<'_>,
        offset: Bytes,
        length: Bytes,
        fua: bool,
        no_hole: bool,
        fast: bool,
    ) -> PyResult<()> {
        let flags = ZeroFlags { fua, no_hole, fast };
        py.detach(|| self.volume.write_zeroes(offset.0, length.0, flags)).map_err(from_device)
    }

    /// The states of a range, in order, covering it exactly.
    fn extents(&self, py: Python<'_>, offset: Bytes, length: Bytes) -> PyResult<Vec<Extent>> {
        py.detach(|| {
            let mut extents = Vec::new();
            self.volume.extents(offset.0, length.0, &mut |found| {
                extents.push(Extent { offset: found.offset, length: found.length, hole: found.hole });
                true
            })?;
            Ok(extents)
        })
        .map_err(from_device)
    }

    /// Let the volume end at `size`; the backing must already be that long. Never shrinks (ValueError).
    fn grow(&self, py: Python<'_>, size: Bytes) -> PyResult<()> {
        py.detach(|| self.volume.grow(size.0)).map_err(from_setup)
    }

    /// What the change file knows; None where there is none.
    #[getter]
    fn tracking(&self, py: Python<'_>) -> PyResult<Option<Tracking>> {
        let tracking = py.detach(|| self.volume.tracking()).map_err(from_device)?;
        Ok(tracking.map(Tracking::from))
    }

    /// Fix this instant for a snapshot.
    #[pyo3(signature = (spool, *, since=""))]
    fn begin_snapshot(&self, py: Python<'_>, spool: RawFd, since: &str) -> PyResult<SnapshotView> {
        SnapshotView::begin(py, &self.volume, spool, since)
    }

    /// Begin a re-encryption, or go on with one.
    #[pyo3(signature = (fd, key, *, journal_offset, journal_length, journal_id))]
    fn begin_reencryption(
        &self,
        py: Python<'_>,
        fd: RawFd,
        key: Bound<'_, SecretMemory>,
        journal_offset: u64,
        journal_length: u64,
        journal_id: [u8; 16],
    ) -> PyResult<()> {
        let journal = journal_offset..journal_offset.saturating_add(journal_length);
        reencryption::begin(py, &self.volume, fd, key.get(), journal, journal_id)
    }

    /// Turn one zone, and give how far it is then.
    fn reencrypt_next(&self, py: Python<'_>) -> PyResult<u64> {
        py.detach(|| self.volume.reencrypt_next()).map_err(from_device)
    }

    /// How far a re-encryption is; None where there is none.
    #[getter]
    fn reencrypted(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        py.detach(|| self.volume.reencrypted()).map_err(from_device)
    }

    /// Let the new key be the only one.
    fn end_reencryption(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.volume.end_reencryption()).map_err(from_device)
    }

    /// The blocks that are still to come; None where there is no fill file.
    #[getter]
    fn filling(&self) -> Option<Filling> {
        self.has_fill_file.then(|| Filling::new(&self.volume))
    }

    /// By operation: read, write, flush, discard, write_zeroes, block_status.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let statistics = PyDict::new(py);
        for operation in Operation::ALL {
            let found = self.volume.statistics(operation);
            let latency = found.latency.to_vec();
            let (operations, bytes, errors) = (found.operations, found.bytes, found.errors);
            statistics.set_item(operation.name(), OperationStatistics { operations, bytes, errors, latency })?;
        }
        Ok(statistics)
    }

    /// What requests may do now: `read-write`, `read-only` or `suspended`.
    #[getter]
    fn access(&self) -> &'static str {
        self.volume.access().name()
    }

    /// Change what requests may do, and return when none goes on that this would not let in.
    fn set_access(&self, py: Python<'_>, access: &str) -> PyResult<()> {
        let Some(access) = Access::ALL.into_iter().find(|known| known.name() == access) else {
            let known = Access::ALL.map(Access::name).join(", ");
            return Err(PyValueError::new_err(format!("access {access:?} is not one of {known}")));
        };
        py.detach(|| self.volume.set_access(access)).map_err(from_device)
    }

    /// Let new requests wait and those under way finish, flush, and on wish wipe the round keys.
    #[pyo3(signature = (*, wipe=false, flush=true))]
    fn suspend(&self, py: Python<'_>, wipe: bool, flush: bool) -> PyResult<()> {
        py.detach(|| self.volume.suspend(wipe, flush)).map_err(from_device)
    }

    /// End a suspension; with the key where the round keys were wiped.
    #[pyo3(signature = (key=None))]
    fn resume(&self, py: Python<'_>, key: Option<Bound<'_, SecretMemory>>) -> PyResult<()> {
        let key = key.as_ref().map(Bound::get);
        py.detach(|| match key {
            Some(key) => key.with(|key| self.volume.resume(Some(key)).map_err(from_setup)),
            None => self.volume.resume(None).map_err(from_setup),
        })
    }

    /// Refuse new requests, and those that wait for a suspension to end. Those under way go on; `close` is still to come.
    fn abort(&self, py: Python<'_>) {
        py.detach(|| self.volume.abort());
    }

    /// Refuse new requests, wait for those under way, flush, wipe the round keys, close. Idempotent.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.volume.close()).map_err(from_device)
    }
}

impl Device {
    /// The length as a number for memory, if the range is inside the volume; EINVAL if not.
    fn within(&self, offset: Bytes, length: u64) -> PyResult<usize> {
        match offset.0.checked_add(length) {
            Some(end) if end <= self.volume.size() => {
                usize::try_from(length).map_err(|_| PyValueError::new_err("length exceeds the address space"))
            }
            _ => Err(os_error(libc::EINVAL)),
        }
    }

    /// Write what must not be changed in place: through a scratch buffer, in pieces that end at multiples of its size.
    fn write(&self, data: &[u8], offset: u64, flags: WriteFlags) -> ebscrypt_device::Result<()> {
        let mut scratch = Scratch::take();
        let mut done = 0;
        loop {
            let start = offset + done as u64;
            let room = SCRATCH - (start % SCRATCH as u64) as usize;
            let count = room.min(data.len() - done);
            scratch[..count].copy_from_slice(&data[done..done + count]);
            self.volume.write(&mut scratch[..count], start, flags)?;
            done += count;
            if done == data.len() {
                return Ok(());
            }
        }
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<OperationStatistics>()?;
    module.add_class::<Extent>()?;
    module.add_class::<Device>()
}
