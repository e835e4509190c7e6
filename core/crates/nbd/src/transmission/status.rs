//! The reply to BLOCK_STATUS, written while the device tells its extents.

use ebscrypt_device::Extent;

use super::reply::chunk_header;
use super::request::Request;
use crate::proto::{allocation, chunk};
use crate::terms::Headers;

/// Extents of one reply. A client asks on from where a reply ends; the protocol wants no more than 2^20.
pub const MAX_EXTENTS: usize = 4096;

/// A status chunk in the making. Neighbours in one state become one extent.
pub struct StatusChunk<'out> {
    out: &'out mut Vec<u8>,
    start: usize,
    body: usize,
    headers: Headers,
    limit: usize,
    count: usize,
    length: u64,
    hole: bool,
}

impl<'out> StatusChunk<'out> {
    /// Begin; `one` asks for the first extent only.
    pub fn begin(out: &'out mut Vec<u8>, request: &Request, headers: Headers, one: bool) -> StatusChunk<'out> {
        let start = out.len();
        let kind = if headers == Headers::Extended { chunk::BLOCK_STATUS_EXT } else { chunk::BLOCK_STATUS };
        chunk_header(out, request, headers, kind, true, 0);
        let body = out.len();
        out.extend(allocation::ID.to_be_bytes());
        if headers == Headers::Extended {
            out.extend([0; 4]);
        }
        let limit = if one { 1 } else { MAX_EXTENTS };
        StatusChunk { out, start, body, headers, limit, count: 0, length: 0, hole: false }
    }

    /// Add the next extent; false when no more are wanted.
    pub fn push(&mut self, extent: Extent) -> bool {
        if self.length > 0 && extent.hole != self.hole {
            self.write();
            self.length = 0;
        }
        if self.count == self.limit {
            return false;
        }
        self.length += extent.length;
        self.hole = extent.hole;
        true
    }

    /// Fill in what only the end knows. False, with nothing written, where there was no extent.
    #[must_use]
    pub fn finish(mut self) -> bool {
        if self.length > 0 && self.count < self.limit {
            self.write();
        }
        if self.count == 0 {
            self.out.truncate(self.start);
            return false;
        }
        let payload = self.out.len() - self.body;
        if self.headers == Headers::Extended {
            self.out[self.body - 8..self.body].copy_from_slice(&(payload as u64).to_be_bytes());
            self.out[self.body + 4..self.body + 8].copy_from_slice(&(self.count as u32).to_be_bytes());
        } else {
            self.out[self.body - 4..self.body].copy_from_slice(&(payload as u32).to_be_bytes());
        }
        true
    }

    fn write(&mut self) {
        let state = if self.hole { allocation::STATE_HOLE | allocation::STATE_ZERO } else { 0 };
        if self.headers == Headers::Extended {
            self.out.extend(self.length.to_be_bytes());
            self.out.extend(u64::from(state).to_be_bytes());
        } else {
            // A compact request asks for less than 4 GiB, and the device tells no more than was asked.
            self.out.extend((self.length as u32).to_be_bytes());
            self.out.extend(state.to_be_bytes());
        }
        self.count += 1;
    }
}
