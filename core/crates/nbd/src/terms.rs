//! What the two sides agreed on before the first request.

use crate::proto::transmission_flag as flag;

/// The form of requests and replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// Compact requests, simple replies only: what every client knows, the kernel's among them.
    Simple,
    /// Compact requests, replies in chunks where there is data or an error to tell.
    Structured,
    /// 32-byte headers with 64-bit lengths both ways, every reply in chunks.
    Extended,
}

impl Headers {
    /// Bytes of a request's header.
    #[must_use]
    pub const fn request_length(self) -> usize {
        match self {
            Headers::Simple | Headers::Structured => 28,
            Headers::Extended => 32,
        }
    }

    /// Whether replies come in chunks.
    #[must_use]
    pub const fn chunked(self) -> bool {
        !matches!(self, Headers::Simple)
    }
}

/// The outcome of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The form of requests and replies.
    pub headers: Headers,
    /// Whether `base:allocation` was selected for the export in use, so that BLOCK_STATUS may be asked.
    pub allocation: bool,
}

impl Terms {
    /// What holds without any negotiation: the kernel's client, set up by netlink, gets these.
    pub const SIMPLE: Terms = Terms { headers: Headers::Simple, allocation: false };

    /// The transmission flags under these terms; `base` are those that the device itself allows.
    #[must_use]
    pub const fn transmission_flags(self, base: u16) -> u16 {
        let mut flags = base;
        if self.headers.chunked() {
            flags |= flag::SEND_DF;
        }
        // The flag MUST NOT be sent without extended headers and SHOULD NOT without a selected context.
        if matches!(self.headers, Headers::Extended) && self.allocation {
            flags |= flag::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }
}

/// The transmission flags of a device that can or cannot be written, before any negotiation.
#[must_use]
pub const fn base_flags(read_only: bool) -> u16 {
    let always = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN | flag::SEND_CACHE;
    if read_only {
        always | flag::READ_ONLY
    } else {
        always | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
    }
}
