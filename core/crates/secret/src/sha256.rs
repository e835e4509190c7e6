//! SHA-256, as fast as the processor has it. What is hashed here is no secret: it runs on the caller's own stack.

use std::mem::MaybeUninit;

use aws_lc_sys as aws;

/// Bytes of a digest.
pub const DIGEST_SIZE: usize = 32;

/// A digest in the making.
pub struct Sha256(aws::SHA256_CTX);

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256::new()
    }
}

impl Sha256 {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Sha256 {
        let mut context = MaybeUninit::uninit();
        // SAFETY: the call initialises the whole context, and cannot fail.
        unsafe {
            aws::SHA256_Init(context.as_mut_ptr());
            Sha256(context.assume_init())
        }
    }

    /// Append `data` to what is hashed.
    pub fn update(&mut self, data: &[u8]) {
        // SAFETY: the context is initialised, and the pointer valid for the length; cannot fail.
        unsafe { aws::SHA256_Update(&raw mut self.0, data.as_ptr().cast(), data.len()) };
    }

    /// The digest of everything.
    #[must_use]
    pub fn finish(mut self) -> [u8; DIGEST_SIZE] {
        let mut digest = [0; DIGEST_SIZE];
        // SAFETY: the context is initialised, and the digest has the size that is written; cannot fail.
        unsafe { aws::SHA256_Final(digest.as_mut_ptr(), &raw mut self.0) };
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(data: &[&[u8]]) -> String {
        let mut hash = Sha256::new();
        data.iter().for_each(|part| hash.update(part));
        hash.finish().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The examples of FIPS 180-2, appendix B, whole and in parts.
    #[test]
    fn fips_180_examples() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&[b"abc"]), abc);
        assert_eq!(hex(&[b"a", b"", b"bc"]), abc);
        let long = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
        assert_eq!(hex(&[b"abcdbcdecdefdefgefghfghighijhijk", b"ijkljklmklmnlmnomnopnopq"]), long);
    }
}
