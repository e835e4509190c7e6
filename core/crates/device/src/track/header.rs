//! The first sector of a change file, bytes to values and back.
//!
//! ```text
//!    0  magic, 16 bytes                    64  length of the base's name, 2 bytes
//!   16  version, 4 bytes                   66  the base's name, up to 128 bytes
//!   20  state: 1 clean, 2 in use           …   zeros
//!   24  active area: 0 or 1               480  SHA-256 of everything before
//!   32  boot id, 16 bytes
//! ```
//!
//! Numbers are little-endian. One sector is written whole or not at all; should one ever be torn, the digest tells.

use ebscrypt_secret::Sha256;

/// Bytes of the header.
pub(crate) const SIZE: usize = 512;
/// Bytes that the name of a base may have.
pub(crate) const LONGEST_BASE: usize = 128;

const MAGIC: &[u8; 16] = b"ebscrypt-changes";
const VERSION: u32 = 1;
const BASE: usize = 66;
const DIGEST: usize = 480;

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Closed in order: what the blocks' bits say is all there is.
    pub(crate) clean: bool,
    /// Which of the two areas counts.
    pub(crate) active: usize,
    /// Under which boot of which machine it was used last.
    pub(crate) boot: [u8; 16],
    /// The name of the state of the volume since which changes are noted; empty where everything counts as changed.
    pub(crate) base: String,
}

impl Header {
    pub(crate) fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, MAGIC);
        put(16, &VERSION.to_le_bytes());
        put(20, &(if self.clean { 1_u32 } else { 2 }).to_le_bytes());
        put(24, &u32::from(self.active == 1).to_le_bytes());
        put(32, &self.boot);
        let base = &self.base.as_bytes()[..self.base.len().min(LONGEST_BASE)];
        put(64, &(base.len() as u16).to_le_bytes());
        put(BASE, base);
        let digest = digest(&bytes);
        bytes[DIGEST..].copy_from_slice(&digest);
        bytes
    }

    /// None for anything but a header of this version that is whole.
    pub(crate) fn parse(bytes: &[u8; SIZE]) -> Option<Header> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..16] != *MAGIC || number(16) != VERSION || bytes[DIGEST..] != digest(bytes) {
            return None;
        }
        let length = usize::from(u16::from_le_bytes([bytes[64], bytes[65]]));
        let base = bytes[BASE..BASE + LONGEST_BASE].get(..length)?;
        let mut boot = [0; 16];
        boot.copy_from_slice(&bytes[32..48]);
        Some(Header {
            clean: number(20) == 1,
            active: usize::from(number(24) == 1),
            boot,
            base: String::from_utf8(base.to_vec()).ok()?,
        })
    }
}

fn digest(bytes: &[u8; SIZE]) -> [u8; SIZE - DIGEST] {
    let mut hash = Sha256::new();
    hash.update(&bytes[..DIGEST]);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header comes back as it went, and with any bit changed it is none.
    #[test]
    fn every_bit_counts() {
        for (clean, active) in [(true, 0), (false, 1)] {
            let header = Header { clean, active, boot: [7; 16], base: "snap-0123456789abcdef0".to_owned() };
            let bytes = header.to_bytes();
            assert_eq!(Header::parse(&bytes), Some(header));
            for bit in 0..SIZE * 8 {
                let mut wrong = bytes;
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Header::parse(&wrong), None, "bit {bit}");
            }
        }
        assert_eq!(Header::parse(&[0; SIZE]), None);
    }
}
