//! AES-256-XTS (IEEE 1619) over whole sectors, by AWS-LC, with every round key in secret memory.

use std::cell::UnsafeCell;
use std::io;
use std::ptr;

use aws_lc_sys as aws;

use crate::memory::SecretMemory;
use crate::{arena, lanes, wipe};

/// Bytes of a data key: two AES-256 keys.
pub const KEY_SIZE: usize = 64;

/// dm-crypt's `plain64` counts sectors of this size, whatever the cipher's own sector size is.
const UNIT: u64 = 512;

/// The two contexts that one lane has for one key. A context is keyed once; only its tweak is set again.
struct Contexts {
    encrypt: *mut aws::EVP_CIPHER_CTX,
    decrypt: *mut aws::EVP_CIPHER_CTX,
}

/// One key, ready for use on every lane.
pub struct XtsCipher {
    contexts: Box<[UnsafeCell<Contexts>]>,
}

// SAFETY: the contexts of a lane are touched only while that lane's lock is held.
unsafe impl Sync for XtsCipher {}
// SAFETY: AWS-LC's contexts are not bound to a thread.
unsafe impl Send for XtsCipher {}

impl XtsCipher {
    /// Expand `key` for both directions on every lane. The key itself may be wiped afterwards.
    ///
    /// # Errors
    /// EINVAL unless the key has 64 bytes and its halves differ (IEEE 1619-2018 wants that, NIST SP 800-38E too);
    /// ENOMEM when the arena is full; EAGAIN when RLIMIT_MEMLOCK leaves no room for it.
    pub fn new(key: &SecretMemory) -> io::Result<XtsCipher> {
        let empty = || UnsafeCell::new(Contexts { encrypt: ptr::null_mut(), decrypt: ptr::null_mut() });
        let cipher = XtsCipher { contexts: (0..lanes::prepare()?).map(|_| empty()).collect() };
        cipher.rekey(key)?;
        Ok(cipher)
    }

