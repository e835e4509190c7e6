//! A way in that can be barred: for a while, so that who comes waits, or for good, so that nobody enters any more. Either
//! way whoever is inside is waited for.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use ebscrypt_secret::thread_number;
use parking_lot::{Condvar, Mutex, MutexGuard};

/// Counters of visitors; threads use different ones, so that entering does not make them contend for a cache line.
const SHARDS: usize = 32;

/// What stands before who comes: nothing, a bar that will be lifted, a bar for good.
const OPEN: u8 = 0;
const HELD: u8 = 1;
const CLOSED: u8 = 2;

#[repr(align(64))]
struct Shard(AtomicUsize);

/// Guards a `T` that is used through shared references until it is taken out for good.
pub(crate) struct Turnstile<T> {
    shards: Box<[Shard]>,
    bar: AtomicU8,
    content: UnsafeCell<Option<T>>,
    /// Held while the bar changes, and by who waits for that or for the last visitor to leave.
    changing: Mutex<()>,
    left: Condvar,
    changed: Condvar,
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
        let (bar, content, changing) = (AtomicU8::new(OPEN), UnsafeCell::new(Some(content)), Mutex::new(()));
        Turnstile { shards, bar, content, changing, left: Condvar::new(), changed: Condvar::new() }
    }

    /// Go in, after waiting while the turnstile is held; none once closed.
    pub(crate) fn enter(&self) -> Option<Visit<'_, T>> {
        loop {
            match self.try_enter(OPEN) {
                Ok(visit) => return Some(visit),
                Err(HELD) => self.wait_while_held(),
                Err(_) => return None,
            }
        }
    }

    /// Go in by the side door, which is open while the turnstile is held too; none once closed.
    pub(crate) fn enter_aside(&self) -> Option<Visit<'_, T>> {
        self.try_enter(HELD).ok()
    }

    /// Go in where the bar is `highest` at most, or say what it is.
    fn try_enter(&self, highest: u8) -> Result<Visit<'_, T>, u8> {
        let shard = &self.shards[thread_number() % SHARDS].0;
        // Announce first, look afterwards, while `hold` and `close` do the opposite; both sequentially consistent: at
        // least one of the two sees the other.
        shard.fetch_add(1, Ordering::SeqCst);
        let bar = self.bar.load(Ordering::SeqCst);
        if bar > highest {
            self.leave(shard);
            return Err(bar);
        }
        // SAFETY: `close` takes the content out only after it has set the bar and then seen every counter at zero, which
        // ours is not.
        let content = unsafe { (*self.content.get()).as_ref() };
        match content {
            Some(content) => Ok(Visit { turnstile: self, shard, content }),
            None => {
                self.leave(shard);
                Err(CLOSED)
            }
        }
    }

    /// Whether somebody waits for those inside, who may see to it that this need not take long.
    pub(crate) fn is_barred(&self) -> bool {
        self.bar.load(Ordering::SeqCst) != OPEN
    }

    #[cold]
    fn wait_while_held(&self) {
        let mut changing = self.changing.lock();
        while self.bar.load(Ordering::SeqCst) == HELD {
            self.changed.wait(&mut changing);
        }
    }

    fn leave(&self, shard: &AtomicUsize) {
        shard.fetch_sub(1, Ordering::SeqCst);
        if self.is_barred() {
            drop(self.changing.lock());
            self.left.notify_all();
        }
    }

    fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.0.load(Ordering::SeqCst) == 0)
    }

    /// Let who comes wait, and return when nobody is inside: true. False once closed, be it meanwhile. Whoever is inside
    /// must not call this.
    pub(crate) fn hold(&self) -> bool {
        let mut changing = self.changing.lock();
        if self.bar.load(Ordering::SeqCst) == CLOSED {
            return false;
        }
        self.bar.store(HELD, Ordering::SeqCst);
        while self.bar.load(Ordering::SeqCst) == HELD && !self.is_empty() {
            self.left.wait(&mut changing);
        }
        self.bar.load(Ordering::SeqCst) == HELD
    }

    /// Let those in who wait. Nothing happens once closed.
    pub(crate) fn release(&self) {
        let _changing = self.changing.lock();
        if self.bar.load(Ordering::SeqCst) == HELD {
            self.bar.store(OPEN, Ordering::SeqCst);
            self.changed.notify_all();
        }
    }

    /// Let nobody in any more, those who wait among them, and do not wait for those inside.
    pub(crate) fn shut(&self) {
        drop(self.bar_for_good());
    }

    fn bar_for_good(&self) -> MutexGuard<'_, ()> {
        let changing = self.changing.lock();
        self.bar.store(CLOSED, Ordering::SeqCst);
        self.changed.notify_all();
        self.left.notify_all();
        changing
    }

    /// Let nobody in any more, wait for those inside, and take the content; none the second time. Whoever is inside
    /// must not call this.
    pub(crate) fn close(&self) -> Option<T> {
        let mut changing = self.bar_for_good();
        while !self.is_empty() {
            self.left.wait(&mut changing);
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

    /// While held nobody is inside and who comes waits; let in again, everybody goes on where he was.
    #[test]
    fn hold_keeps_everybody_out() {
        let turnstile = Turnstile::new(AtomicU64::new(0));
        let stop = AtomicU8::new(0);
        std::thread::scope(|scope| {
            let visitor = || {
                let mut visits = 0;
                while stop.load(Ordering::Relaxed) == 0 {
                    turnstile.enter().unwrap().fetch_add(1, Ordering::Relaxed);
                    visits += 1;
                }
                visits
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(visitor)).collect();
            for _ in 0..200 {
                assert!(turnstile.hold());
                let before = turnstile.enter_aside().unwrap().load(Ordering::Relaxed);
                std::thread::yield_now();
                assert_eq!(turnstile.enter_aside().unwrap().load(Ordering::Relaxed), before);
                turnstile.release();
                while turnstile.enter().unwrap().load(Ordering::Relaxed) == before {
                    std::thread::yield_now();
                }
            }
            stop.store(1, Ordering::Relaxed);
            let visits: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            assert_eq!(turnstile.close().unwrap().into_inner(), visits);
        });
    }

    /// Closing ends every kind of wait: who waits to come in goes away, and `hold`, waiting for a visitor, gives up.
    #[test]
    fn close_ends_waits() {
        let turnstile = Turnstile::new(());
        std::thread::scope(|scope| {
            assert!(turnstile.hold());
            let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| turnstile.enter().is_none())).collect();
            let aside = turnstile.enter_aside().unwrap();
            let holding = scope.spawn(|| turnstile.hold());
            turnstile.shut();
            assert!(!holding.join().unwrap());
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
            assert!(turnstile.enter_aside().is_none());
            drop(aside);
            turnstile.release();
            assert!(turnstile.enter().is_none());
            assert_eq!(turnstile.close(), Some(()));
        });
    }
}
