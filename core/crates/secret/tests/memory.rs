//! Secret memory: its two kinds, its descriptor, and what it refuses.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use ebscrypt_secret::{Hash, Kind, SecretMemory};

const KINDS: [Kind; 2] = [Kind::MemfdSecret, Kind::Memfd];

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// The content as far as it can be seen from outside: a digest.
fn digest(memory: &SecretMemory) -> [u8; 32] {
    let mut digest = [0; 32];
    memory.digest(b"salt", 1, Hash::Sha256, &mut digest).unwrap();
    digest
}

/// What was filled in through one mapping is there in another of the same descriptor, whichever kind it is; it outlives
/// the mapping through which it came, and ends for all with a wipe.
#[test]
fn adopted_descriptor_shares_the_content() {
    for kind in KINDS {
        let empty = digest(&SecretMemory::new(64).unwrap());
        let mut first = SecretMemory::with_kind(kind, 64).unwrap();
        let adopt =
            |memory: &SecretMemory| SecretMemory::adopt(memory.as_fd().try_clone_to_owned().unwrap(), 64).unwrap();
        let second = adopt(&first);
        assert_eq!(second.kind(), kind);
        first.fill(&[3; 64]).unwrap();
        let filled = digest(&first);
        assert_ne!(filled, empty);
        drop(first);
        assert_eq!(digest(&second), filled);
        let third = adopt(&second);
        second.wipe();
        assert_eq!(digest(&third), empty);
    }
}

/// A machine with memfd_secret uses it; its descriptor can be neither read nor resized.
#[test]
fn best_kind_is_taken_and_closed_to_read() {
    let memory = SecretMemory::new(64).unwrap();
    assert_eq!(memory.kind(), Kind::MemfdSecret);
    let mut file = File::from(memory.as_fd().try_clone_to_owned().unwrap());
    assert!(file.read(&mut [0; 8]).is_err());
    assert!(file.set_len(8192).is_err());
}

/// The fallback cannot be resized either: a shrink would turn into a SIGBUS of the daemon.
#[test]
fn fallback_cannot_be_resized() {
    let memory = SecretMemory::with_kind(Kind::Memfd, 64).unwrap();
    let file = File::from(memory.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(errno(file.set_len(0)), Some(libc::EPERM));
    assert_eq!(errno(file.set_len(1 << 20)), Some(libc::EPERM));
}

/// Of the two kinds, only memfd_secret is closed to a reader of /proc/self/mem.
#[test]
fn memfd_secret_cannot_be_read_through_proc() {
    let memory_file = OpenOptions::new().read(true).open("/proc/self/mem").unwrap();
    let maps = |kind: Kind| {
        let memory = SecretMemory::with_kind(kind, 64).unwrap();
        let inode = std::os::linux::fs::MetadataExt::st_ino(
            &File::from(memory.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap(),
        );
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.split_whitespace().nth(4) == Some(&inode.to_string())).unwrap();
        let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        memory_file.read_exact_at(&mut [0; 64], start).is_ok()
    };
    assert!(maps(Kind::Memfd));
    assert!(!maps(Kind::MemfdSecret));
}

/// A descriptor of anything else, or of another size, is refused.
#[test]
fn adopt_refuses_what_is_not_secret_memory() {
    let ordinary: OwnedFd = File::open("/proc/self/exe").unwrap().into();
    assert_eq!(errno(SecretMemory::adopt(ordinary, 64)), Some(libc::EINVAL));
    // SAFETY: a new descriptor, owned right away.
    let unsealed = unsafe {
        let fd = libc::memfd_create(c"x".as_ptr(), libc::MFD_CLOEXEC);
        libc::ftruncate(fd, 4096);
        <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd)
    };
    assert_eq!(errno(SecretMemory::adopt(unsealed, 64)), Some(libc::EINVAL));
    for kind in KINDS {
        let memory = SecretMemory::with_kind(kind, 64).unwrap();
        let other_size = memory.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(errno(SecretMemory::adopt(other_size, 8192)), Some(libc::EINVAL));
    }
    assert_eq!(errno(SecretMemory::new(0)), Some(libc::EINVAL));
    assert_eq!(errno(SecretMemory::new(usize::MAX)), Some(libc::EINVAL));
}

/// Only exactly as many bytes as there are can be filled in.
#[test]
fn fill_wants_the_exact_size() {
    let mut memory = SecretMemory::new(64).unwrap();
    let before = digest(&memory);
    assert_eq!(errno(memory.fill(&[1; 63])), Some(libc::EINVAL));
    assert_eq!(errno(memory.fill(&[1; 65])), Some(libc::EINVAL));
    assert_eq!(digest(&memory), before);
}

/// The descriptor does not survive an exec unless somebody wants it to.
#[test]
fn descriptor_is_close_on_exec() {
    for kind in KINDS {
        let memory = SecretMemory::with_kind(kind, 64).unwrap();
        // SAFETY: a plain query on an open descriptor.
        let flags = unsafe { libc::fcntl(memory.as_fd().as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

/// A child that goes on after fork without exec finds no key: every use fails, and cleaning up does not crash.
#[test]
fn fork_does_not_inherit_secrets() {
    let mut memory = SecretMemory::new(64).unwrap();
    memory.fill(&(0..64).collect::<Vec<u8>>()).unwrap();
    let cipher = ebscrypt_secret::XtsCipher::new(&memory).unwrap();
    // SAFETY: the child only uses what this test is about, and leaves by _exit.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let refused = memory.digest(b"", 1, Hash::Sha256, &mut [0; 32]).is_err()
                && memory.fill(&[0; 64]).is_err()
                && cipher.encrypt(&mut [0; 512], 512, 0).is_err();
            drop(cipher);
            drop(memory);
            libc::_exit(if refused { 42 } else { 1 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert!(libc::WIFEXITED(status), "the child died: {status:#x}");
        assert_eq!(libc::WEXITSTATUS(status), 42);
    }
    cipher.encrypt(&mut [0; 512], 512, 0).unwrap();
}
