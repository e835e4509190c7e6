//! Builds replies: headers and everything that is not the volume's data, appended to a byte vector.

use super::admit::Refusal;
use super::request::Request;
use super::runs::Run;
use crate::proto::{EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk};
use crate::terms::Headers;

/// Bytes that no single reply without data exceeds, extents aside: a chunk header, an error, the longest text.
pub const ROOM: usize = 256;

/// The request is done, and there is nothing else to tell.
pub fn success(out: &mut Vec<u8>, request: &Request, headers: Headers) {
    match headers {
        // With structured replies a simple one is still allowed where there is no payload, and shorter.
        Headers::Simple | Headers::Structured => simple(out, request, 0),
        Headers::Extended => chunk_header(out, request, headers, chunk::NONE, true, 0),
    }
}

/// The request failed.
pub fn refusal(out: &mut Vec<u8>, request: &Request, headers: Headers, refusal: Refusal) {
    if !headers.chunked() {
        return simple(out, request, refusal.error);
    }
    let text = refusal.text.as_bytes();
    chunk_header(out, request, headers, chunk::ERROR, true, 6 + text.len() as u64);
    out.extend(refusal.error.to_be_bytes());
    // Texts are constants of this crate, far below the protocol's 4096 bytes.
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text);
}

/// What stands before all data of a read, which come as one piece.
pub fn data(out: &mut Vec<u8>, request: &Request, headers: Headers) {
    if headers.chunked() {
        data_chunk(out, request, headers, request.offset, request.length, true);
    } else {
        simple(out, request, 0);
    }
}

/// What stands for one run of a read, its start counted from the request's: the header of its data, or the fact that
/// it is zero.
pub fn run(out: &mut Vec<u8>, request: &Request, headers: Headers, run: Run) {
    let done = (run.start + run.length) as u64 == request.length;
    let offset = request.offset + run.start as u64;
    if run.zero {
        chunk_header(out, request, headers, chunk::OFFSET_HOLE, done, 12);
        out.extend(offset.to_be_bytes());
        // No read is longer than MAXIMUM_PAYLOAD.
        out.extend((run.length as u32).to_be_bytes());
    } else {
        data_chunk(out, request, headers, offset, run.length as u64, done);
    }
}

fn data_chunk(out: &mut Vec<u8>, request: &Request, headers: Headers, offset: u64, length: u64, done: bool) {
    chunk_header(out, request, headers, chunk::OFFSET_DATA, done, 8 + length);
    out.extend(offset.to_be_bytes());
}

fn simple(out: &mut Vec<u8>, request: &Request, error: u32) {
    out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(request.cookie.to_be_bytes());
}

/// The header of a structured or extended chunk with `length` bytes of payload.
pub(super) fn chunk_header(out: &mut Vec<u8>, request: &Request, headers: Headers, kind: u16, done: bool, length: u64) {
    let extended = headers == Headers::Extended;
    let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
    out.extend(magic.to_be_bytes());
    out.extend((if done { chunk::FLAG_DONE } else { 0 }).to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(request.cookie.to_be_bytes());
    if extended {
        out.extend(request.offset.to_be_bytes());
        out.extend(length.to_be_bytes());
    } else {
        // No payload exceeds MAXIMUM_PAYLOAD by more than a chunk's fixed part.
        out.extend((length as u32).to_be_bytes());
    }
}
