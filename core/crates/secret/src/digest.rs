//! The digest by which LUKS2 knows its volume key: PBKDF2 of the key, with salt and iterations from the header.

use std::io;

use aws_lc_sys as aws;

use crate::memory::SecretMemory;
use crate::{arena, lanes, wipe};

/// The hash inside PBKDF2's HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
}

impl Hash {
    /// The hash that LUKS2 calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Hash> {
        match name {
            "sha256" => Some(Hash::Sha256),
            "sha512" => Some(Hash::Sha512),
            _ => None,
        }
    }

    fn algorithm(self) -> *const aws::EVP_MD {
        // SAFETY: both return a pointer to static data.
        unsafe {
            match self {
                Hash::Sha256 => aws::EVP_sha256(),
                Hash::Sha512 => aws::EVP_sha512(),
            }
        }
    }
}

impl SecretMemory {
    /// Fill `digest` with PBKDF2-HMAC of the content.
    ///
    /// # Errors
    /// EINVAL for no iterations or an empty digest; EAGAIN when RLIMIT_MEMLOCK leaves no room to work in.
    pub fn digest(&self, salt: &[u8], iterations: u32, hash: Hash, digest: &mut [u8]) -> io::Result<()> {
        if iterations == 0 || digest.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let key = self.bytes()?;
        let lane_count = lanes::prepare()?;
        arena::prepare()?;
        // The state of the HMAC is worth as much as the key: it stays on a lane, whose stack is zeroed afterwards. A
        // digest holds its lane for a second: take the last one, which sector work turns to last.
        let result = lanes::run_on(lane_count - 1, || {
            // SAFETY: all pointers are valid for the lengths given with them.
            unsafe {
                aws::PKCS5_PBKDF2_HMAC(
                    key.as_ptr().cast(),
                    key.len(),
                    salt.as_ptr(),
                    salt.len(),
                    iterations,
                    hash.algorithm(),
                    digest.len(),
                    digest.as_mut_ptr(),
                )
            }
        })?;
        if result == 1 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOMEM)) }
    }

    /// Whether `digest` is what [`SecretMemory::digest`] gives, compared in constant time.
    ///
    /// # Errors
    /// As [`SecretMemory::digest`].
    pub fn matches(&self, salt: &[u8], iterations: u32, hash: Hash, digest: &[u8]) -> io::Result<bool> {
        let mut actual = vec![0; digest.len()];
        self.digest(salt, iterations, hash, &mut actual)?;
        Ok(wipe::equal(&actual, digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory_of(content: &[u8]) -> SecretMemory {
        let mut memory = SecretMemory::new(content.len()).unwrap();
        memory.fill(content).unwrap();
        memory
    }

    /// PBKDF2-HMAC-SHA256 gives what RFC 7914, section 11, says.
    #[test]
    fn digest_gives_the_rfc_7914_vector() {
        let mut digest = [0; 64];
        memory_of(b"Password").digest(b"NaCl", 80_000, Hash::Sha256, &mut digest).unwrap();
        let expected = "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56\
                        a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d";
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    /// Only the right digest matches; one flipped bit, another salt, another length or hash do not.
    #[test]
    fn matches_only_the_right_digest() {
        let memory = memory_of(&[9; 64]);
        let mut digest = [0; 32];
        memory.digest(b"salt", 1000, Hash::Sha512, &mut digest).unwrap();
        assert!(memory.matches(b"salt", 1000, Hash::Sha512, &digest).unwrap());
        assert!(memory.matches(b"salt", 1000, Hash::Sha512, &digest[..16]).unwrap());
        assert!(!memory.matches(b"Salt", 1000, Hash::Sha512, &digest).unwrap());
        assert!(!memory.matches(b"salt", 1001, Hash::Sha512, &digest).unwrap());
        assert!(!memory.matches(b"salt", 1000, Hash::Sha256, &digest).unwrap());
        digest[31] ^= 1;
        assert!(!memory.matches(b"salt", 1000, Hash::Sha512, &digest).unwrap());
        assert!(memory.matches(b"salt", 0, Hash::Sha512, &digest).is_err());
        assert!(memory.matches(b"salt", 1000, Hash::Sha512, &[]).is_err());
    }
}
