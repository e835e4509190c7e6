//! Giving up what only set-up needed: user, groups, capabilities, and the way back to them.

use std::ffi::{c_int, c_long, c_ulong};
use std::fs;
use std::io;

use crate::mapping::check;
use crate::process::forbid_dumps;

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: 64 capabilities in two words.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Become `uid`:`gid` (no change where they are the current ones), without supplementary groups and capabilities, and
/// never gain any again (no_new_privs).
///
/// The C library changes user and groups in every thread. Capabilities can only be dropped thread by thread, so threads
/// that run already must have lost theirs with the user id: if one still has any, the call fails (EBUSY). Call it
/// before threads are started where the user id stays the same.
///
/// # Errors
/// Whatever the kernel refuses. The process is then half way, and must end.
pub fn drop_privileges(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain system calls without pointers.
    let (old_uid, old_gid) = unsafe { (libc::getuid(), libc::getgid()) };
    drop_groups()?;
    drop_bounding_set()?;
    // SAFETY: as above. The group goes first, since a plain user could not change it any more.
    unsafe {
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    drop_capabilities()?;
    forbid_new_privileges()?;
    // The kernel makes a process dumpable again when its user id changes.
    forbid_dumps()?;
    verify_no_return(uid, gid, old_uid, old_gid)?;
    verify_threads()
}

fn drop_groups() -> io::Result<()> {
    // SAFETY: asks for the number only, and sets an empty list.
    unsafe {
        if libc::getgroups(0, std::ptr::null_mut()) == 0 {
            return Ok(());
        }
        match check(libc::setgroups(0, std::ptr::null())) {
            // A plain user cannot drop groups, and has no privileges of root's to drop either.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && libc::geteuid() != 0 => Ok(()),
            result => result,
        }
    }
}

/// What an execve could give back is bounded by this set.
fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..64 as c_ulong {
        // SAFETY: plain system calls without pointers.
        let (present, dropped) = unsafe {
            let present = libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0);
            (present, if present == 1 { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } else { 0 })
        };
        if present < 0 {
            // EINVAL: past the last capability that this kernel knows.
            break;
        }
        // Without CAP_SETPCAP the set cannot be changed; no_new_privs makes it moot then.
        if let Err(error) = check(dropped) {
            if error.raw_os_error() != Some(libc::EPERM) {
                return Err(error);
            }
        }
    }
    Ok(())
}

fn drop_capabilities() -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let none = [CapabilityWord::default(); 2];
    // SAFETY: the structures have the layout of version 3 and outlive the call.
    let result = unsafe {
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong;
        check(libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0))?;
        libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr())
    };
    check(c_int::from(result != 0))
}

/// Set no_new_privs for every thread. prctl sets it for the calling one; a system call filter that is spread over all
/// threads spreads it too. One that allows everything costs nothing: the kernel remembers constant answers, and is told
/// not to slow the processor's speculation down for it.
fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: a plain system call without pointers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as c_ulong, 0, 0, 0) })?;
    if fs::read_dir("/proc/self/task")?.count() == 1 {
        return Ok(());
    }
    let mut allow = libc::sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let program = libc::sock_fprog { len: 1, filter: &raw mut allow };
    // SAFETY: a program of one instruction, "return SECCOMP_RET_ALLOW" (BPF_RET is 6), that outlives the call.
    let result: c_long = unsafe {
        let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    match result {
        0 => Ok(()),
        failed if failed < 0 => Err(io::Error::last_os_error()),
        // The number of a thread that has a filter of its own and cannot be brought in line.
        _ => Err(io::Error::from_raw_os_error(libc::EBUSY)),
    }
}

/// Trying is the proof: neither the old user nor the old group can be had again.
fn verify_no_return(uid: u32, gid: u32, old_uid: u32, old_gid: u32) -> io::Result<()> {
    // SAFETY: plain system calls without pointers; one that succeeds makes the whole call fail.
    let back = unsafe {
        (old_uid != uid && libc::setresuid(old_uid, old_uid, old_uid) == 0)
            || (old_gid != gid && libc::setresgid(old_gid, old_gid, old_gid) == 0)
            || (uid != 0 && libc::setuid(0) == 0)
    };
    if back { Err(io::Error::from_raw_os_error(libc::EPERM)) } else { Ok(()) }
}

fn verify_threads() -> io::Result<()> {
    for thread in fs::read_dir("/proc/self/task")? {
        // A thread that ended meanwhile has no privileges left.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        for line in status.lines() {
            let kept = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"]
                .iter()
                .filter_map(|name| line.strip_prefix(name))
                .any(|set| set.trim().bytes().any(|digit| digit != b'0'));
            if kept || line.strip_prefix("NoNewPrivs:").is_some_and(|flag| flag.trim() != "1") {
                return Err(io::Error::from_raw_os_error(libc::EBUSY));
            }
        }
    }
    Ok(())
}