    /// Expand `key` in place of what was there, which after [`XtsCipher::wipe`] is nothing. Where that fails nothing is
    /// there afterwards. What is being turned meanwhile may be turned by either key.
    ///
    /// # Errors
    /// As [`XtsCipher::new`].
    pub fn rekey(&self, key: &SecretMemory) -> io::Result<()> {
        self.wipe();
        let bytes = key.bytes()?;
        arena::prepare()?;
        let halves_equal = || wipe::equal(&bytes[..KEY_SIZE / 2], &bytes[KEY_SIZE / 2..]);
        if bytes.len() != KEY_SIZE || lanes::run(|_| halves_equal())? {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        for (lane, contexts) in self.contexts.iter().enumerate() {
            let made = lanes::run_on(lane, || {
                // SAFETY: this lane's lock is held.
                let contexts = unsafe { &mut *contexts.get() };
                contexts.encrypt = keyed_context(bytes, 1);
                contexts.decrypt = keyed_context(bytes, 0);
                !contexts.encrypt.is_null() && !contexts.decrypt.is_null()
            })?;
            if !made {
                self.wipe();
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
        }
        Ok(())
    }

    /// Let the two ciphers have each other's key. What is being turned meanwhile may be turned by either.
    ///
    /// # Errors
    /// EINVAL for a cipher and itself; EBADFD in a fork of the process.
    pub fn exchange(&self, other: &XtsCipher) -> io::Result<()> {
        if ptr::eq(self, other) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        for (lane, (mine, its)) in self.contexts.iter().zip(&other.contexts).enumerate() {
            // SAFETY: this lane's lock is held, and with it the contexts that every cipher has for this lane; they are not
            // the same ones.
            lanes::run_on(lane, || unsafe { ptr::swap(mine.get(), its.get()) })?;
        }
        Ok(())
    }

    /// What this key makes of 32 zero bytes in a sector that no volume has: two keys with the same are the same key, and
    /// it tells no more of the key than any ciphertext does.
    ///
    /// # Errors
    /// EIO after [`XtsCipher::wipe`].
    pub fn fingerprint(&self) -> io::Result<[u8; 32]> {
        let mut sector = [0; 512];
        self.encrypt(&mut sector, 512, u64::MAX - 511)?;
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(&sector[..32]);
        Ok(fingerprint)
    }

    /// Encrypt whole sectors in place. `offset` is where the first begins, in bytes from the data offset.
    ///
    /// # Errors
    /// EINVAL unless `data` and `offset` are whole sectors; EIO after [`XtsCipher::wipe`].
    pub fn encrypt(&self, data: &mut [u8], sector_size: usize, offset: u64) -> io::Result<()> {
        self.turn(data, sector_size, offset, |contexts| contexts.encrypt)
    }

    /// The way back.
    ///
    /// # Errors
    /// As [`XtsCipher::encrypt`].
    pub fn decrypt(&self, data: &mut [u8], sector_size: usize, offset: u64) -> io::Result<()> {
        self.turn(data, sector_size, offset, |contexts| contexts.decrypt)
    }

    fn turn(
        &self,
        data: &mut [u8],
        sector_size: usize,
        offset: u64,
        direction: impl Fn(&Contexts) -> *mut aws::EVP_CIPHER_CTX,
    ) -> io::Result<()> {
        if !matches!(sector_size, 512 | 4096) || data.len() % sector_size != 0 || offset % sector_size as u64 != 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let turned = lanes::run(|lane| {
            // SAFETY: this lane's lock is held.
            let context = direction(unsafe { &*self.contexts[lane].get() });
            let mut unit = offset / UNIT;
            !context.is_null()
                && data.chunks_exact_mut(sector_size).all(|sector| {
                    let turned = turn_sector(context, sector, unit);
                    unit += sector_size as u64 / UNIT;
                    turned
                })
        })?;
        if turned { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    /// Free the contexts; AWS-LC and the arena zero them. Any later use fails. Idempotent.
    pub fn wipe(&self) {
        for (lane, contexts) in self.contexts.iter().enumerate() {
            // In a fork of the process there is neither lane nor context any more, and nothing to wipe.
            let _ = lanes::run_on(lane, || {
                // SAFETY: this lane's lock is held; the contexts come from EVP_CIPHER_CTX_new, or are null, which
                // EVP_CIPHER_CTX_free ignores.
                unsafe {
                    let contexts = &mut *contexts.get();
                    aws::EVP_CIPHER_CTX_free(std::mem::replace(&mut contexts.encrypt, ptr::null_mut()));
                    aws::EVP_CIPHER_CTX_free(std::mem::replace(&mut contexts.decrypt, ptr::null_mut()));
                }
            });
        }
    }
}

impl Drop for XtsCipher {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// A context with its key, or null. Runs on a lane.
fn keyed_context(key: &[u8], encrypt: i32) -> *mut aws::EVP_CIPHER_CTX {
    // SAFETY: the key has 64 bytes, as the cipher wants; a context that cannot be keyed is freed again.
    unsafe {
        let context = aws::EVP_CIPHER_CTX_new();
        let cipher = aws::EVP_aes_256_xts();
        if !context.is_null()
            && aws::EVP_CipherInit_ex(context, cipher, ptr::null_mut(), key.as_ptr(), ptr::null(), encrypt) == 1
        {
            return context;
        }
        aws::EVP_CIPHER_CTX_free(context);
        aws::ERR_clear_error();
        ptr::null_mut()
    }
}

/// Turn one sector whose tweak is `unit`, 64 bits little-endian and zeros (`plain64`). Runs on a lane.
fn turn_sector(context: *mut aws::EVP_CIPHER_CTX, sector: &mut [u8], unit: u64) -> bool {
    let tweak = u128::from(unit).to_le_bytes();
    let data = sector.as_mut_ptr();
    // SAFETY: the context is keyed and this lane's own; the tweak has 16 bytes; output may be input.
    unsafe {
        aws::EVP_CipherInit_ex(context, ptr::null(), ptr::null_mut(), ptr::null(), tweak.as_ptr(), -1) == 1
            && aws::EVP_Cipher(context, data, data, sector.len()) == 1
    }
}
