//! Secret memory is not inherited by fork: a child that goes on without exec finds a hole where it was.
//!
//! The child must not touch that hole, so it has to know that it is one.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static FORKED: AtomicBool = AtomicBool::new(false);
static WATCH: Once = Once::new();

extern "C" fn in_child() {
    FORKED.store(true, Ordering::Relaxed);
}

/// Notice forks from now on; to be called before the first secret mapping is made.
pub(crate) fn watch() {
    WATCH.call_once(|| {
        // SAFETY: the handler only stores to an atomic, which is allowed between fork and exec.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// Whether this process is a fork of one that had secret memory, so that its mappings are gone.
pub(crate) fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}
