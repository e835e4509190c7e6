//! Finds the zeros in what was read, so that a structured reply tells them instead of sending them.
//!
//! Looking at the bytes beats asking the backing for its extents: data are told from zeros by the first word of a
//! block, while the question is a system call for every read, and zeros that are stored are found too.

/// Bytes of volume looked at together. A hole chunk costs the client 32 bytes and a branch; below this it is not worth
/// it.
pub const GRAIN: usize = 32 << 10;

/// A stretch of a read's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First byte, counted from the read's.
    pub start: usize,
    /// Bytes.
    pub length: usize,
    /// All of them zero.
    pub zero: bool,
}

/// The runs of `data` in order, which was read from `offset`; together they cover it. Bounds lie at multiples of
/// [`GRAIN`] of the volume.
pub fn runs(data: &[u8], offset: u64) -> impl Iterator<Item = Run> + '_ {
    let mut next = 0;
    let mut ahead = block(data, offset, 0);
    std::iter::from_fn(move || {
        let (zero, mut end) = ahead?;
        let start = next;
        loop {
            ahead = block(data, offset, end);
            match ahead {
                Some((same, stop)) if same == zero => end = stop,
                _ => break,
            }
        }
        next = end;
        Some(Run { start, length: end - start, zero })
    })
}

/// Whether the block at `start` is zero, and where it ends; None at the end of the data.
fn block(data: &[u8], offset: u64, start: usize) -> Option<(bool, usize)> {
    if start >= data.len() {
        return None;
    }
    let into = ((offset + start as u64) % GRAIN as u64) as usize;
    let end = data.len().min(start + GRAIN - into);
    Some((is_zero(&data[start..end]), end))
}

/// Whether all bytes are zero; the first few decide for nearly all data.
#[must_use]
pub fn is_zero(data: &[u8]) -> bool {
    // 64 bytes at a time compile to vector instructions, and the loop still ends at the first that is not zero.
    let lines = data.chunks_exact(64);
    let rest = lines.remainder();
    lines.map(|line| line.iter().fold(0, |sum, byte| sum | byte)).all(|sum| sum == 0)
        && rest.iter().all(|byte| *byte == 0)
}
