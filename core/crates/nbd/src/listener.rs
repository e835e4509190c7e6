//! Accepts clients on one listening socket, in a thread of its own.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::socket::{require_stream, retry};

/// How long a listener rests when the system cannot accept, for want of descriptors or memory.
const REST: Duration = Duration::from_millis(100);

/// Wakes every listener of a server, once and for all.
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Wake> {
        let fd = retry(|| {
            // SAFETY: a plain call.
            unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) as isize }
        })?;
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Wake(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    pub(crate) fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes are read from an array of eight. The counter cannot overflow by so few writes.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Whether [`Wake::wake`] came within `time`.
    fn rest(&self, time: Duration) -> io::Result<bool> {
        let mut waited = [readable(self.0.as_raw_fd())];
        poll(&mut waited, time.as_millis() as libc::c_int)?;
        Ok(waited[0].revents != 0)
    }
}

/// A listening socket.
pub(crate) struct Listener(OwnedFd);

impl Listener {
    /// Take over a listening socket. It becomes a non-blocking one, for every process that shares it: a client that
    /// leaves between the waiting and the accepting must not hold the thread. EINVAL for a socket that does not listen.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Listener> {
        require_stream(&fd, libc::SO_ACCEPTCONN, 1)?;
        // SAFETY: plain calls on a descriptor that is owned.
        let flags = retry(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) as isize })? as libc::c_int;
        let flags = flags | libc::O_NONBLOCK;
        // SAFETY: as above.
        retry(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) as isize })?;
        Ok(Listener(fd))
    }

    /// Wait for the next client; None once woken.
    pub(crate) fn accept(&self, wake: &Wake) -> io::Result<Option<OwnedFd>> {
        loop {
            let mut waited = [readable(self.0.as_raw_fd()), readable(wake.0.as_raw_fd())];
            poll(&mut waited, -1)?;
            if waited[1].revents != 0 {
                return Ok(None);
            }
            let (fd, none) = (self.0.as_raw_fd(), std::ptr::null_mut());
            // SAFETY: no address is asked for, which null pointers say.
            match retry(|| unsafe { libc::accept4(fd, none, none.cast(), libc::SOCK_CLOEXEC) as isize }) {
                // SAFETY: the descriptor was just made and belongs to nobody else.
                Ok(client) => return Ok(Some(unsafe { OwnedFd::from_raw_fd(client as RawFd) })),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Either this client's own trouble, or the system's: the next one is tried after a rest.
                Err(_) if !wake.rest(REST)? => {}
                Err(_) => return Ok(None),
            }
        }
    }
}

fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

fn poll(waited: &mut [libc::pollfd], milliseconds: libc::c_int) -> io::Result<usize> {
    // SAFETY: the pointer and the count are of one slice, borrowed exclusively across the call.
    retry(|| unsafe { libc::poll(waited.as_mut_ptr(), waited.len() as libc::nfds_t, milliseconds) as isize })
}
