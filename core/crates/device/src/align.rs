//! Requests of any offset, length and buffer become whole units for the layers below.
//!
//! A write that covers a unit in part reads it, changes it and writes it back. Meanwhile nobody else may touch that
//! unit: a second such write would lose one of the two, a whole-unit write would be undone, and a read could find it
//! half written, which after decryption is noise also in the bytes that nobody is writing. So such a write holds its
//! range exclusively, and everything else shares it.
//!
//! Whole-unit requests do not exclude each other: whoever reads what is being written or discarded at that moment may
//! find anything in those units, as the NBD protocol and the kernel's block layer have it.

use crate::buffer::{SCRATCH, Scratch};
use crate::stripes::Stripes;
use crate::{Device, Extent, Result, WriteFlags, ZeroFlags};

/// Gives the layers below what they ask for.
pub(crate) struct Align {
    below: Box<dyn Device>,
    unit: u64,
    memory: usize,
    stripes: Stripes,
}

/// A run of whole units, as long as a scratch buffer at most, and the part of it that a request is about.
#[derive(Clone, Copy)]
struct Piece {
    start: u64,
    end: u64,
    wanted_start: u64,
    wanted_end: u64,
}

impl Piece {
    fn length(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Where the wanted part is in a buffer of this piece.
    fn inside(self) -> std::ops::Range<usize> {
        (self.wanted_start - self.start) as usize..(self.wanted_end - self.start) as usize
    }

    /// Where the wanted part is in the buffer of a request that begins at `offset`.
    fn outside(self, offset: u64) -> std::ops::Range<usize> {
        (self.wanted_start - offset) as usize..(self.wanted_end - offset) as usize
    }
}

impl Align {
    /// `memory` is what addresses of buffers must be multiples of.
    pub(crate) fn new(below: Box<dyn Device>, memory: u32) -> Align {
        let unit = u64::from(below.alignment());
        Align { below, unit, memory: memory as usize, stripes: Stripes::new() }
    }

    fn is_whole(&self, offset: u64, length: u64) -> bool {
        (offset | length) & (self.unit - 1) == 0
    }

    fn suits(&self, buffer: &[u8], offset: u64) -> bool {
        self.is_whole(offset, buffer.len() as u64) && (buffer.as_ptr() as usize) & (self.memory - 1) == 0
    }

    fn down(&self, offset: u64) -> u64 {
        offset & !(self.unit - 1)
    }

    fn up(&self, offset: u64) -> u64 {
        offset.next_multiple_of(self.unit)
    }

    fn pieces(&self, offset: u64, length: u64) -> impl Iterator<Item = Piece> + use<> {
        let wanted_end = offset + length;
        let (first, end) = (self.down(offset), self.up(wanted_end));
        (first..end).step_by(SCRATCH).map(move |start| {
            let stop = end.min(start + SCRATCH as u64);
            Piece { start, end: stop, wanted_start: offset.max(start), wanted_end: wanted_end.min(stop) }
        })
    }

    /// Write a piece, whose wanted part `fill` puts into the buffer.
    fn write_piece(&self, piece: Piece, flags: WriteFlags, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut scratch = Scratch::take();
        let buffer = &mut scratch[..piece.length()];
        let (head, tail) = (piece.wanted_start > piece.start, piece.wanted_end < piece.end);
        let (start, length, unit) = (piece.start, piece.end - piece.start, self.unit as usize);
        let partial = head || tail;
        let _exclusive = partial.then(|| self.stripes.exclude(start, length));
        let _shared = (!partial).then(|| self.stripes.share(start, length));
        if head {
            self.below.read(&mut buffer[..unit], start)?;
        }
        if tail && !(head && piece.length() == unit) {
            let last = piece.length() - unit;
            self.below.read(&mut buffer[last..], start + last as u64)?;
        }
        fill(&mut buffer[piece.inside()]);
        self.below.write(buffer, start, flags)
    }

    fn zero_edge(&self, from: u64, to: u64, flags: ZeroFlags) -> Result<()> {
        let flags = WriteFlags { fua: flags.fua };
        self.pieces(from, to - from).try_for_each(|piece| self.write_piece(piece, flags, |wanted| wanted.fill(0)))
    }
}

impl Device for Align {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn read_only(&self) -> bool {
        self.below.read_only()
    }

    fn alignment(&self) -> u32 {
        self.below.alignment()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let length = buffer.len() as u64;
        if self.suits(buffer, offset) {
            let _held = self.stripes.share(offset, length);
            return self.below.read(buffer, offset);
        }
        let mut scratch = Scratch::take();
        self.pieces(offset, length).try_for_each(|piece| {
            let whole = &mut scratch[..piece.length()];
            let held = self.stripes.share(piece.start, piece.end - piece.start);
            self.below.read(whole, piece.start)?;
            drop(held);
            buffer[piece.outside(offset)].copy_from_slice(&whole[piece.inside()]);
            Ok(())
        })
    }

    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        let length = buffer.len() as u64;
        if self.suits(buffer, offset) {
            let _held = self.stripes.share(offset, length);
            return self.below.write(buffer, offset, flags);
        }
        self.pieces(offset, length).try_for_each(|piece| {
            self.write_piece(piece, flags, |wanted| wanted.copy_from_slice(&buffer[piece.outside(offset)]))
        })
    }

    fn flush(&self) -> Result<()> {
        self.below.flush()
    }

    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        let (start, end) = (self.up(offset), self.down(offset + length));
        if start >= end {
            return Ok(());
        }
        let _held = self.stripes.share(start, end - start);
        self.below.discard(start, end - start, flags)
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        let stop = offset + length;
        let (start, end) = (self.up(offset), self.down(stop));
        if start >= end {
            return self.zero_edge(offset, stop, flags);
        }
        {
            // The middle first: where it cannot be done fast, nothing has been changed.
            let _held = self.stripes.share(start, end - start);
            self.below.write_zeroes(start, end - start, flags)?;
        }
        if offset < start {
            self.zero_edge(offset, start, flags)?;
        }
        if end < stop { self.zero_edge(end, stop, flags) } else { Ok(()) }
    }

    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        let stop = offset + length;
        let (start, end) = (self.down(offset), self.up(stop));
        self.below.extents(start, end - start, &mut |extent| {
            let (from, to) = (extent.offset.max(offset), extent.end().min(stop));
            each(Extent { offset: from, length: to - from, hole: extent.hole })
        })
    }
}

#[cfg(test)]
mod tests;
