//! Locks over ranges of the volume, striped: what a request locks depends on where it is, and far requests rarely meet.

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes that share a lock.
const WIDTH: u64 = 256 * 1024;

/// Locks. Regions that are this many widths apart share one, which costs time but no correctness.
const COUNT: usize = 64;

/// A lock on a cache line of its own.
#[repr(align(64))]
struct Stripe(RwLock<()>);

/// The locks of one volume.
pub(crate) struct Stripes(Box<[Stripe; COUNT]>);

/// Held until dropped: nobody else has the range exclusively.
pub(crate) struct Shared<'a> {
    _guards: [Option<RwLockReadGuard<'a, ()>>; COUNT],
}

/// Held until dropped: nobody else has the range at all.
pub(crate) struct Exclusive<'a> {
    _guards: [Option<RwLockWriteGuard<'a, ()>>; COUNT],
}

impl Stripes {
    pub(crate) fn new() -> Stripes {
        Stripes(Box::new(std::array::from_fn(|_| Stripe(RwLock::new(())))))
    }

    /// Wait until nobody holds any of the range exclusively, and keep it so.
    pub(crate) fn share(&self, offset: u64, length: u64) -> Shared<'_> {
        let touched = touched(offset, length);
        // Everybody locks in the order of the index: so nobody waits in a circle.
        Shared { _guards: std::array::from_fn(|index| touched(index).then(|| self.0[index].0.read())) }
    }

    /// Wait until nobody holds any of the range, and keep it so.
    pub(crate) fn exclude(&self, offset: u64, length: u64) -> Exclusive<'_> {
        let touched = touched(offset, length);
        Exclusive { _guards: std::array::from_fn(|index| touched(index).then(|| self.0[index].0.write())) }
    }
}

/// Whether a stripe, by its index, belongs to a range.
fn touched(offset: u64, length: u64) -> impl Fn(usize) -> bool {
    let first = offset / WIDTH;
    let further = (offset + length.max(1) - 1) / WIDTH - first;
    let first = (first % COUNT as u64) as usize;
    move |index| ((index + COUNT - first) % COUNT) as u64 <= further
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(stripes: &Stripes) -> Vec<usize> {
        (0..COUNT).filter(|index| stripes.0[*index].0.is_locked()).collect()
    }

    /// A range locks the stripes that it touches, round the end as well, and lets all of them go.
    #[test]
    fn a_range_locks_what_it_touches() {
        let stripes = Stripes::new();
        let last = COUNT as u64 - 1;
        let cases = [
            (0, 1, vec![0]),
            (WIDTH - 1, 2, vec![0, 1]),
            (WIDTH, WIDTH, vec![1]),
            (last * WIDTH, 2 * WIDTH, vec![0, COUNT - 1]),
            (7 * WIDTH + COUNT as u64 * WIDTH, 0, vec![7]),
            (3, 64 << 40, (0..COUNT).collect()),
        ];
        for (offset, length, expected) in cases {
            let shared = stripes.share(offset, length);
            assert_eq!(locked(&stripes), expected);
            drop(shared);
            let exclusive = stripes.exclude(offset, length);
            assert_eq!(locked(&stripes), expected);
            drop(exclusive);
            assert_eq!(locked(&stripes), Vec::<usize>::new());
        }
    }
}
