//! A way in that can be closed: after that nobody enters, and whoever is inside is waited for.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ebscrypt_secret::thread_number;
use parking_lot::{Condvar, Mutex};

/// Counters of visitors; threads use different ones, so that entering does not make them contend for a cache line.
const SHARDS: usize = 32;

#[repr(align(64))]
struct Shard(AtomicUsize);

/// Guards a `T` that is used through shared references until it is taken out for good.
pub(crate) struct Turnstile<T> {
    shards: Box<[Shard]>,
    closed: AtomicBool,
    content: UnsafeCell<Option<T>>,
    closing: Mutex<()>,
    left: Condvar,
}

// SAFETY: the content is shared between visitors (hence `T: Sync`), and moved out (hence `T: Send`) only when there are
// none and can be none any more.
unsafe impl<T: Send + Sync> Sync for Turnstile<T> {}

/// A stay inside, until dropped.
pub(crate) struct Visit<'a, T> {
    turnstile: &'a Turnstile<T>,
    shard: &'a AtomicUsize,
    content: &'a T,
}

impl<T> Turnstile<T> {
    pub(crate) fn new(content: T) -> Turnstile<T> {
        let shards = (0..SHARDS).map(|_| Shard(AtomicUsize::new(0))).collect();
        let content = UnsafeCell::new(Some(content));
        Turnstile { shards, closed: AtomicBool::new(false), content, closing: Mutex::new(()), left: Condvar::new() }
    }

    /// Go in; none once closed.
    pub(crate) fn enter(&self) -> Option<Visit<'_, T>> {
        let shard = &self.shards[thread_number() % SHARDS].0;
        // Announce first, look afterwards, while `close` does the opposite; both sequentially consistent: at least one
        // of the two sees the other.
        shard.fetch_add(1, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.leave(shard);
            return None;
        }
        // SAFETY: `close` takes the content out only after it has set `closed` and then seen every counter at zero,
        // which ours is not.
        let content = unsafe { (*self.content.get()).as_ref() };
        match content {
            Some(content) => Some(Visit { turnstile: self, shard, content }),
            None => {
                self.leave(shard);
                None
            }
        }
    }

    /// Whether `close` has been called; whoever is inside may see to it that it need not wait long.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn leave(&self, shard: &AtomicUsize) {
        shard.fetch_sub(1, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            drop(self.closing.lock());
            self.left.notify_all();
        }
    }

    /// Let nobody in any more, wait for those inside, and take the content; none the second time. Whoever is inside
    /// must not call this.
    pub(crate) fn close(&self) -> Option<T> {
        let mut closing = self.closing.lock();
        self.closed.store(true, Ordering::SeqCst);
        while self.shards.iter().any(|shard| shard.0.load(Ordering::SeqCst) != 0) {
            self.left.wait(&mut closing);
        }
        // SAFETY: nobody is inside, nobody can come in, and other calls of `close` wait for the lock.
        unsafe { (*self.content.get()).take() }
    }
}

impl<T> std::ops::Deref for Visit<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.content
    }
}

impl<T> Drop for Visit<'_, T> {
    fn drop(&mut self) {
        self.turnstile.leave(self.shard);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Visitors under way are finished before the content comes out, and afterwards nobody gets in.
    #[test]
    fn close_waits_for_visitors() {
        for _ in 0..200 {
            let turnstile = Arc::new(Turnstile::new(AtomicU64::new(0)));
            let started = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (turnstile, started) = (turnstile.clone(), started.clone());
                    std::thread::spawn(move || {
                        let mut visits = 0;
                        while let Some(counter) = turnstile.enter() {
                            counter.fetch_add(1, Ordering::Relaxed);
                            visits += 1;
                            started.fetch_or(1, Ordering::Relaxed);
                        }
                        visits
                    })
                })
                .collect();
            while started.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let content = turnstile.close().unwrap();
            assert!(turnstile.enter().is_none());
            assert!(turnstile.close().is_none());
            let visits: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            assert_eq!(content.into_inner(), visits);
        }
    }
}
