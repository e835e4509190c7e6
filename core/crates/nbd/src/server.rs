//! The server: one thread for each listening socket, one for each connection.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ebscrypt_device::Device;

use crate::connection::{Transmission, negotiate};
use crate::handshake::Export;
use crate::listener::{Listener, Wake};
use crate::roster::{Place, Roster};
use crate::socket::Socket;
use crate::terms::{Terms, base_flags};

/// Bytes of a connection thread's stack: small, since a process that locks its memory pays for all of it.
const STACK: usize = 256 << 10;
/// How long connections that were cut get to notice.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// What a server is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The export's canonical name; the empty name finds it too.
    pub export_name: String,
    /// A text for people.
    pub description: String,
    /// Connections accepted at a time; more wait in the listening socket's queue. Adopted ones count, but always get in.
    pub max_connections: usize,
    /// How long a handshake may take in all, however busily the client talks.
    pub handshake_timeout: Duration,
}

/// What the threads of a server share.
struct Shared {
    device: Arc<dyn Device>,
    options: Options,
    roster: Arc<Roster>,
    wake: Wake,
    stopping: AtomicBool,
}

/// NBD over a device.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// A server without clients yet.
    ///
    /// # Errors
    /// Where the system has no descriptor left.
    pub fn new(device: Arc<dyn Device>, options: Options) -> io::Result<Server> {
        let shared = Shared {
            device,
            options,
            roster: Arc::new(Roster::default()),
            wake: Wake::new()?,
            stopping: AtomicBool::new(false),
        };
        Ok(Server { shared: Arc::new(shared), listeners: Mutex::new(Vec::new()) })
    }

    /// Accept clients on a listening stream socket, each with the fixed newstyle handshake.
    ///
    /// # Errors
    /// ESHUTDOWN after [`Server::stop`]; EINVAL where the socket does not listen; what the system says where no thread
    /// can be had.
    pub fn listen(&self, fd: OwnedFd) -> io::Result<()> {
        let listener = Listener::new(fd)?;
        // Held across the check, so that a stop at the same time either sees this thread or is seen here.
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.roster.is_closed() {
            return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
        }
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("nbd-listen".into()).stack_size(STACK);
        listeners.push(thread.spawn(move || accept_clients(&listener, &shared))?);
        Ok(())
    }

    /// Serve a connected socket that is in the transmission phase already, with simple replies: the kernel's client
    /// got size and flags by netlink.
    ///
    /// # Errors
    /// ESHUTDOWN after [`Server::stop`]; EINVAL where the socket listens or is no stream; what the system says where no
    /// thread can be had.
    pub fn adopt(&self, fd: OwnedFd) -> io::Result<()> {
        start(&self.shared, fd, Some(Terms::SIMPLE))
    }

    /// The transmission flags before any negotiation, as the kernel's client wants them.
    #[must_use]
    pub fn transmission_flags(&self) -> u16 {
        Terms::SIMPLE.transmission_flags(base_flags(self.shared.device.read_only()))
    }

    /// Connections now, those in their handshake among them.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.roster.count()
    }

    /// Accept no more clients, serve what they have sent, end every connection. False where one had to be cut off,
    /// because it did not end within `timeout`: its client does not read, or the device does not answer.
    pub fn stop(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let shared = &self.shared;
        shared.stopping.store(true, Ordering::Relaxed);
        shared.roster.close();
        shared.wake.wake();
        let listeners = std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        for listener in listeners {
            // A listener's thread has nothing to say, and a panic in it nothing to add to what it printed.
            let _ = listener.join();
        }
        shared.roster.for_each(Socket::stop_receiving);
        if shared.roster.wait_until_empty(deadline) {
            return true;
        }
        shared.roster.for_each(Socket::cut);
        shared.roster.wait_until_empty(Instant::now() + CUT_GRACE);
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

fn accept_clients(listener: &Listener, shared: &Arc<Shared>) {
    block_signals();
    while shared.roster.wait_for_room(shared.options.max_connections) {
        match listener.accept(&shared.wake) {
            // A client that cannot be served, for want of a thread, finds its connection closed.
            Ok(Some(client)) => drop(start(shared, client, None)),
            Ok(None) | Err(_) => break,
        }
    }
}

/// Serve a client in a thread of its own; without terms these are negotiated first.
fn start(shared: &Arc<Shared>, fd: OwnedFd, terms: Option<Terms>) -> io::Result<()> {
    let socket = Arc::new(Socket::new(fd)?);
    let Some(place) = shared.roster.enter(Arc::clone(&socket)) else {
        return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
    };
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name("nbd-client".into()).stack_size(STACK);
    thread.spawn(move || converse(shared, &socket, terms, place)).map(drop)
}

fn converse(shared: Arc<Shared>, socket: &Socket, terms: Option<Terms>, place: Place) {
    block_signals();
    // Whatever ends a conversation ends this one only: an error means that the client is gone, and a panic, should
    // there be one, was printed where it happened.
    let _ = catch_unwind(AssertUnwindSafe(|| serve_client(&shared, socket, terms)));
    // Other descriptors of an adopted socket may be open, and the client should see the end all the same.
    socket.cut();
    // The place goes last: once it is free, this thread holds the device no more.
    drop(shared);
    drop(place);
}

fn serve_client(shared: &Shared, socket: &Socket, terms: Option<Terms>) -> io::Result<()> {
    let device = shared.device.as_ref();
    let terms = match terms {
        Some(terms) => Some(terms),
        None => {
            let export = Export {
                name: shared.options.export_name.clone(),
                description: shared.options.description.clone(),
                size: device.size(),
                flags: base_flags(device.read_only()),
            };
            let deadline = Instant::now() + shared.options.handshake_timeout;
            negotiate(socket, export, deadline, &shared.stopping)?
        }
    };
    match terms {
        Some(terms) => Transmission::new(socket, device, terms)?.run(),
        None => Ok(()),
    }
}

/// Signals are for the threads of the process that serves; a call here is never interrupted by one.
fn block_signals() {
    // SAFETY: `all` is initialised by sigfillset before it is read, and the mask concerns this thread alone.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}
