//! The handshake as a state machine: bytes in, replies and an outcome out, no socket in it.
//!
//! Fixed newstyle negotiation, in four phases:
//!
//! ```text
//!   greeting ─▶ client flags ─▶ option header ─▶ option data ─┐
//!                                 ▲      └────▶ skipped data ─┤
//!                                 └────────── reply ──────────┴─▶ transmission, or the connection ends
//! ```
//!
//! The machine says how many bytes it wants next ([`Handshake::wants`]) and takes no more than that, so a caller that
//! reads no more either never holds bytes from beyond a phase's end: an option that a client sends before it has the
//! reply to the last one is answered in its turn, and a request that it sends early is the first request. Everything
//! is bounded: the number of options, the data kept of one, the data skipped. Time is the caller's to bound.

mod fields;
mod meta;
mod options;
mod replies;

use crate::proto::{MAX_STRING, OPTION_MAGIC, handshake_flag, option, option_reply as reply, u32_at, u64_at};
use crate::terms::{Headers, Terms};
use replies::Replies;

/// Options of one connection. A client that haggles longer is not haggling; libnbd's `nbdinfo --list` needs seven.
pub const MAX_OPTIONS: u32 = 64;
/// Bytes of option data that are kept to be understood: sixteen strings of the longest kind.
pub const MAX_OPTION_DATA: u32 = 64 << 10;
/// Bytes of option data that are skipped before an error is told; beyond that the connection ends.
pub const MAX_SKIP: u32 = 1 << 20;

/// What is exported.
#[derive(Debug, Clone)]
pub struct Export {
    /// Its canonical name; the empty name finds it too. At most [`MAX_STRING`] bytes.
    pub name: String,
    /// A text for people. At most [`MAX_STRING`] bytes.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Transmission flags as [`crate::base_flags`] gives them.
    pub flags: u16,
}

/// Where the handshake stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Send the replies, read on.
    Continue,
    /// Send the replies; from now on the client sends requests under these terms.
    Transmission(Terms),
    /// Send the replies, then end the connection.
    Close,
}

#[derive(Clone, Copy)]
enum Phase {
    ClientFlags,
    Header,
    Data { option: u32, length: usize },
    Skip { option: u32, left: usize, kind: u32, text: &'static str },
    Over,
}

const CLIENT_FLAGS_LENGTH: usize = 4;
const HEADER_LENGTH: usize = 16;

/// One connection's handshake.
pub struct Handshake {
    export: Export,
    phase: Phase,
    pending: Vec<u8>,
    replies: Replies,
    headers: Headers,
    /// For which name `base:allocation` was selected last.
    context: Option<Vec<u8>>,
    fixed: bool,
    no_zeroes: bool,
    options: u32,
    shutting_down: bool,
}

impl Handshake {
    /// The server's greeting is waiting in [`Handshake::replies`].
    #[must_use]
    pub fn new(export: Export) -> Handshake {
        Handshake {
            export,
            phase: Phase::ClientFlags,
            pending: Vec::new(),
            replies: Replies::greeting(),
            headers: Headers::Simple,
            context: None,
            fixed: false,
            no_zeroes: false,
            options: 0,
            shutting_down: false,
        }
    }

    /// How many bytes to read next at most; 0 once the handshake is over.
    #[must_use]
    pub fn wants(&self) -> usize {
        match self.phase {
            Phase::ClientFlags => CLIENT_FLAGS_LENGTH - self.pending.len(),
            Phase::Header => HEADER_LENGTH - self.pending.len(),
            Phase::Data { length, .. } => length - self.pending.len(),
            Phase::Skip { left, .. } => left,
            Phase::Over => 0,
        }
    }

    /// What to send now; clear it when sent.
    pub fn replies(&mut self) -> &mut Vec<u8> {
        &mut self.replies.0
    }

