//! AES-256-XTS over whole sectors.
//!
//! A sector whose stored bytes are all zero was never written, or was discarded: it reads as zeros. (That a real
//! ciphertext looks so has a probability of 2⁻⁴⁰⁹⁶ for 512-byte sectors.) So thin volumes stay thin, and zeroing can be
//! left to the layer below, which punches holes; but where holes shall not tell what is in use, zeros are data like any.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ebscrypt_secret::XtsCipher;
use parking_lot::RwLock;

use crate::buffer::Scratch;
use crate::turn::Turning;
use crate::{Device, Error, Extent, Result, WriteFlags, ZeroFlags};

/// Turns data on its way between the layers.
pub(crate) struct Crypt {
    below: Box<dyn Device>,
    cipher: Arc<XtsCipher>,
    sector_size: usize,
    holes: bool,
    /// Whether there is a re-encryption: then each sector has one of two keys.
    turns: AtomicBool,
    turning: RwLock<Option<Arc<Turning>>>,
}

impl Crypt {
    /// With `holes`, zeroing makes holes.
    pub(crate) fn new(below: Box<dyn Device>, cipher: Arc<XtsCipher>, sector_size: usize, holes: bool) -> Crypt {
        Crypt { below, cipher, sector_size, holes, turns: AtomicBool::new(false), turning: RwLock::new(None) }
    }

    /// The layer below, whose sectors are as they are stored.
    pub(crate) fn below(&self) -> &dyn Device {
        &*self.below
    }

    pub(crate) fn sector_size(&self) -> usize {
        self.sector_size
    }

    /// The re-encryption that is under way.
    pub(crate) fn turning(&self) -> Option<Arc<Turning>> {
        if self.turns.load(Ordering::SeqCst) { self.turning.read().clone() } else { None }
    }

    /// Begin or end one. No request is under way.
    pub(crate) fn set_turning(&self, turning: Option<Arc<Turning>>) {
        let mut current = self.turning.write();
        self.turns.store(turning.is_some(), Ordering::SeqCst);
        *current = turning;
    }

    /// Do `request` when no sector of a range is on its way from one key to another, and none sets out.
    fn undisturbed(&self, offset: u64, length: u64, request: impl FnOnce() -> Result<()>) -> Result<()> {
        let turning = self.turning();
        let _stay = turning.as_ref().map(|turning| turning.enter(offset, length)).transpose()?;
        request()
    }

    /// Write zeros as any other data, enciphered.
    fn write_zeros_out(&self, offset: u64, length: u64) -> Result<()> {
        let mut scratch = Scratch::take();
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(scratch.len() as u64);
            let zeros = &mut scratch[..piece as usize];
            zeros.fill(0);
            self.write(zeros, at, WriteFlags { fua: false })?;
            at += piece;
        }
        Ok(())
    }

    /// Decrypt the sectors of `buffer` that are not all zeros, a run at a time.
    fn decrypt(&self, cipher: &XtsCipher, buffer: &mut [u8], offset: u64) -> Result<()> {
        let size = self.sector_size;
        let sectors = buffer.len() / size;
        let mut first = 0;
        while first < sectors {
            let hole = |index: &usize| is_zero(&buffer[index * size..][..size]);
            let end = (first..sectors).find(hole).unwrap_or(sectors);
            if end > first {
                let run = &mut buffer[first * size..end * size];
                cipher.decrypt(run, size, offset + (first * size) as u64).map_err(Error::from)?;
            }
            first = end + 1;
        }
        Ok(())
    }
}

fn is_zero(sector: &[u8]) -> bool {
    // The first bytes settle it for nearly every sector that was written.
    sector[..16] == [0; 16] && sector.chunks_exact(64).all(|part| part.iter().fold(0, |sum, byte| sum | byte) == 0)
}

impl Device for Crypt {
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
        let Some(turning) = self.turning() else {
            self.below.read(buffer, offset)?;
            return self.decrypt(&self.cipher, buffer, offset);
        };
        let _stay = turning.enter(offset, buffer.len() as u64)?;
        self.below.read(buffer, offset)?;
        turning.parts(buffer, offset).into_iter().try_for_each(|(cipher, at, part)| self.decrypt(cipher, part, at))
    }

    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        let Some(turning) = self.turning() else {
            self.cipher.encrypt(buffer, self.sector_size, offset).map_err(Error::from)?;
            return self.below.write(buffer, offset, flags);
        };
        let _stay = turning.enter(offset, buffer.len() as u64)?;
        for (cipher, at, part) in turning.parts(buffer, offset) {
            cipher.encrypt(part, self.sector_size, at).map_err(Error::from)?;
        }
        self.below.write(buffer, offset, flags)
    }

    fn flush(&self) -> Result<()> {
        self.below.flush()
    }

    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        self.undisturbed(offset, length, || self.below.discard(offset, length, flags))
    }

    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        if self.holes {
            return self.undisturbed(offset, length, || self.below.write_zeroes(offset, length, flags));
        }
        if flags.fast {
            return Err(Error::UNSUPPORTED);
        }
        self.write_zeros_out(offset, length)?;
        if flags.fua { self.below.flush() } else { Ok(()) }
    }

    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.below.extents(offset, length, each)
    }
}
