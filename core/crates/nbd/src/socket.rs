//! A connected stream socket: blocking calls that neither signals nor short transfers disturb.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

/// The server's end of one connection.
pub(crate) struct Socket(OwnedFd);

/// Bytes that replies may have on the way before the sender waits for their reader, as far as net.core.wmem_max allows:
/// with the kernel's default of 208 KiB the two take turns more often, which costs a fifth of the read throughput.
const SEND_BUFFER: libc::c_int = 2 << 20;

impl Socket {
    /// Take over a connected stream socket, which becomes a blocking one. EINVAL for a socket of another kind.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Socket> {
        let socket = Socket(fd);
        require_stream(&socket.0, libc::SO_ACCEPTCONN, 0)?;
        // SAFETY: plain calls on a descriptor that is owned.
        let flags = unsafe { libc::fcntl(socket.raw(), libc::F_GETFL) };
        check(flags as isize)?;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(socket.raw(), libc::F_SETFL, flags & !libc::O_NONBLOCK) } as isize)?;
        socket.tune(libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER);
        // The protocol asks for this on TCP; on other sockets the call fails, and nothing is lost.
        socket.tune(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        Ok(socket)
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Set an option that makes things faster at best.
    fn tune(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
        let length = size_of_val(&value) as libc::socklen_t;
        // SAFETY: `value` lives across the call and `length` is its size.
        unsafe { libc::setsockopt(self.raw(), level, name, (&raw const value).cast(), length) };
    }

    /// Receive what is there, at least one byte; 0 at the end of the stream.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive_with(buffer, 0)
    }

    /// Receive until `buffer` is full; false where the stream ends before.
    pub(crate) fn receive_all(&self, mut buffer: &mut [u8]) -> io::Result<bool> {
        while !buffer.is_empty() {
            match self.receive_with(buffer, libc::MSG_WAITALL)? {
                0 => return Ok(false),
                received => buffer = &mut buffer[received..],
            }
        }
        Ok(true)
    }

    /// As [`Socket::receive`], with ETIMEDOUT once `deadline` has passed.
    pub(crate) fn receive_before(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        self.wait(libc::POLLIN, deadline)?;
        self.receive_with(buffer, 0)
    }

    fn receive_with(&self, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
        retry(|| {
            // SAFETY: the kernel writes at most `len` bytes into a slice that is borrowed exclusively.
            unsafe { libc::recv(self.raw(), buffer.as_mut_ptr().cast(), buffer.len(), flags) }
        })
    }

    /// Send all of `bytes`, with ETIMEDOUT once `deadline` has passed.
    pub(crate) fn send_before(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.wait(libc::POLLOUT, deadline)?;
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            // SAFETY: the kernel reads `len` bytes of a slice that is borrowed.
            match retry(|| unsafe { libc::send(self.raw(), bytes.as_ptr().cast(), bytes.len(), flags) }) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Send the pieces in order by one call, which may take only some of them; returns the bytes taken.
    pub(crate) fn send_vectored(&self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        // SAFETY: all zeros is a message without name, data and control part.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` is guaranteed to have the layout of `iovec`, and sendmsg does not write through it.
        message.msg_iov = pieces.as_ptr().cast_mut().cast();
        message.msg_iovlen = pieces.len() as _;
        // SAFETY: `message` refers to `pieces`, which is borrowed across the call.
        retry(|| unsafe { libc::sendmsg(self.raw(), &raw const message, libc::MSG_NOSIGNAL) })
    }

    fn wait(&self, events: libc::c_short, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut descriptor = libc::pollfd { fd: self.raw(), events, revents: 0 };
            // Rounded up, so that the last millisecond is not spent spinning.
            let milliseconds = libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX);
            // SAFETY: one descriptor that lives across the call.
            if retry(|| unsafe { libc::poll(&raw mut descriptor, 1, milliseconds) } as isize)? > 0 {
                return Ok(());
            }
        }
    }

    /// Let nothing more in: what has arrived is still read, then the stream ends.
    pub(crate) fn stop_receiving(&self) {
        // SAFETY: a plain call on a descriptor that is owned. It fails where the peer is gone, which is as good.
        unsafe { libc::shutdown(self.raw(), libc::SHUT_RD) };
    }

    /// End the connection both ways; whoever waits in a call on it returns.
    pub(crate) fn cut(&self) {
        // SAFETY: as above.
        unsafe { libc::shutdown(self.raw(), libc::SHUT_RDWR) };
    }
}

/// EINVAL unless `fd` is a stream socket whose flag `option` has this value; ENOTSOCK for what is no socket.
pub(crate) fn require_stream(fd: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    for (name, wanted) in [(libc::SO_TYPE, libc::SOCK_STREAM), (option, value)] {
        let mut found: libc::c_int = -1;
        let mut length = size_of_val(&found) as libc::socklen_t;
        // SAFETY: `found` lives across the call and `length` is its size.
        check(unsafe {
            libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut found).cast(), &raw mut length)
        } as isize)?;
        if found != wanted {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
    }
    Ok(())
}

/// Make a system call again for as long as signals interrupt it.
pub(crate) fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match check(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
