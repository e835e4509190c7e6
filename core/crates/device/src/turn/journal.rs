//! How far a re-encryption is, and the zone that is being turned, kept on the backing itself so that any end is survived.
//!
//! ```text
//!       0  progress: magic, id, sequence, boundary, checksum            each written alone, in turn with the other
//!    4096  progress, the other one
//!    8192  record:   magic, id, offset, length, checksum                the zone as it is to be
//!   12288            its bytes
//! ```
//!
//! Numbers are little-endian. Of the two progresses the one with the higher sequence counts. A checksum is the SHA-256 of
//! the fields before it, that of a record of the zone's bytes too, so that a write that was torn counts as none. `id` is
//! drawn for each re-encryption: what an earlier one left is none either. The whole lies in LUKS2's keyslots area;
//! docs/formats/luks2.md has the rules.

use std::io;
use std::ops::Range;

use ebscrypt_secret::Sha256;

use crate::backing::{Backing, read_all, write_all};
use crate::buffer::Buffer;

/// Bytes of a progress, and of the head of a record.
pub(crate) const PAGE: usize = 4096;
const RECORD: u64 = 2 * PAGE as u64;
const PROGRESS_MAGIC: &[u8; 8] = b"EBSTURN1";
const ZONE_MAGIC: &[u8; 8] = b"EBSZONE1";
/// Bytes of the fields before a checksum.
const FIELDS: usize = 40;
/// The largest zone: large enough that three syncs cost little beside its bytes, small enough that who waits for it
/// hardly notices.
const LARGEST_ZONE: u64 = 4 << 20;
const SMALLEST_ZONE: u64 = 64 << 10;

/// A journal on its backing.
pub(crate) struct Journal {
    backing: Box<dyn Backing>,
    offset: u64,
    id: [u8; 16],
    sequence: u64,
    page: Buffer,
}

/// A zone's place, and its bytes behind the head of a record.
pub(crate) struct Zone {
    buffer: Buffer,
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

impl Zone {
    /// The bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffer[PAGE..PAGE + self.length]
    }

    /// Room for `most` bytes.
    pub(crate) fn new(most: u64) -> Zone {
        Zone { buffer: Buffer::new(PAGE + most as usize), offset: 0, length: 0 }
    }

    fn most(&self) -> usize {
        self.buffer.len() - PAGE
    }
}

/// Bytes of a zone for which a journal of `length` bytes has room; none where that is too few.
pub(crate) fn zone_size(length: u64) -> Option<u64> {
    let room = length.saturating_sub(RECORD + PAGE as u64) / SMALLEST_ZONE * SMALLEST_ZONE;
    (room >= SMALLEST_ZONE).then_some(room.min(LARGEST_ZONE))
}

impl Journal {
    /// The journal in a range of `backing`, and the boundary that it has; none where it has none of this `id`.
    pub(crate) fn open(
        backing: Box<dyn Backing>,
        range: &Range<u64>,
        id: [u8; 16],
    ) -> io::Result<(Journal, Option<u64>)> {
        let mut journal = Journal { backing, offset: range.start, id, sequence: 0, page: Buffer::new(PAGE) };
        let mut found = None;
        for slot in 0..2 {
            read_all(&*journal.backing, &mut journal.page, journal.offset + slot * PAGE as u64)?;
            if let Some((sequence, boundary)) = fields(&journal.page, PROGRESS_MAGIC, &id, &[]) {
                if found.is_none() || sequence > journal.sequence {
                    (journal.sequence, found) = (sequence, Some(boundary));
                }
            }
        }
        Ok((journal, found))
    }

    /// Write down how far it is. Durable only once the backing was synced.
    pub(crate) fn write_progress(&mut self, boundary: u64) -> io::Result<()> {
        let sequence = self.sequence + 1;
        seal(&mut self.page, PROGRESS_MAGIC, &self.id, [sequence, boundary], &[]);
        let slot = sequence % 2;
        write_all(&*self.backing, &self.page, self.offset + slot * PAGE as u64)?;
        self.sequence = sequence;
        Ok(())
    }

    /// Write down a zone as it is to be. Durable only once the backing was synced.
    pub(crate) fn write_zone(&self, zone: &mut Zone) -> io::Result<()> {
        let (head, bytes) = zone.buffer.split_at_mut(PAGE);
        seal(head, ZONE_MAGIC, &self.id, [zone.offset, zone.length as u64], &bytes[..zone.length]);
        write_all(&*self.backing, &zone.buffer[..PAGE + zone.length], self.offset + RECORD)
    }

    /// Read the zone that begins at `boundary` into `zone`, if that is what the record has.
    pub(crate) fn read_zone(&self, zone: &mut Zone, boundary: u64, size: u64) -> io::Result<bool> {
        let most = zone.most();
        read_all(&*self.backing, &mut zone.buffer[..PAGE], self.offset + RECORD)?;
        let length = number(&zone.buffer, 32);
        let fits = length > 0 && length <= most as u64 && length % 512 == 0;
        if number(&zone.buffer, 24) != boundary || !fits || boundary.checked_add(length).is_none_or(|end| end > size) {
            return Ok(false);
        }
        let length = length as usize;
        let padded = length.next_multiple_of(PAGE).min(most);
        read_all(&*self.backing, &mut zone.buffer[PAGE..PAGE + padded], self.offset + RECORD + PAGE as u64)?;
        (zone.offset, zone.length) = (boundary, length);
        let (head, bytes) = zone.buffer.split_at(PAGE);
        Ok(fields(head, ZONE_MAGIC, &self.id, &bytes[..length]).is_some())
    }
}

fn number(page: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&page[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn checksum(page: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(&page[..FIELDS]);
    hash.update(bytes);
    hash.finish()
}

fn seal(page: &mut [u8], magic: &[u8; 8], id: &[u8; 16], numbers: [u64; 2], bytes: &[u8]) {
    page.fill(0);
    page[..8].copy_from_slice(magic);
    page[8..24].copy_from_slice(id);
    page[24..32].copy_from_slice(&numbers[0].to_le_bytes());
    page[32..FIELDS].copy_from_slice(&numbers[1].to_le_bytes());
    let sum = checksum(page, bytes);
    page[FIELDS..FIELDS + sum.len()].copy_from_slice(&sum);
}

/// The two numbers of a page that is whole, and of this re-encryption.
fn fields(page: &[u8], magic: &[u8; 8], id: &[u8; 16], bytes: &[u8]) -> Option<(u64, u64)> {
    let ours = page[..8] == magic[..] && page[8..24] == id[..];
    let whole = ours && page[FIELDS..FIELDS + 32] == checksum(page, bytes);
    whole.then(|| (number(page, 24), number(page, 32)))
}
