//! A request as it stands in its header.

use super::admit::Refusal;
use crate::proto::{
    EXTENDED_REQUEST_MAGIC, MAXIMUM_PAYLOAD, REQUEST_MAGIC, allocation, command, command_flag, u16_at, u32_at, u64_at,
};
use crate::terms::Headers;

/// One request, not judged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Bits of [`command_flag`].
    pub flags: u16,
    /// One of [`command`], or anything else.
    pub command: u16,
    /// Echoed in every reply.
    pub cookie: u64,
    /// First byte of the volume concerned.
    pub offset: u64,
    /// Bytes of the volume concerned, or of the payload that follows.
    pub length: u64,
}

/// What follows a request's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    Absent,
    /// So many bytes, to be read whatever becomes of the request.
    Bytes(u64),
    /// More than the client was told is the most: the protocol says to end the connection.
    Hostile,
}

impl Request {
    /// Read a header of [`Headers::request_length`] bytes; None where its magic is not the negotiated one, after which
    /// nothing on the connection can be understood any more.
    ///
    /// # Panics
    /// When `header` is shorter than that, which is the caller's to prevent.
    #[must_use]
    pub fn parse(header: &[u8], headers: Headers) -> Option<Request> {
        let extended = headers == Headers::Extended;
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        if u32_at(header, 0) != magic {
            return None;
        }
        Some(Request {
            flags: u16_at(header, 4),
            command: u16_at(header, 6),
            cookie: u64_at(header, 8),
            offset: u64_at(header, 16),
            length: if extended { u64_at(header, 24) } else { u64::from(u32_at(header, 24)) },
        })
    }

    /// What follows the header.
    ///
    /// A compact write that is too long is read and refused: a client that was never told the block sizes may send
    /// one. With extended headers every client was told, and the protocol says to hang up.
    #[must_use]
    pub fn payload(&self, headers: Headers) -> Payload {
        let extended = headers == Headers::Extended;
        let present = if extended { self.has(command_flag::PAYLOAD_LEN) } else { self.command == command::WRITE };
        match self.length {
            _ if !present => Payload::Absent,
            length if extended && length > u64::from(MAXIMUM_PAYLOAD) => Payload::Hostile,
            length => Payload::Bytes(length),
        }
    }

    /// Whether `flag` is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The same BLOCK_STATUS request without its payload, which says the length in bytes of the volume and the
    /// contexts wanted: `base:allocation`, once, since there is no other.
    ///
    /// # Errors
    /// EINVAL for a payload of another length, and for unknown, repeated or missing contexts.
    pub fn with_status_payload(self, payload: &[u8]) -> Result<Request, Refusal> {
        if payload.len() != STATUS_PAYLOAD_LENGTH || u32_at(payload, 8) != allocation::ID {
            return Err(Refusal::INVALID_CONTEXTS);
        }
        let flags = self.flags & !command_flag::PAYLOAD_LEN;
        Ok(Request { flags, length: u64_at(payload, 0), ..self })
    }
}

/// Bytes of the only acceptable payload of BLOCK_STATUS: a length and one context.
pub const STATUS_PAYLOAD_LENGTH: usize = 8 + 4;
