//! One client: the handshake under its deadline, then requests until either side ends.
//!
//! Requests are served in the order in which they come. What one reading of the socket brought is served before the
//! next, and the replies leave together: a client that keeps many requests under way costs two system calls for a
//! dozen of them, besides those of the device.

mod transfer;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ebscrypt_device::Device;

use crate::handshake::{Export, Handshake, Progress};
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::proto::command;
use crate::socket::Socket;
use crate::terms::Terms;
use crate::transmission::request::STATUS_PAYLOAD_LENGTH;
use crate::transmission::status::StatusChunk;
use crate::transmission::{Operation, Payload, Refusal, Request, Volume, admit, reply};

/// Whether to go on with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Serve,
    End,
}

/// Negotiate. None where the client gave up, broke the protocol or asked for what there is not.
pub(crate) fn negotiate(
    socket: &Socket,
    export: Export,
    deadline: Instant,
    stopping: &AtomicBool,
) -> io::Result<Option<Terms>> {
    let mut handshake = Handshake::new(export);
    let mut buffer = [0; 4096];
    loop {
        socket.send_before(handshake.replies(), deadline)?;
        handshake.replies().clear();
        let wanted = handshake.wants().min(buffer.len());
        let received = socket.receive_before(&mut buffer[..wanted], deadline)?;
        if received == 0 {
            return Ok(None);
        }
        if stopping.load(Ordering::Relaxed) {
            handshake.shut_down();
        }
        match handshake.receive(&buffer[..received]).1 {
            Progress::Continue => {}
            Progress::Transmission(terms) => {
                socket.send_before(handshake.replies(), deadline)?;
                return Ok(Some(terms));
            }
            Progress::Close => {
                socket.send_before(handshake.replies(), deadline)?;
                return Ok(None);
            }
        }
    }
}

/// A connection in its transmission phase.
pub(crate) struct Transmission<'connection> {
    socket: &'connection Socket,
    device: &'connection dyn Device,
    terms: Terms,
    inbox: Inbox,
    outbox: Outbox,
}

impl<'connection> Transmission<'connection> {
    pub(crate) fn new(
        socket: &'connection Socket,
        device: &'connection dyn Device,
        terms: Terms,
    ) -> io::Result<Transmission<'connection>> {
        Ok(Transmission { socket, device, terms, inbox: Inbox::new()?, outbox: Outbox::new()? })
    }

    /// Serve until the client says goodbye, breaks the protocol or is gone.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let length = self.terms.headers.request_length();
        loop {
            while self.inbox.available() < length {
                self.outbox.send(self.socket)?;
                if !self.inbox.fill(self.socket, length)? {
                    return Ok(());
                }
            }
            let header = self.inbox.header(length);
            let Some(request) = Request::parse(header, self.terms.headers) else { break };
            if self.serve(&request)? == Next::End {
                break;
            }
            if self.outbox.is_due() {
                self.outbox.send(self.socket)?;
            }
        }
        // What was served before the end is still told.
        self.outbox.send(self.socket)
    }

    fn serve(&mut self, request: &Request) -> io::Result<Next> {
        match request.payload(self.terms.headers) {
            Payload::Hostile => Ok(Next::End),
            Payload::Bytes(length) if request.command == command::WRITE => self.write(request, length),
            Payload::Bytes(length) => self.payload_request(request, length),
            Payload::Absent => self.act(request),
        }
    }

    fn volume(&self) -> Volume {
        Volume { size: self.device.size(), read_only: self.device.read_only() }
    }

    /// A payload where only BLOCK_STATUS may have one. It is read whatever becomes of the request.
    fn payload_request(&mut self, request: &Request, length: u64) -> io::Result<Next> {
        let chooses = request.command == command::BLOCK_STATUS && self.terms.allocation;
        if !chooses || length != STATUS_PAYLOAD_LENGTH as u64 {
            if !self.skip(length)? {
                return Ok(Next::End);
            }
            return Ok(match admit(request, self.terms, self.volume()) {
                Ok(Operation::Disconnect) => Next::End,
                Err(refusal) if !chooses => self.refuse(request, refusal),
                _ => self.refuse(request, Refusal::INVALID_CONTEXTS),
            });
        }
        if self.inbox.available() < STATUS_PAYLOAD_LENGTH {
            // The client may wait for these answers before it goes on.
            self.outbox.send(self.socket)?;
        }
        let Some(payload) = self.inbox.payload(self.socket, STATUS_PAYLOAD_LENGTH)? else { return Ok(Next::End) };
        match request.with_status_payload(payload) {
            Ok(request) => self.act(&request),
            Err(refusal) => Ok(self.refuse(request, refusal)),
        }
    }

    fn skip(&mut self, length: u64) -> io::Result<bool> {
        self.outbox.send(self.socket)?;
        self.inbox.skip(self.socket, length)
    }

    /// Everything but writes.
    fn act(&mut self, request: &Request) -> io::Result<Next> {
        let operation = match admit(request, self.terms, self.volume()) {
            Ok(operation) => operation,
            Err(refusal) => return Ok(self.refuse(request, refusal)),
        };
        let device = self.device;
        let (offset, length) = (request.offset, request.length);
        let result = match operation {
            Operation::Disconnect => return Ok(Next::End),
            Operation::Read { holes } => return self.read(request, holes),
            Operation::BlockStatus { one } => return Ok(self.block_status(request, one)),
            Operation::Cache => return self.cache(request),
            // These may take long, and what is done already should not wait for them.
            Operation::Flush => {
                self.outbox.send(self.socket)?;
                device.flush()
            }
            Operation::Discard(flags) => {
                self.outbox.send(self.socket)?;
                device.discard(offset, length, flags)
            }
            Operation::WriteZeroes(flags) => {
                self.outbox.send(self.socket)?;
                device.write_zeroes(offset, length, flags)
            }
            Operation::Write(_) => Err(ebscrypt_device::Error::INVALID),
        };
        let fast = matches!(operation, Operation::WriteZeroes(flags) if flags.fast);
        Ok(self.conclude(request, result, fast))
    }

    fn conclude(&mut self, request: &Request, result: ebscrypt_device::Result<()>, fast: bool) -> Next {
        match result {
            Ok(()) => {
                let headers = self.terms.headers;
                self.outbox.reply(|out| reply::success(out, request, headers));
                Next::Serve
            }
            Err(error) => self.refuse(request, Refusal::from_device(error.0, fast)),
        }
    }

    fn refuse(&mut self, request: &Request, refusal: Refusal) -> Next {
        let headers = self.terms.headers;
        self.outbox.reply(|out| reply::refusal(out, request, headers, refusal));
        Next::Serve
    }

    fn block_status(&mut self, request: &Request, one: bool) -> Next {
        let (device, headers) = (self.device, self.terms.headers);
        let told = self.outbox.reply(|out| {
            let before = out.len();
            let mut status = StatusChunk::begin(out, request, headers, one);
            let result = device.extents(request.offset, request.length, &mut |extent| status.push(extent));
            let complete = status.finish();
            if result.is_err() {
                out.truncate(before);
            }
            result.map(|()| complete)
        });
        match told {
            Ok(true) => Next::Serve,
            Ok(false) => self.refuse(request, Refusal::NO_EXTENTS),
            Err(error) => self.refuse(request, Refusal::from_device(error.0, false)),
        }
    }
}
