//! What came from the client: headers and payloads, read in large pieces and used where they lie.
//!
//! ```text
//!   0            LEAD-28     LEAD                 LEAD+READ_AHEAD         LEAD+READ_AHEAD+WHOLE
//!   │ unused      │ header 1  │ payload 1 │ header 2 │ payload 2 …  │ … the rest of a last payload │
//! ```
//!
//! Reading starts so that the first header ends at a page boundary: the payload of a large write, which is alone in the
//! buffer, is then page-aligned without having been moved. Payloads that follow small requests are used unaligned.
//!
//! A payload beyond [`WHOLE`] is taken part by part, each being all that has come so far. That empties the socket, and
//! the kernel wakes a waiting sender when its socket is nearly empty: the client fills it again while the part is
//! written. Taken in parts of a fixed size the two wait for each other in turns; that costs a third of the throughput.

use std::io;

use crate::buffer::Buffer;
use crate::proto::PREFERRED_BLOCK;
use crate::socket::Socket;

/// Where payloads begin.
const LEAD: usize = 4096;
/// Bytes asked for when the next header is awaited: sixty requests of 4 KiB, or the beginning of a large one.
const READ_AHEAD: usize = 256 << 10;
/// The longest payload that is always given to the device as one, and the most that one part of a longer one has. It is
/// also where EBS counts a second operation, and what stays in the second-level cache between receiving and writing.
pub(crate) const WHOLE: usize = 256 << 10;
/// The least that a part has, but for the last: below, the device's cost for a request would show.
const ENOUGH: usize = 64 << 10;
/// What parts of a long payload should end at multiples of, in bytes of the volume: the cipher's sector.
const SECTOR: u64 = PREFERRED_BLOCK as u64;

/// The receive buffer of a connection.
pub(crate) struct Inbox {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Inbox> {
        Ok(Inbox { buffer: Buffer::new(LEAD + READ_AHEAD + WHOLE)?, start: LEAD, end: LEAD })
    }

    /// Bytes that are there already.
    pub(crate) fn available(&self) -> usize {
        self.end - self.start
    }

    /// Take a header of `length` bytes, which must be available.
    pub(crate) fn header(&mut self, length: usize) -> &[u8] {
        let header = &self.buffer[self.start..self.start + length];
        self.start += length;
        header
    }

    /// Receive once, for a header of `length` bytes that is not available yet. False at the end of the stream.
    pub(crate) fn fill(&mut self, socket: &Socket, length: usize) -> io::Result<bool> {
        let beginning = LEAD - length;
        self.buffer.copy_within(self.start..self.end, beginning);
        self.end = beginning + self.available();
        self.start = beginning;
        let received = socket.receive(&mut self.buffer[self.end..LEAD + READ_AHEAD])?;
        self.end += received;
        Ok(received > 0)
    }

    /// Take a payload of at most [`WHOLE`] bytes, receiving what is missing. None where the stream ends before.
    pub(crate) fn payload(&mut self, socket: &Socket, length: usize) -> io::Result<Option<&mut [u8]>> {
        self.make_room(length);
        let stop = self.start + length;
        if stop > self.end {
            if !socket.receive_all(&mut self.buffer[self.end..stop])? {
                return Ok(None);
            }
            self.end = stop;
        }
        Ok(Some(self.take(length)))
    }

    /// Take what has come of a payload of which `rest` bytes are still to be taken, and which goes to `offset` of the
    /// volume; wait for more where that is little. None where the stream ends before.
    pub(crate) fn part(&mut self, socket: &Socket, rest: usize, offset: u64) -> io::Result<Option<&mut [u8]>> {
        self.make_room(rest.min(WHOLE));
        let stop = self.start + rest.min(WHOLE);
        while self.available() < rest.min(ENOUGH) {
            match socket.receive(&mut self.buffer[self.end..stop])? {
                0 => return Ok(None),
                received => self.end += received,
            }
        }
        let mut length = self.available().min(rest).min(WHOLE);
        if length < rest {
            // Far less than the least that is there.
            length -= ((offset + length as u64) % SECTOR) as usize;
        }
        Ok(Some(self.take(length)))
    }

    /// Let `length` bytes from the next one on fit into the buffer, at a page boundary where they have to be moved.
    fn make_room(&mut self, length: usize) {
        if self.available() == 0 || self.start + length > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, LEAD);
            self.end = LEAD + self.available();
            self.start = LEAD;
        }
    }

    fn take(&mut self, length: usize) -> &mut [u8] {
        let taken = &mut self.buffer[self.start..self.start + length];
        self.start += length;
        taken
    }

    /// Read `length` bytes and forget them. False where the stream ends before.
    pub(crate) fn skip(&mut self, socket: &Socket, mut length: u64) -> io::Result<bool> {
        while length > 0 {
            let piece = length.min(WHOLE as u64);
            if self.payload(socket, piece as usize)?.is_none() {
                return Ok(false);
            }
            length -= piece;
        }
        Ok(true)
    }
}
