//! The change file as the machine gives it: its place on the disk, and under which boot it is used.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::changes::{self, Changes};
use super::{BLOCK, BLOCKS};
use crate::descriptor::Descriptor;
use crate::open::SetupError;

/// Open the change file behind a duplicate of `fd` for a volume of `size` bytes. An empty file is a new one. What it will
/// need is allocated, so that a full disk does not end the tracking.
pub(crate) fn open(fd: BorrowedFd<'_>, size: u64) -> Result<Changes, SetupError> {
    check_size(size)?;
    let failed =
        |error| SetupError::from_io(error, "the change file must be a regular file, open for reading and writing");
    let file = Descriptor::new(fd, false).map_err(failed)?;
    let copy: fs::File = fd.try_clone_to_owned().map_err(failed)?.into();
    if !copy.metadata().map_err(failed)?.is_file() {
        return Err(SetupError::system(libc::EINVAL, "the change file must be a regular file"));
    }
    let copy: OwnedFd = copy.into();
    for part in changes::room(size) {
        let (start, length) = (part.start as libc::off_t, (part.end - part.start) as libc::off_t);
        // SAFETY: a plain system call on a descriptor that we own.
        if unsafe { libc::fallocate(copy.as_raw_fd(), 0, start, length) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(SetupError::from_io(error, "room for the change file"));
            }
        }
    }
    Changes::open(Box::new(file), boot_id(), size).map_err(|error| SetupError::from_io(error, "the change file"))
}

/// Refuse a volume that is too large to be tracked.
pub(crate) fn check_size(size: u64) -> Result<(), SetupError> {
    let most = BLOCKS * BLOCK;
    if size > most {
        return Err(SetupError::Argument(format!("size {size} is more than the {most} that can be tracked")));
    }
    Ok(())
}

/// What the kernel calls its present life; zeros where it does not say.
fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0).to_be_bytes()
}
