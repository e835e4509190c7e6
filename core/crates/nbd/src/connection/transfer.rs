//! Requests whose data pass through the connection's buffers: write, read, cache.
//!
//! Short ones go to the device as one; long ones in parts, so that receiving, the cipher, the device and sending find the
//! data in the processor's cache, and the client works at the same time.

use std::io;

use ebscrypt_device::WriteFlags;

use super::{Next, Transmission};
use crate::inbox::WHOLE;
use crate::proto::PREFERRED_BLOCK;
use crate::transmission::runs::Run;
use crate::transmission::{Operation, Refusal, Request, admit, reply};

impl Transmission<'_> {
    pub(super) fn write(&mut self, request: &Request, length: u64) -> io::Result<Next> {
        let flags = match admit(request, self.terms, self.volume()) {
            Ok(Operation::Write(flags)) => flags,
            Ok(_) => return Ok(Next::End),
            Err(refusal) => {
                return Ok(if self.skip(length)? { self.refuse(request, refusal) } else { Next::End });
            }
        };
        let length = length as usize;
        if self.inbox.available() < length || flags.fua {
            self.outbox.send(self.socket)?;
        }
        if length > WHOLE {
            return self.long_write(request, length, flags);
        }
        let Some(data) = self.inbox.payload(self.socket, length)? else { return Ok(Next::End) };
        let result = self.device.write(data, request.offset, flags);
        Ok(self.conclude(request, result, false))
    }

    /// A write whose payload goes to the device part by part as it comes. A failure is told once all of it was read;
    /// with FUA, one flush makes all parts durable.
    fn long_write(&mut self, request: &Request, length: usize, flags: WriteFlags) -> io::Result<Next> {
        let mut result = Ok(());
        let (mut offset, mut rest) = (request.offset, length);
        while rest > 0 {
            let Some(data) = self.inbox.part(self.socket, rest, offset)? else { return Ok(Next::End) };
            rest -= data.len();
            let next = offset + data.len() as u64;
            if result.is_ok() {
                result = self.device.write(data, offset, WriteFlags::default());
            }
            offset = next;
        }
        if flags.fua && result.is_ok() {
            result = self.device.flush();
        }
        Ok(self.conclude(request, result, false))
    }

    pub(super) fn read(&mut self, request: &Request, holes: bool) -> io::Result<Next> {
        let (headers, length) = (self.terms.headers, request.length as usize);
        if holes {
            return self.chunked_read(request, length);
        }
        if !self.outbox.fits(length) {
            self.outbox.send(self.socket)?;
        }
        let Ok(slot) = self.outbox.slot(length) else { return Ok(self.refuse(request, Refusal::NO_MEMORY)) };
        if let Err(error) = self.device.read(slot, request.offset) {
            return Ok(self.refuse(request, Refusal::from_device(error.0, false)));
        }
        self.outbox.reply(|out| reply::data(out, request, headers));
        self.outbox.data(length);
        Ok(Next::Serve)
    }

    /// A read whose reply may be in chunks: of holes, and of data of at most [`WHOLE`] bytes, so that the client has
    /// something to take while the next is read.
    fn chunked_read(&mut self, request: &Request, length: usize) -> io::Result<Next> {
        let headers = self.terms.headers;
        // Zeros that came last and are not told yet: a hole may go on in the next piece.
        let (mut done, mut zeros) = (0, 0);
        while done < length {
            let offset = request.offset + done as u64;
            let aligned = WHOLE - (offset % u64::from(PREFERRED_BLOCK)) as usize;
            let piece = aligned.min(length - done);
            if !self.outbox.fits(piece) || done > 0 {
                self.outbox.send(self.socket)?;
            }
            let Ok(slot) = self.outbox.slot(piece) else { return Ok(self.refuse(request, Refusal::NO_MEMORY)) };
            if let Err(error) = self.device.read(slot, offset) {
                return Ok(self.refuse(request, Refusal::from_device(error.0, false)));
            }
            self.outbox.sparse(piece, offset, |out, run| {
                let (start, end) = (done + run.start, done + run.start + run.length);
                zeros += if run.zero { run.length } else { 0 };
                if zeros > 0 && (!run.zero || end == length) {
                    let told = if run.zero { end } else { start };
                    reply::run(out, request, headers, Run { start: told - zeros, length: zeros, zero: true });
                    zeros = 0;
                }
                if !run.zero {
                    reply::run(out, request, headers, Run { start, ..run });
                }
            });
            done += piece;
        }
        Ok(Next::Serve)
    }

    /// Read a range and forget it: the page cache has it then.
    pub(super) fn cache(&mut self, request: &Request) -> io::Result<Next> {
        self.outbox.send(self.socket)?;
        let (mut offset, end) = (request.offset, request.offset + request.length);
        let mut result = Ok(());
        while offset < end && result.is_ok() {
            let piece = (end - offset).min(WHOLE as u64);
            let Ok(slot) = self.outbox.slot(piece as usize) else {
                return Ok(self.refuse(request, Refusal::NO_MEMORY));
            };
            result = self.device.read(slot, offset);
            offset += piece;
        }
        Ok(self.conclude(request, result, false))
    }
}