    /// From now on answer options with ERR_SHUTDOWN, as a server does that is about to end.
    pub fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    /// Take bytes from the client, at most [`Handshake::wants`]; the first value is how many were taken.
    pub fn receive(&mut self, bytes: &[u8]) -> (usize, Progress) {
        let taken = bytes.len().min(self.wants());
        let progress = match self.phase {
            Phase::Over => Progress::Close,
            Phase::Skip { option, left, kind, text } => self.skip(option, left - taken, kind, text),
            Phase::ClientFlags | Phase::Header | Phase::Data { .. } => {
                self.pending.extend_from_slice(&bytes[..taken]);
                if self.wants() > 0 { Progress::Continue } else { self.unit_complete() }
            }
        };
        if progress != Progress::Continue {
            self.phase = Phase::Over;
        }
        (taken, progress)
    }

    fn unit_complete(&mut self) -> Progress {
        let unit = std::mem::take(&mut self.pending);
        match self.phase {
            Phase::ClientFlags => self.client_flags(u32_at(&unit, 0)),
            Phase::Header => self.header(&unit),
            Phase::Data { option, .. } => {
                self.phase = Phase::Header;
                self.option(option, &unit)
            }
            Phase::Skip { .. } | Phase::Over => Progress::Close,
        }
    }

    fn client_flags(&mut self, flags: u32) -> Progress {
        let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        if flags & !known != 0 {
            return Progress::Close;
        }
        self.fixed = flags & u32::from(handshake_flag::FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
        self.phase = Phase::Header;
        Progress::Continue
    }

    fn header(&mut self, header: &[u8]) -> Progress {
        let (magic, option, length) = (u64_at(header, 0), u32_at(header, 8), u32_at(header, 12));
        self.options += 1;
        // Without fixed newstyle there is no way to answer anything but EXPORT_NAME.
        let unanswerable = !self.fixed && option != option::EXPORT_NAME;
        if magic != OPTION_MAGIC || self.options > MAX_OPTIONS || length > MAX_SKIP || unanswerable {
            return Progress::Close;
        }
        let length = length as usize;
        match self.objection(option, length) {
            None if option == option::EXPORT_NAME && !self.export_name_allowed(length) => Progress::Close,
            None if length == 0 => {
                self.phase = Phase::Header;
                self.option(option, &[])
            }
            None => {
                self.phase = Phase::Data { option, length };
                Progress::Continue
            }
            Some((kind, text)) => self.skip(option, length, kind, text),
        }
    }

    /// EXPORT_NAME cannot be refused but by ending the connection: too long a name, a server that is ending, and
    /// extended headers, which forbid this option.
    fn export_name_allowed(&self, length: usize) -> bool {
        length <= MAX_STRING && !self.shutting_down && self.headers != Headers::Extended
    }

    /// The reply to an option whose data need not be looked at.
    fn objection(&mut self, option: u32, length: usize) -> Option<(u32, &'static str)> {
        let too_big = length > MAX_OPTION_DATA as usize;
        match option {
            option::ABORT => Some((reply::ACK, "")),
            option::EXPORT_NAME => None,
            _ if self.shutting_down => Some((reply::ERR_SHUTDOWN, "the server is ending")),
            option::LIST | option::STARTTLS | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS if length > 0 => {
                Some((reply::ERR_INVALID, "this option takes no data"))
            }
            option::STARTTLS => Some((reply::ERR_UNSUP, "this server does not speak TLS")),
            option::SET_META_CONTEXT if too_big => {
                // Every SET_META_CONTEXT replaces what the last one selected, also when it fails.
                self.context = None;
                Some((reply::ERR_TOO_BIG, "too many queries"))
            }
            option::INFO | option::GO | option::LIST_META_CONTEXT if too_big => {
                Some((reply::ERR_TOO_BIG, "the option's data are too long"))
            }
            option::LIST
            | option::INFO
            | option::GO
            | option::STRUCTURED_REPLY
            | option::LIST_META_CONTEXT
            | option::SET_META_CONTEXT
            | option::EXTENDED_HEADERS => None,
            _ => Some((reply::ERR_UNSUP, "unknown option")),
        }
    }

    fn skip(&mut self, option: u32, left: usize, kind: u32, text: &'static str) -> Progress {
        if left > 0 {
            self.phase = Phase::Skip { option, left, kind, text };
            return Progress::Continue;
        }
        self.phase = Phase::Header;
        self.replies.push(option, kind, &[text.as_bytes()]);
        if option == option::ABORT { Progress::Close } else { Progress::Continue }
    }
}
