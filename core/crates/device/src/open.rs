//! The one function that assembles a stack.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use ebscrypt_secret::{SecretMemory, XtsCipher};

use crate::access::Keyed;
use crate::align::Align;
use crate::backing::Backing;
use crate::crypt::Crypt;
use crate::descriptor::Descriptor;
use crate::file::File;
use crate::fill::file::FillFile;
use crate::fill::{self, Fill, Filling};
use crate::gate::{Below, Volume, check_room, check_size};
use crate::track::changes::Changes;
use crate::track::{self, Track};
use crate::{Device, Error};

/// What a volume is to be.
pub struct Options<'a> {
    /// Bytes of the volume.
    pub size: u64,
    /// Where the volume begins in the backing.
    pub data_offset: u64,
    /// Bytes of a cipher sector, 512 or 4096; ignored without a key.
    pub sector_size: u32,
    /// Encrypts; without it the bytes are stored as they are. Not needed any more once the volume is open.
    pub key: Option<&'a SecretMemory>,
    /// Refuse everything that changes the volume.
    pub read_only: bool,
    /// Give discarded space back to the file system; otherwise discard does nothing.
    pub discard: bool,
}

/// How a volume whose blocks are still to come is to be filled.
pub struct FillOptions<'a> {
    /// The fill file, a regular file open for reading and writing, as [`crate::create_fill_file`] made it for this volume.
    pub file: BorrowedFd<'a>,
    /// How long a request waits for a block before it fails with EIO.
    pub patience: Duration,
}

/// Why a volume cannot be opened or grown so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetupError {
    /// An argument makes no sense.
    Argument(String),
    /// The machine refuses: errno, and what was tried.
    System(i32, String),
}

impl SetupError {
    pub(crate) fn system(errno: i32, message: &str) -> SetupError {
        SetupError::System(errno, message.to_owned())
    }

    pub(crate) fn from_io(error: io::Error, what: &str) -> SetupError {
        SetupError::System(Error::from(error).0, what.to_owned())
    }

    /// Why a key cannot be expanded.
    pub(crate) fn from_key(error: io::Error) -> SetupError {
        if error.raw_os_error() == Some(libc::EINVAL) {
            let wanted = ebscrypt_secret::KEY_SIZE;
            return SetupError::Argument(format!("the key is not {wanted} bytes whose two halves differ"));
        }
        SetupError::from_io(error, "secret memory for the round keys")
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::Argument(message) => write!(formatter, "{message}"),
            SetupError::System(errno, message) => write!(formatter, "{message}: {}", Error(*errno)),
        }
    }
}

impl std::error::Error for SetupError {}

/// Open a volume over a duplicate of `fd`, a regular file or block device. Whether it was opened with O_DIRECT is
/// noticed and honoured.
///
/// # Errors
/// [`SetupError`].
pub fn open(fd: BorrowedFd<'_>, options: &Options<'_>) -> Result<Volume, SetupError> {
    assemble(descriptor(fd, options)?, options)
}

/// The same with a change file, which from now on notes what changes, so that snapshots can be made.
///
/// # Errors
/// [`SetupError`], also for what is opened read-only, and for a volume beyond 64 TiB.
pub fn open_tracked(fd: BorrowedFd<'_>, changes: BorrowedFd<'_>, options: &Options<'_>) -> Result<Volume, SetupError> {
    let descriptor = descriptor(fd, options)?;
    assemble_tracked(descriptor, Some(open_changes(changes, options)?), options)
}

fn open_changes(changes: BorrowedFd<'_>, options: &Options<'_>) -> Result<Changes, SetupError> {
    if options.read_only {
        return Err(SetupError::Argument("a change file is of no use to a device that is opened read-only".to_owned()));
    }
    track::file::open(changes, options.size)
}

