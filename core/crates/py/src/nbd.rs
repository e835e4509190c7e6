//! NBD for Python: threads of the core serve, Python only starts and stops them.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use ebscrypt_nbd::proto::MAX_STRING;
use ebscrypt_nbd::{Options, Server};

use crate::arguments::{from_io, os_error};
use crate::device::Device;

/// What clients show people who ask for a description.
const DESCRIPTION: &str = "ebscrypt volume";

/// NBD over `Device`: threads of the core, no Python on the path.
#[pyclass(frozen, module = "ebscrypt._core")]
struct NbdServer {
    server: Server,
}

#[pymethods]
impl NbdServer {
    #[new]
    #[pyo3(signature = (device, *, export_name="", max_connections=16, handshake_timeout=10.0))]
    fn new(
        device: &Bound<'_, Device>,
        export_name: &str,
        max_connections: usize,
        handshake_timeout: f64,
    ) -> PyResult<NbdServer> {
        if export_name.len() > MAX_STRING || export_name.contains('\0') {
            return Err(PyValueError::new_err(format!(
                "export_name has {} bytes: at most {MAX_STRING} are allowed, and no NUL",
                export_name.len()
            )));
        }
        if max_connections == 0 {
            return Err(PyValueError::new_err("max_connections is 0: at least one client must get in"));
        }
        let options = Options {
            export_name: export_name.to_owned(),
            description: DESCRIPTION.to_owned(),
            max_connections,
            handshake_timeout: seconds("handshake_timeout", handshake_timeout)?,
        };
        let server = Server::new(device.get().stack()?, options).map_err(from_io)?;
        Ok(NbdServer { server })
    }

    /// Accept clients on a listening stream socket; takes a duplicate. Fixed newstyle handshake for each.
    fn listen(&self, py: Python<'_>, fd: RawFd) -> PyResult<()> {
        py.detach(|| self.server.listen(duplicate(fd)?).map_err(from_io))
    }

    /// Serve one connected socket that is already in the transmission phase (the kernel's end is the peer).
    fn adopt(&self, py: Python<'_>, fd: RawFd) -> PyResult<()> {
        py.detach(|| self.server.adopt(duplicate(fd)?).map_err(from_io))
    }

    /// The flags as NBD_OPT_GO would send them; nbd.ko wants them at set-up.
    #[getter]
    fn transmission_flags(&self) -> u16 {
        self.server.transmission_flags()
    }

    /// Clients connected now, those in their handshake among them.
    #[getter]
    fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Accept no more, let requests under way finish, close all. False when a client had to be cut off.
    fn stop(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds("timeout", timeout)?;
        Ok(py.detach(|| self.server.stop(timeout)))
    }
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    // A century is enough for anybody, and can still be added to the clock.
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|duration| duration.as_secs() <= 100 * 365 * 86400)
        .ok_or_else(|| PyValueError::new_err(format!("{name} is {value}: not a number of seconds that can be waited")))
}

/// A descriptor of our own for what is behind `fd`, closed in child processes.
fn duplicate(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(os_error(libc::EBADF));
    }
    // SAFETY: used only to make a duplicate, which fails with EBADF when there is no such descriptor.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().map_err(from_io)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NbdServer>()
}
