//! A client on a socket, for tests of the server: it speaks what it is told to, right or wrong.

#![allow(dead_code)] // each test file is a crate of its own and uses its part

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ebscrypt_device::Device;
use ebscrypt_nbd::proto::option as opt;
use ebscrypt_nbd::{Options, Server};

use super::{go_data, meta_data, number, option, request};

/// How long anything may take here before a test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn options() -> Options {
    Options {
        export_name: "vol-1".into(),
        description: "a volume".into(),
        max_connections: 4,
        handshake_timeout: PATIENCE,
    }
}

pub fn server(device: Arc<dyn Device>) -> Server {
    Server::new(device, options()).expect("a server")
}

/// Wait until `condition` holds.
pub fn eventually(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A server on a socket of its own; the path is removed at the end.
pub struct Listening {
    pub server: Server,
    pub path: std::path::PathBuf,
}

impl Listening {
    pub fn new(device: Arc<dyn Device>, options: Options) -> Listening {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ebscrypt-nbd-{}-{next}", std::process::id()));
        let server = Server::new(device, options).expect("a server");
        server.listen(UnixListener::bind(&path).expect("a socket").into()).expect("listening");
        Listening { server, path }
    }

    pub fn connect(&self) -> Wire {
        Wire::new(UnixStream::connect(&self.path).expect("a connection"), false)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One reply, simple or a chunk.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub cookie: u64,
    /// Of a simple reply or an error chunk.
    pub error: u32,
    /// None for a simple reply.
    pub kind: Option<u16>,
    pub done: bool,
    pub payload: Vec<u8>,
}

/// The client's end of a connection.
pub struct Wire {
    pub stream: UnixStream,
    pub extended: bool,
}

impl Wire {
    pub fn new(stream: UnixStream, extended: bool) -> Wire {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Wire { stream, extended }
    }

    /// A connection that the server took over after the handshake, as it does the kernel's.
    pub fn adopted(server: &Server) -> Wire {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        server.adopt(theirs.into()).expect("adopted");
        Wire::new(ours, false)
    }

    /// Go through the handshake with the header form that `form` asks for, and `base:allocation`.
    pub fn negotiated(mut self, form: u32) -> Wire {
        self.receive(18);
        self.send(&[0, 0, 0, 3]);
        self.send(&option(form, b""));
        self.receive(20);
        self.send(&option(opt::SET_META_CONTEXT, &meta_data(b"", &["base:allocation"])));
        self.receive(20 + 4 + "base:allocation".len() + 20);
        self.send(&option(opt::GO, &go_data(b"", &[])));
        self.receive(20 + 12 + 20 + 14 + 20);
        self.extended = form == opt::EXTENDED_HEADERS;
        self
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    pub fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("received");
        bytes
    }

    /// Send a request without flags, its offset being its cookie too.
    pub fn ask(&mut self, command: u16, offset: u64, length: u64) {
        self.send(&request(self.extended, 0, command, offset, offset, length));
    }

    /// Read the reply to a request without data.
    pub fn simple(&mut self) -> Reply {
        self.simple_with(0)
    }

    /// Read a simple reply with `length` bytes of data where it is no error.
    pub fn simple_with(&mut self, length: usize) -> Reply {
        let header = self.receive(16);
        assert_eq!(number(&header[..4]), 0x6744_6698, "the magic of a simple reply");
        let (error, cookie) = (number(&header[4..8]) as u32, number(&header[8..]));
        let payload = if error == 0 { self.receive(length) } else { Vec::new() };
        Reply { cookie, error, kind: None, done: true, payload }
    }

    /// Read a chunk; the payload of an error chunk is its text.
    pub fn chunk(&mut self) -> Reply {
        let header = self.receive(if self.extended { 32 } else { 20 });
        let magic = if self.extended { 0x6e8a_278c } else { 0x668e_33ef };
        assert_eq!(number(&header[..4]), magic, "the magic of a chunk");
        let (done, kind) = (header[5] & 1 != 0, number(&header[6..8]) as u16);
        let length = number(if self.extended { &header[24..32] } else { &header[16..20] }) as usize;
        let mut payload = self.receive(length);
        let mut error = 0;
        if kind & 0x8000 != 0 {
            error = number(&payload[..4]) as u32;
            payload.drain(..6);
        }
        Reply { cookie: number(&header[8..16]), error, kind: Some(kind), done, payload }
    }

    /// The server has ended the connection, and nothing was left to read.
    pub fn assert_ended(&mut self) {
        let mut rest = Vec::new();
        let result = self.stream.read_to_end(&mut rest);
        let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(result.as_ref().is_ok() || result.as_ref().is_err_and(reset), "{result:?}");
        assert_eq!(rest, b"");
    }

    /// Send no more, and still read.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("half closed");
    }
}
