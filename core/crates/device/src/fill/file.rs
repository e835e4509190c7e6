//! The fill file: which blocks of a volume are still to come, kept so that it survives crashes.
//!
//! ```text
//!    0  magic, 16 bytes              24  bytes of the volume, 8 bytes
//!   16  version, 4 bytes             …   zeros
//!   20  bytes of a block, 4 bytes   480  SHA-256 of everything before
//! 4096  one bit for each block, the lowest of a byte first: 1 is missing; in whole pieces of 4096 bytes
//! ```
//!
//! Numbers are little-endian. A bit goes from 1 to 0 and never back, and it may do so at any time from when it is written
//! on: so a torn write of bits does no harm.

use std::io;
use std::ops::Range;

use ebscrypt_secret::Sha256;

use crate::backing::{Backing, read_all, write_all};
use crate::track::bits::Bits;
use crate::track::{BLOCK, BLOCKS, blocks_of};

const MAGIC: &[u8; 16] = b"ebscrypt-missing";
const VERSION: u32 = 1;
const HEADER: usize = 512;
const DIGEST: usize = 480;
const FIRST_PIECE: u64 = 4096;
/// Bytes of bits that are written at once.
const PIECE: usize = 4096;

/// The file of a volume that is being filled.
pub(crate) struct FillFile {
    file: Box<dyn Backing>,
    /// Bytes of the volume.
    pub(crate) size: u64,
}

fn header(size: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..16].copy_from_slice(MAGIC);
    bytes[16..20].copy_from_slice(&VERSION.to_le_bytes());
    bytes[20..24].copy_from_slice(&(BLOCK as u32).to_le_bytes());
    bytes[24..32].copy_from_slice(&size.to_le_bytes());
    let digest = digest(&bytes);
    bytes[DIGEST..].copy_from_slice(&digest);
    bytes
}

fn digest(bytes: &[u8; HEADER]) -> [u8; HEADER - DIGEST] {
    let mut hash = Sha256::new();
    hash.update(&bytes[..DIGEST]);
    hash.finish()
}

impl FillFile {
    /// Begin a file, durably, for a volume of `size` bytes of which the blocks of these ranges are missing.
    ///
    /// # Errors
    /// EINVAL for a volume beyond 64 TiB and for a block that it does not have; why the file cannot be written.
    pub(crate) fn create(file: &dyn Backing, size: u64, missing: &[Range<u64>]) -> io::Result<()> {
        let blocks = blocks_of(size);
        if blocks > BLOCKS || missing.iter().any(|range| range.end > blocks) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let bits = Bits::new(BLOCKS, blocks);
        missing.iter().for_each(|range| bits.set(range.clone()));
        write_all(file, &[0; FIRST_PIECE as usize], 0)?;
        write_bits(file, &bits, 0..blocks)?;
        file.sync()?;
        // Last: what has a header is whole.
        write_all(file, &header(size), 0)?;
        file.sync()
    }

    /// Take a file over, and give what it says is missing.
    ///
    /// What it says is written again, and synced. A process that died may have left bits that only the kernel has: who
    /// believes them lets the volume change, and a power cut would bring the bits back and have the change overwritten.
    ///
    /// # Errors
    /// EINVAL for what is not such a file, whole and of this version; why it cannot be read or written.
    pub(crate) fn open(file: Box<dyn Backing>) -> io::Result<(FillFile, Bits)> {
        let mut bytes = [0; HEADER];
        read_all(&*file, &mut bytes, 0)?;
        let mut size = [0; 8];
        size.copy_from_slice(&bytes[24..32]);
        let size = u64::from_le_bytes(size);
        let blocks = blocks_of(size);
        if bytes != header(size) || blocks > BLOCKS || file.length()? < FIRST_PIECE + blocks.div_ceil(8) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let missing = Bits::new(BLOCKS, blocks);
        let mut piece = [0; PIECE];
        for at in (0..blocks.div_ceil(8)).step_by(PIECE) {
            read_all(&*file, &mut piece, FIRST_PIECE + at)?;
            missing.merge(at, &piece);
        }
        write_bits(&*file, &missing, 0..blocks)?;
        file.sync()?;
        Ok((FillFile { file, size }, missing))
    }

    /// Note, durably, that these `blocks` are missing no more; `missing` is what the file says until now.
    pub(crate) fn settle(&self, missing: &Bits, blocks: &mut [u64]) -> io::Result<()> {
        blocks.sort_unstable();
        let mut bytes = [0; PIECE];
        for part in blocks.chunk_by(|one, next| one / 8 / PIECE as u64 == next / 8 / PIECE as u64) {
            let at = part[0] / 8 / PIECE as u64 * PIECE as u64;
            missing.store(at, &mut bytes);
            part.iter().for_each(|block| bytes[(block / 8 - at) as usize] &= !(1 << (block % 8)));
            write_all(&*self.file, &bytes, FIRST_PIECE + at)?;
        }
        self.file.sync()
    }
}

fn write_bits(file: &dyn Backing, bits: &Bits, blocks: Range<u64>) -> io::Result<()> {
    let mut bytes = [0; PIECE];
    for at in (blocks.start / 8..blocks.end.div_ceil(8)).step_by(PIECE) {
        bits.store(at, &mut bytes);
        write_all(file, &bytes, FIRST_PIECE + at)?;
    }
    Ok(())
}
