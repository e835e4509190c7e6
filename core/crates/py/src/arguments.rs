//! What Python hands in, and the errors that it gets back.

use std::io;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyOSError, PyOverflowError, PyValueError};
use pyo3::prelude::*;

use ebscrypt_device::{Error, SetupError};

/// `OSError`, or the subclass that Python has for this errno, with the C library's words.
pub(crate) fn os_error(errno: i32) -> PyErr {
    let full = io::Error::from_raw_os_error(errno).to_string();
    let words = full.split(" (os error").next().unwrap_or_default().to_owned();
    PyOSError::new_err((errno, words))
}

pub(crate) fn from_io(error: io::Error) -> PyErr {
    os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

pub(crate) fn from_device(error: Error) -> PyErr {
    os_error(error.0)
}

pub(crate) fn from_setup(error: SetupError) -> PyErr {
    match error {
        SetupError::Argument(message) => PyValueError::new_err(message),
        SetupError::System(errno, message) => PyOSError::new_err((errno, message)),
    }
}

/// An offset or length in bytes. A number that is negative or over 64 bits is out of every volume's range: EINVAL.
#[derive(Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromPyObject<'_, '_> for Bytes {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Bytes> {
        object.extract::<u64>().map(Bytes).map_err(|error| {
            if error.is_instance_of::<PyOverflowError>(object.py()) { os_error(libc::EINVAL) } else { error }
        })
    }
}

/// Memory of a Python object that has the buffer protocol, of any format, as bytes.
///
/// The object stays alive and its memory in place until this is dropped. Another thread of the program may change the
/// bytes meanwhile, as in every library that releases the GIL: then it is the program that asks for either content.
pub(crate) struct Memory {
    buffer: PyUntypedBuffer,
}

impl Memory {
    /// The bytes of `object` for reading. BufferError unless they are one contiguous run.
    pub(crate) fn readable(object: &Bound<'_, PyAny>) -> PyResult<Memory> {
        let buffer = PyUntypedBuffer::get(object)?;
        if buffer.is_c_contiguous() {
            Ok(Memory { buffer })
        } else {
            Err(PyBufferError::new_err("the buffer is not contiguous"))
        }
    }

    /// The same for writing. BufferError for a read-only object.
    pub(crate) fn writable(object: &Bound<'_, PyAny>) -> PyResult<Memory> {
        let memory = Memory::readable(object)?;
        if memory.buffer.readonly() { Err(PyBufferError::new_err("the buffer is read-only")) } else { Ok(memory) }
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len_bytes()
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.len() == 0 {
            return &[];
        }
        // SAFETY: contiguous, so `len_bytes` bytes from the start are mapped and initialised while the buffer is held.
        unsafe { std::slice::from_raw_parts(self.buffer.buf_ptr().cast(), self.len()) }
    }

    /// The bytes for changing; only of a memory got by `writable`.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        if self.len() == 0 || self.buffer.readonly() {
            return &mut [];
        }
        // SAFETY: as above, and the exporter allows writing.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.buf_ptr().cast(), self.len()) }
    }
}
