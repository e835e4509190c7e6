//! What a process must do before it may hold a key.

use std::ffi::{c_int, c_ulong};
use std::io;

use crate::mapping::check;

/// From linux/prctl.h (Linux 5.6); the libc crate does not have it.
const PR_SET_IO_FLUSHER: c_int = 57;

/// Keep this process's memory out of core files and other processes' reach; on wish, out of swap, and marked as one
/// that memory reclaim must not wait for.
///
/// To be called before threads are started, since the kernel keeps the latter mark by thread. What the machine does
/// not allow of the wishes comes back as notes for the user, one sentence each.
///
/// # Errors
/// When PR_SET_DUMPABLE or RLIMIT_CORE cannot be set: then the process must not take a key.
pub fn harden_process(lock_memory: bool, io_flusher: bool) -> io::Result<Vec<String>> {
    forbid_dumps()?;
    let mut notes = Vec::new();
    if lock_memory {
        if let Err(reason) = lock_all_memory() {
            notes.push(format!("memory is not locked, request data may reach swap (keys never do): {reason}"));
        }
    }
    if io_flusher {
        // SAFETY: a plain system call without pointers.
        if let Err(error) = check(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1 as c_ulong, 0, 0, 0) }) {
            notes.push(format!(
                "memory reclaim may wait for this process (PR_SET_IO_FLUSHER needs CAP_SYS_RESOURCE): {error}"
            ));
        }
    }
    Ok(notes)
}

/// No core file, no ptrace and no /proc/PID/mem for other processes of the same user. An execve and a change of the
/// user id undo it.
pub(crate) fn forbid_dumps() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls; the structure outlives the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0 as c_ulong, 0, 0, 0))?;
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const none))
    }
}

/// Lock what is mapped now and later, page by page as it is touched.
///
/// Only without a limit: once CAP_IPC_LOCK is dropped, a finite RLIMIT_MEMLOCK would let later allocations fail.
fn lock_all_memory() -> Result<(), String> {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    let mut limit = unlimited;
    // SAFETY: plain system calls; the structures outlive the calls.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) != 0 {
            check(libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit)).map_err(|error| error.to_string())?;
        }
        if limit.rlim_cur != libc::RLIM_INFINITY {
            return Err(format!("RLIMIT_MEMLOCK is {} bytes and must be unlimited", limit.rlim_cur));
        }
        check(libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT))
            .map_err(|error| error.to_string())
    }
}
