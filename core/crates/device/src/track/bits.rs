//! Bits that many threads read and set: one for each block or region of a volume.
//!
//! They are kept in pieces that are made when a volume is opened or grows, so that a small volume has few of them and a
//! growing one needs no lock.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const WORD: u64 = u64::BITS as u64;
/// Bits of a piece: 32 GiB of volume, 8 KiB of memory.
const PIECE: u64 = 1 << 16;

/// The bits. All are false at first, and those for which there is no room are false too.
pub(crate) struct Bits(Box<[OnceLock<Box<[AtomicU64]>>]>);

impl Bits {
    /// `capacity` bits at most, with room for `count` of them now.
    pub(crate) fn new(capacity: u64, count: u64) -> Bits {
        let bits = Bits((0..capacity.div_ceil(PIECE)).map(|_| OnceLock::new()).collect());
        bits.make_room(count);
        bits
    }

    pub(crate) fn make_room(&self, count: u64) {
        for piece in self.0.iter().take(count.div_ceil(PIECE) as usize) {
            piece.get_or_init(|| (0..PIECE / WORD).map(|_| AtomicU64::new(0)).collect());
        }
    }

    fn word(&self, index: u64) -> Option<&AtomicU64> {
        let piece = self.0.get((index / PIECE) as usize)?.get()?;
        piece.get((index % PIECE / WORD) as usize)
    }

    fn load(&self, index: u64) -> u64 {
        self.word(index).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    pub(crate) fn get(&self, index: u64) -> bool {
        self.load(index) >> (index % WORD) & 1 != 0
    }

    /// Whether every bit of the range is set.
    pub(crate) fn all(&self, range: Range<u64>) -> bool {
        masks(range).all(|(index, mask)| self.load(index) & mask == mask)
    }

    /// Set the bits of a range, for which room is made if need be.
    pub(crate) fn set(&self, range: Range<u64>) {
        self.make_room(range.end);
        for (index, mask) in masks(range) {
            if let Some(word) = self.word(index) {
                word.fetch_or(mask, Ordering::SeqCst);
            }
        }
    }

    pub(crate) fn unset(&self, index: u64) {
        if let Some(word) = self.word(index) {
            word.fetch_and(!(1 << (index % WORD)), Ordering::SeqCst);
        }
    }

    pub(crate) fn clear(&self) {
        self.0.iter().filter_map(OnceLock::get).flatten().for_each(|word| word.store(0, Ordering::SeqCst));
    }

    /// Take over `count` bits of another, or the opposite of each.
    pub(crate) fn copy(&self, other: &Bits, count: u64, inverted: bool) {
        self.make_room(count);
        for (index, mask) in masks(0..count) {
            if let Some(word) = self.word(index) {
                let bits = other.load(index);
                word.store((if inverted { !bits } else { bits }) & mask, Ordering::SeqCst);
            }
        }
    }

    /// The first of the range that is set.
    pub(crate) fn next(&self, range: Range<u64>) -> Option<u64> {
        masks(range).find_map(|(index, mask)| match self.load(index) & mask {
            0 => None,
            found => Some(index / WORD * WORD + u64::from(found.trailing_zeros())),
        })
    }

    /// How many of the first `count` are set.
    pub(crate) fn count(&self, count: u64) -> u64 {
        masks(0..count).map(|(index, mask)| u64::from((self.load(index) & mask).count_ones())).sum()
    }

    /// The bits as a file has them: eight a byte, the lowest first. `bytes` begins at byte `first`, a multiple of 8.
    pub(crate) fn store(&self, first: u64, bytes: &mut [u8]) {
        for (number, part) in (0..).zip(bytes.chunks_mut(8)) {
            part.copy_from_slice(&self.load((first + number * 8) * 8).to_le_bytes()[..part.len()]);
        }
    }

    /// Set what is set in `bytes`, as [`Bits::store`] gave them.
    pub(crate) fn merge(&self, first: u64, bytes: &[u8]) {
        for (number, part) in (0..).zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let (index, bits) = ((first + number * 8) * 8, u64::from_le_bytes(word));
            if bits != 0 {
                self.make_room(index + WORD);
                self.word(index).map(|word| word.fetch_or(bits, Ordering::SeqCst));
            }
        }
    }
}

/// The words of a range of bits: the index of one bit in each, and which bits of it are meant.
fn masks(range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let words = if range.is_empty() { 0..0 } else { range.start / WORD..range.end.div_ceil(WORD) };
    words.map(move |word| {
        let (first, last) = (range.start.max(word * WORD) % WORD, (range.end - 1).min(word * WORD + WORD - 1) % WORD);
        (word * WORD, u64::MAX << first & u64::MAX >> (WORD - 1 - last))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranges of every kind set what they should and nothing else, and are found again, in memory and as bytes.
    #[test]
    fn ranges() {
        for range in [0..1, 63..64, 63..65, 0..64, 5..200, 65_535..65_537, 70_000..70_000, 1000..131_072] {
            let bits = Bits::new(1 << 20, 0);
            assert!(range.is_empty() || !bits.all(range.clone()));
            bits.set(range.clone());
            assert!(bits.all(range.clone()));
            assert_eq!(bits.count(1 << 20), range.end - range.start);
            assert_eq!(bits.next(0..1 << 20), (!range.is_empty()).then_some(range.start));
            assert_eq!(bits.next(range.end..1 << 20), None);
            assert!(!bits.get(range.end) && (range.start == 0 || !bits.get(range.start - 1)));
            let mut bytes = vec![0; (1 << 20) / 8];
            bits.store(0, &mut bytes);
            let again = Bits::new(1 << 20, 0);
            again.merge(0, &bytes);
            assert_eq!(again.count(1 << 20), range.end - range.start);
            assert!(again.all(range.clone()));
            let other = Bits::new(1 << 20, 0);
            other.copy(&bits, 200_000, true);
            assert_eq!(other.count(1 << 20), 200_000 - (range.end - range.start));
            if !range.is_empty() {
                bits.unset(range.start);
                assert!(!bits.get(range.start));
            }
            bits.clear();
            assert_eq!(bits.count(1 << 20), 0);
        }
    }

    /// What lies beyond the room is false, and beyond the capacity too, whatever is set there.
    #[test]
    fn beyond_the_end() {
        let bits = Bits::new(PIECE, 10);
        assert!(!bits.get(PIECE + 5) && !bits.get(u64::MAX));
        bits.set(PIECE - 1..PIECE + 3);
        assert_eq!(bits.count(PIECE * 2), 1);
    }
}