/// The same for a volume whose blocks are still to come, with a change file or without.
///
/// # Errors
/// [`SetupError`], also for what is opened read-only, and for a fill file that is none, or another volume's.
pub fn open_filling(
    fd: BorrowedFd<'_>,
    changes: Option<BorrowedFd<'_>>,
    fill: &FillOptions<'_>,
    options: &Options<'_>,
) -> Result<Volume, SetupError> {
    if options.read_only {
        return Err(SetupError::Argument("a volume that is still being filled cannot be opened read-only".to_owned()));
    }
    let descriptor = descriptor(fd, options)?;
    let changes = changes.map(|changes| open_changes(changes, options)).transpose()?;
    let filling = fill_file(fill)?;
    if filling.file.size != options.size {
        let (found, size) = (filling.file.size, options.size);
        return Err(SetupError::system(libc::EINVAL, &format!("the fill file is of {found} bytes, the volume {size}")));
    }
    assemble_filling(descriptor, changes, Some(filling), options)
}

fn fill_file(options: &FillOptions<'_>) -> Result<Filling, SetupError> {
    let failed = |error| SetupError::from_io(error, "the fill file must be one, and open for reading and writing");
    let file = Descriptor::new(options.file, false).map_err(failed)?;
    let (file, missing) = FillFile::open(Box::new(file)).map_err(failed)?;
    Ok(Filling { file, missing, patience: options.patience })
}

fn descriptor(fd: BorrowedFd<'_>, options: &Options<'_>) -> Result<Descriptor, SetupError> {
    Descriptor::new(fd, options.read_only).map_err(|error| {
        let wanted = if options.read_only { "for reading" } else { "for reading and writing, without O_APPEND" };
        SetupError::from_io(error, &format!("the backing must be a regular file or block device, open {wanted}"))
    })
}

pub(crate) fn assemble<B: Backing + 'static>(backing: B, options: &Options<'_>) -> Result<Volume, SetupError> {
    assemble_tracked(backing, None, options)
}

pub(crate) fn assemble_tracked<B: Backing + 'static>(
    backing: B,
    changes: Option<Changes>,
    options: &Options<'_>,
) -> Result<Volume, SetupError> {
    assemble_filling(backing, changes, None, options)
}

/// Gate, align, crypt, track, fill, file: each only where it has something to do.
pub(crate) fn assemble_filling<B: Backing + 'static>(
    backing: B,
    changes: Option<Changes>,
    filling: Option<Filling>,
    options: &Options<'_>,
) -> Result<Volume, SetupError> {
    let demands = backing.demands();
    let sector_size = options.sector_size;
    let unit = match options.key {
        None => demands.offset,
        Some(_) if matches!(sector_size, 512 | 4096) => demands.offset.max(sector_size),
        Some(_) => return Err(SetupError::Argument(format!("sector size {sector_size} is not one of 512 and 4096"))),
    };
    check_size(options.size, unit)?;
    if options.data_offset % u64::from(unit) != 0 {
        let offset = options.data_offset;
        return Err(SetupError::Argument(format!("data offset {offset} is not a multiple of {unit}")));
    }
    let length = backing.length().map_err(|error| SetupError::from_io(error, "the size of the backing"))?;
    check_room(options.size, length.saturating_sub(options.data_offset))?;

    let cipher = options.key.map(XtsCipher::new).transpose().map_err(SetupError::from_key)?.map(Arc::new);
    let file = File::new(backing, options.data_offset, unit, options.read_only, options.discard);
    let (bottom, fill): (Box<dyn Device>, _) = match filling {
        None => (Box::new(file), None),
        Some(filling) => {
            let fill = Arc::new(Fill::new(Box::new(file), filling, options.discard));
            (Box::new(fill::Shared(Arc::clone(&fill))), Some(fill))
        }
    };
    let (mut top, track) = match changes {
        None => (bottom, None),
        Some(changes) => {
            let track = Arc::new(Track::new(bottom, changes));
            (Box::new(Arc::clone(&track)) as Box<dyn Device>, Some(track))
        }
    };
    let mut crypt = None;
    if let Some(cipher) = &cipher {
        let layer = Arc::new(Crypt::new(top, Arc::clone(cipher), sector_size as usize, options.discard));
        top = Box::new(Arc::clone(&layer));
        crypt = Some(layer);
    }
    if unit > 1 || demands.memory > 1 {
        top = Box::new(Align::new(top, demands.memory));
    }
    Ok(Volume::new(Below::new(top, track, crypt, fill), cipher.map(Keyed::new).transpose()?, options.size))
}

#[cfg(test)]
mod tests;
