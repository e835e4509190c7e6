//! `SecretMemory` for Python: a key can be put in and used, and never be taken out as an object.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use parking_lot::RwLock;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use ebscrypt_secret::Hash;

use crate::arguments::{Memory, from_io, os_error};

/// Memory for one data key: memfd_secret, or a sealed-off, locked and dump-excluded memfd where that is missing.
#[pyclass(frozen, module = "ebscrypt._core")]
pub(crate) struct SecretMemory {
    memory: RwLock<Option<ebscrypt_secret::SecretMemory>>,
    size: usize,
    kind: &'static str,
}

fn wiped() -> PyErr {
    PyValueError::new_err("the secret memory was wiped")
}

fn hash_named(name: &str) -> PyResult<Hash> {
    Hash::named(name).ok_or_else(|| PyValueError::new_err(format!("hash {name:?} is not one of sha256 and sha512")))
}

impl SecretMemory {
    fn from_memory(memory: ebscrypt_secret::SecretMemory) -> SecretMemory {
        let (size, kind) = (memory.size(), memory.kind().name());
        SecretMemory { memory: RwLock::new(Some(memory)), size, kind }
    }

    /// Use the memory, which others may use at the same time and nobody wipes meanwhile.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&ebscrypt_secret::SecretMemory) -> PyResult<R>) -> PyResult<R> {
        self.memory.read().as_ref().ok_or_else(wiped).and_then(work)
    }
}

#[pymethods]
impl SecretMemory {
    #[new]
    #[pyo3(signature = (size=64))]
    fn new(size: usize) -> PyResult<SecretMemory> {
        if size == 0 {
            return Err(PyValueError::new_err("size 0 holds no key"));
        }
        ebscrypt_secret::SecretMemory::new(size).map(Self::from_memory).map_err(from_io)
    }

    /// Map the secret memory behind an inherited descriptor; takes the descriptor over.
    #[staticmethod]
    #[pyo3(signature = (fd, size=64))]
    fn adopt(fd: RawFd, size: usize) -> PyResult<SecretMemory> {
        // SAFETY: a plain query, for which any number will do.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(os_error(libc::EBADF));
        }
        // SAFETY: open, and the caller gives it up.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        ebscrypt_secret::SecretMemory::adopt(fd, size).map(Self::from_memory).map_err(from_io)
    }

    /// Bytes of the key.
    #[getter]
    fn size(&self) -> usize {
        self.size
    }

    /// `memfd_secret` or `memfd`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.kind
    }

    /// Whether the pages are certain never to reach swap. Memory that cannot be locked is not even allocated.
    #[getter]
    fn locked(&self) -> bool {
        true
    }

    /// The descriptor, close-on-exec, still owned by this object.
    fn fileno(&self) -> PyResult<RawFd> {
        self.with(|memory| Ok(memory.as_fd().as_raw_fd()))
    }

    /// Copy exactly `size` bytes in.
    #[pyo3(signature = (data, /))]
    fn fill(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = Memory::readable(data)?;
        if data.len() != self.size {
            let message = format!("{} bytes do not fill a secret memory of {}", data.len(), self.size);
            return Err(PyValueError::new_err(message));
        }
        self.memory.write().as_mut().ok_or_else(wiped)?.fill(data.bytes()).map_err(from_io)
    }

    /// PBKDF2 of the content: what LUKS2 calls a digest.
    fn digest<'py>(
        &self,
        py: Python<'py>,
        salt: &Bound<'py, PyAny>,
        iterations: u32,
        hash_name: &str,
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (salt, hash) = (Memory::readable(salt)?, hash_named(hash_name)?);
        if iterations == 0 || length == 0 {
            return Err(PyValueError::new_err(format!("{iterations} iterations and length {length} must be positive")));
        }
        PyBytes::new_with(py, length, |digest| {
            py.detach(|| self.with(|memory| memory.digest(salt.bytes(), iterations, hash, digest).map_err(from_io)))
        })
    }

    /// Whether `digest` would give this, compared in constant time.
    fn matches(
        &self,
        py: Python<'_>,
        salt: &Bound<'_, PyAny>,
        iterations: u32,
        hash_name: &str,
        digest: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let (salt, digest) = (Memory::readable(salt)?, Memory::readable(digest)?);
        let hash = hash_named(hash_name)?;
        if iterations == 0 || digest.len() == 0 {
            return Err(PyValueError::new_err("neither no iterations nor an empty digest can match a key"));
        }
        py.detach(|| {
            self.with(|memory| memory.matches(salt.bytes(), iterations, hash, digest.bytes()).map_err(from_io))
        })
    }

    /// Zero and unmap, close the descriptor. Idempotent.
    fn wipe(&self, py: Python<'_>) {
        // A digest under way is waited for, which may take a second.
        py.detach(|| {
            if let Some(memory) = self.memory.write().take() {
                memory.wipe();
            }
        });
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<SecretMemory>()
}
