//! Zeroing that the compiler cannot leave out, and comparison that takes the same time for every content.

use std::arch::asm;

/// Zero `bytes`, certainly.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // SAFETY: the assembly is empty. It may read any memory as far as the compiler knows, the bytes above in
    // particular, so that the zeros have to be there.
    unsafe { asm!("/* {0} */", in(reg) bytes.as_ptr(), options(nostack, preserves_flags)) };
}

/// Whether two byte strings are equal, in a time that depends on their lengths only.
#[must_use]
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    // SAFETY: both ranges are valid for the length they are read with.
    left.len() == right.len()
        && unsafe { aws_lc_sys::CRYPTO_memcmp(left.as_ptr().cast(), right.as_ptr().cast(), left.len()) } == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All bytes are zero afterwards, at every length around a vector's.
    #[test]
    fn wipe_zeroes_all() {
        for length in 0..130 {
            let mut bytes = vec![0xFF; length];
            wipe(&mut bytes);
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    }

    /// Equality looks at every byte and at the length.
    #[test]
    fn equal_sees_each_byte() {
        let left = [7_u8; 64];
        assert!(equal(&left, &left.clone()));
        assert!(!equal(&left, &left[..63]));
        for index in 0..64 {
            let mut right = left;
            right[index] ^= 0x80;
            assert!(!equal(&left, &right));
        }
        assert!(equal(&[], &[]));
    }
}
