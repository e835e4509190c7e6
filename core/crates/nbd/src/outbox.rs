//! What goes to the client: replies gathered until one call sends them all.
//!
//! Headers and data live apart, so that data are page-aligned for the device; the kernel joins them while sending.

use std::io::{self, IoSlice};
use std::ops::Range;

use crate::buffer::Buffer;
use crate::socket::Socket;
use crate::transmission::reply::ROOM;
use crate::transmission::runs::{Run, runs};

/// Bytes of data that one sending carries, and that a connection always has room for.
const CAPACITY: usize = 1 << 20;
/// Data start at multiples of this.
const ALIGNMENT: usize = 4096;
/// Headers that one sending carries, in bytes. Extents of one reply are far longer; then the vector grows once.
const HEADS: usize = 16 << 10;
/// Pieces in one call; the kernel takes 1024.
const PIECES: usize = 128;
/// Replies after which the client gets something to do while the next requests are served.
const ENOUGH_REPLIES: usize = 16;
/// Bytes of data after which it does.
const ENOUGH_BYTES: usize = 64 << 10;

/// One piece of what is to be sent.
enum Piece {
    Head(Range<usize>),
    Data(Range<usize>),
}

/// The send buffer of a connection.
pub(crate) struct Outbox {
    heads: Vec<u8>,
    data: Buffer,
    used: usize,
    pieces: Vec<Piece>,
    replies: usize,
}

impl Outbox {
    pub(crate) fn new() -> io::Result<Outbox> {
        Ok(Outbox {
            heads: Vec::with_capacity(HEADS + ROOM),
            data: Buffer::new(CAPACITY)?,
            used: 0,
            pieces: Vec::with_capacity(PIECES),
            replies: 0,
        })
    }

    /// Whether enough has gathered to be sent, rather than go on serving.
    pub(crate) fn is_due(&self) -> bool {
        self.replies >= ENOUGH_REPLIES || self.used >= ENOUGH_BYTES || self.heads.len() >= HEADS
    }

    /// Append what `write` writes, and count a reply.
    pub(crate) fn reply<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.replies += 1;
        append(&mut self.heads, &mut self.pieces, write)
    }

    /// Whether `length` bytes of data fit beside what waits already.
    pub(crate) fn fits(&self, length: usize) -> bool {
        self.used + length <= self.data.len()
    }

    /// Room for `length` bytes of data, which [`Outbox::fits`] or nothing waits. What is written there is sent only
    /// where [`Outbox::data`] or [`Outbox::sparse`] says so.
    ///
    /// For a request longer than any before, the buffer is replaced by one that is kept: such a client sends more.
    pub(crate) fn slot(&mut self, length: usize) -> io::Result<&mut [u8]> {
        if !self.fits(length) {
            self.data = Buffer::new(length.next_multiple_of(ALIGNMENT))?;
        }
        Ok(&mut self.data[self.used..self.used + length])
    }

    /// Send all of the slot just filled.
    pub(crate) fn data(&mut self, length: usize) {
        self.pieces.push(Piece::Data(self.used..self.used + length));
        self.keep(length);
    }

    /// Reply with the slot just filled run by run: for each, what `write` writes, then its data unless they are zeros.
    pub(crate) fn sparse(&mut self, length: usize, offset: u64, mut write: impl FnMut(&mut Vec<u8>, Run)) {
        self.replies += 1;
        for run in runs(&self.data[self.used..self.used + length], offset) {
            append(&mut self.heads, &mut self.pieces, |out| write(out, run));
            if !run.zero {
                let start = self.used + run.start;
                self.pieces.push(Piece::Data(start..start + run.length));
            }
        }
        self.keep(length);
    }

    /// Keep the slot of `length` bytes until it is sent.
    fn keep(&mut self, length: usize) {
        self.used = (self.used + length).next_multiple_of(ALIGNMENT);
    }

    /// Send everything.
    pub(crate) fn send(&mut self, socket: &Socket) -> io::Result<()> {
        self.send_by(|pieces| socket.send_vectored(pieces))
    }

    /// Hand everything to `send`, which takes as much at a time as it likes and says how much that was.
    fn send_by(&mut self, mut send: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<()> {
        let (mut first, mut taken) = (0, 0);
        while first < self.pieces.len() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let waiting = &self.pieces[first..];
            for (slice, piece) in slices.iter_mut().zip(waiting) {
                *slice = IoSlice::new(self.bytes(piece));
            }
            slices[0].advance(taken);
            taken += send(&slices[..waiting.len().min(PIECES)])?;
            while first < self.pieces.len() && taken >= self.bytes(&self.pieces[first]).len() {
                taken -= self.bytes(&self.pieces[first]).len();
                first += 1;
            }
        }
        self.heads.clear();
        self.pieces.clear();
        self.used = 0;
        self.replies = 0;
        Ok(())
    }

    fn bytes(&self, piece: &Piece) -> &[u8] {
        match piece {
            Piece::Head(range) => &self.heads[range.clone()],
            Piece::Data(range) => &self.data[range.clone()],
        }
    }
}

/// Let `write` append to the headers, and make what it wrote a piece, or part of the last one.
fn append<T>(heads: &mut Vec<u8>, pieces: &mut Vec<Piece>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let start = heads.len();
    let result = write(heads);
    let end = heads.len();
    match pieces.last_mut() {
        Some(Piece::Head(last)) if last.end == start => last.end = end,
        _ if end > start => pieces.push(Piece::Head(start..end)),
        _ => {}
    }
    result
}

#[cfg(test)]
mod tests;
