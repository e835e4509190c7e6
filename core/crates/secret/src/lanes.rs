//! Lanes: stacks in secret memory, on which everything runs that touches a key.
//!
//! There is a fixed number of them for the whole process, each behind a lock of its own. A thread takes its home lane,
//! or a free neighbour; with twice as many lanes as processors it waits only when all are busy, and then briefly, since
//! a lane is held for one batch of cipher work and never across a system call. What belongs to a lane (the cipher
//! contexts of each device) is guarded by the lane's lock too, so a request takes one uncontended lock for both.

use std::io;
use std::sync::OnceLock;

use parking_lot::{Mutex, MutexGuard};

use crate::fork;
use crate::mapping::{self, Mapping};
use crate::registers::{self, Clear};
use crate::threads::thread_number;

/// Bytes of a lane's stack. AWS-LC needs less than 2 KiB; a signal frame with AVX-512 and AMX state takes 11 KiB, and
/// the handler's own frames come on top. Pages are only taken when touched.
const STACK_SIZE: usize = 64 * 1024;

/// Lanes at most: 2 MiB of the 8 MiB that RLIMIT_MEMLOCK allows by default.
const MOST: usize = 32;

struct Lane {
    stack: Mapping,
    clear: Clear,
}

static LANES: OnceLock<Vec<Mutex<Lane>>> = OnceLock::new();
static MAKING: Mutex<()> = Mutex::new(());

/// Make the lanes if this is the first call, and say how many there are.
pub(crate) fn prepare() -> io::Result<usize> {
    if fork::forked() {
        return Err(io::Error::from_raw_os_error(libc::EBADFD));
    }
    let _only_one = MAKING.lock();
    if LANES.get().is_none() {
        let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let mut lanes = Vec::new();
        for _ in 0..(2 * processors).clamp(4, MOST) {
            let (_, _, stack) = mapping::allocate(STACK_SIZE)?;
            lanes.push(Mutex::new(Lane { stack, clear: registers::clear() }));
        }
        // Only this function sets it, under the lock: it cannot be set already.
        let _ = LANES.set(lanes);
    }
    Ok(LANES.get().map_or(0, Vec::len))
}

/// Run `work` on whichever lane is free; it is told which. Fails (EBADFD) when the lanes were never made or this is a
/// fork of the process that made them.
pub(crate) fn run<R>(work: impl FnOnce(usize) -> R) -> io::Result<R> {
    let lanes = usable()?;
    let home = thread_number() % lanes.len();
    for index in (home..lanes.len()).chain(0..home) {
        if let Some(lane) = lanes[index].try_lock() {
            return Ok(lane.run(|| work(index)));
        }
    }
    Ok(lanes[home].lock().run(|| work(home)))
}

/// Run `work` on lane `index`, waiting for it if need be, and leave its stack zeroed.
pub(crate) fn run_on<R>(index: usize, work: impl FnOnce() -> R) -> io::Result<R> {
    let lanes = usable()?;
    let mut lane: MutexGuard<'_, Lane> = lanes[index].lock();
    let result = lane.run(work);
    lane.stack.wipe();
    Ok(result)
}

fn usable() -> io::Result<&'static Vec<Mutex<Lane>>> {
    LANES.get().filter(|_| !fork::forked()).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADFD))
}

/// A piece of work and the place for what comes of it.
struct Errand<W, R> {
    work: Option<W>,
    result: Option<R>,
}

impl Lane {
    fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        let mut errand = Errand { work: Some(work), result: None };
        let trampoline = trampoline_of(&errand);
        // SAFETY: the stack ends page-aligned and is this lane's, whose lock is held; the trampoline is an `extern "C"`
        // function, out of which no panic unwinds, and gets the errand that it was made for.
        unsafe {
            let top = self.stack.start().add(self.stack.length());
            registers::call_on_stack(top, trampoline, (&raw mut errand).cast(), self.clear);
        }
        errand.result.expect("the trampoline has stored a result")
    }
}

fn trampoline_of<W: FnOnce() -> R, R>(_: &Errand<W, R>) -> unsafe extern "C" fn(*mut u8) {
    perform::<W, R>
}

unsafe extern "C" fn perform<W: FnOnce() -> R, R>(errand: *mut u8) {
    // SAFETY: `Lane::run` passes its own errand of exactly this type, and waits.
    let errand = unsafe { &mut *errand.cast::<Errand<W, R>>() };
    errand.result = errand.work.take().map(|work| work());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// The work runs on a stack inside the lane, gives its result back, and other threads use other lanes meanwhile.
    #[test]
    fn work_runs_on_the_lanes_own_stack() {
        let count = prepare().unwrap();
        assert!(count >= 4);
        let address = |_| {
            let local = 0_u8;
            std::hint::black_box(&raw const local) as usize
        };
        let here = address(0);
        let there = run(address).unwrap();
        assert!(here.abs_diff(there) > STACK_SIZE);

        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    run(|_| {
                        inside.fetch_add(1, Ordering::SeqCst);
                        while inside.load(Ordering::SeqCst) < 2 {
                            std::thread::yield_now();
                        }
                    })
                });
            }
        });
    }

    /// What a piece of work leaves on a lane's stack is gone after a visit with `run_on`.
    #[test]
    fn run_on_leaves_a_zeroed_stack() {
        prepare().unwrap();
        run_on(0, || std::hint::black_box([0xC3_u8; 4096])).unwrap();
        let lane = LANES.get().unwrap()[0].lock();
        // SAFETY: mapped for that length, and the lock is held.
        let stack = unsafe { std::slice::from_raw_parts(lane.stack.start(), lane.stack.length()) };
        assert!(stack.iter().all(|byte| *byte == 0));
    }
}
