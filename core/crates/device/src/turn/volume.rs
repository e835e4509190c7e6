//! Re-encryption of an open volume, for who steers it.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ebscrypt_secret::{SecretMemory, XtsCipher};

use super::Turning;
use super::journal::{Journal, zone_size};
use crate::backing::Backing;
use crate::descriptor::Descriptor;
use crate::gate::Volume;
use crate::open::SetupError;
use crate::{Device, Error, Result};

/// What a re-encryption needs besides the volume.
pub struct Reencryption<'a> {
    /// The new key. Not needed any more once it has begun.
    pub key: &'a SecretMemory,
    /// Where on the backing its journal is, in bytes from the backing's start. It has a progress already.
    pub journal: Range<u64>,
    /// What the journal is recognised by.
    pub id: [u8; 16],
}

type Setup<T> = std::result::Result<T, SetupError>;

impl Volume {
    /// Begin a re-encryption, or go on with one, of whose old key this volume was opened with: what its journal says was
    /// begun is finished, and from then on each sector is read and written with the key that it has. Nothing is turned
    /// before [`Volume::reencrypt_next`]. `fd` is the backing.
    ///
    /// # Errors
    /// EUCLEAN for a journal that has no progress of this id; EBUSY while there is another re-encryption or a snapshot;
    /// ENOKEY once the key was wiped; ESHUTDOWN once closed; EIO where the backing fails, or the volume does.
    /// [`SetupError::Argument`] for what cannot be a key, a journal without room, a volume that is not encrypted or was
    /// opened read-only.
    pub fn begin_reencryption(&self, fd: BorrowedFd<'_>, wanted: &Reencryption<'_>) -> Setup<()> {
        let backing = Descriptor::new(fd, false).map_err(|error| SetupError::from_io(error, "the backing"))?;
        self.begin_reencryption_on(Box::new(backing), wanted)
    }

    pub(crate) fn begin_reencryption_on(&self, backing: Box<dyn Backing>, wanted: &Reencryption<'_>) -> Setup<()> {
        let closed = || SetupError::system(Error::CLOSED.0, "the device is closed");
        let refused = |why: &str| Err(SetupError::Argument(why.to_owned()));
        let Range { start, end } = wanted.journal;
        let Some(zone) = zone_size(end.saturating_sub(start)).filter(|_| start % 4096 == 0) else {
            return refused("the journal has no room for a zone");
        };
        if self.read_only {
            return refused("what is opened read-only cannot be re-encrypted");
        }
        let Some(keyed) = &self.keyed else {
            return refused("what is not encrypted cannot be re-encrypted");
        };
        // Nobody suspends, resumes, closes or begins a snapshot meanwhile.
        let control = self.control.lock();
        if control.is_wiped() {
            return Err(SetupError::system(Error::NO_KEY.0, "the device cannot be re-encrypted"));
        }
        let new = Arc::new(XtsCipher::new(wanted.key).map_err(SetupError::from_key)?);
        let (journal, boundary) = Journal::open(backing, &wanted.journal, wanted.id)
            .map_err(|error| SetupError::from_io(error, "the journal of the re-encryption"))?;
        let Some(boundary) = boundary.filter(|boundary| *boundary <= self.size()) else {
            let what = "the journal of the re-encryption is not there: it was corrupted or tampered with";
            return Err(SetupError::system(libc::EUCLEAN, what));
        };
        if !self.below.hold() {
            return Err(closed());
        }
        let begun = self.below.enter_aside().ok_or_else(closed).and_then(|below| {
            let crypt = below.crypt.as_ref().ok_or_else(closed)?;
            if crypt.turning().is_some() || below.track.as_ref().is_some_and(|track| track.is_copying()) {
                return Err(SetupError::system(libc::EBUSY, "a snapshot or another re-encryption is under way"));
            }
            let ciphers = (Arc::clone(&keyed.cipher), new);
            let turning = Turning::new(ciphers, crypt.sector_size(), self.size(), zone, journal, boundary);
            let failed = |error: Error| SetupError::system(error.0, "the re-encryption cannot go on");
            turning.recover(crypt.below()).map_err(failed)?;
            crypt.set_turning(Some(Arc::new(turning)));
            Ok(())
        });
        if !self.suspended.load(Ordering::SeqCst) {
            self.below.release();
        }
        begun
    }

    /// Turn one zone, durably, and give how far it is then: all bytes before that have the new key. Requests go on
    /// meanwhile; those to the zone, 4 MiB at most, wait. At the end of the volume nothing happens.
    ///
    /// # Errors
    /// EINVAL where there is no re-encryption; ESHUTDOWN once closed; what the backing says. After EIO requests to the
    /// zone may fail until the volume is opened anew.
    pub fn reencrypt_next(&self) -> Result<u64> {
        // Through the gate: while it is held nothing goes on.
        let below = self.below.enter().ok_or(Error::CLOSED)?;
        let crypt = below.crypt.as_ref().ok_or(Error::INVALID)?;
        crypt.turning().ok_or(Error::INVALID)?.next(crypt.below())
    }

    /// How far it is; none where there is no re-encryption.
    ///
    /// # Errors
    /// ESHUTDOWN once closed.
    pub fn reencrypted(&self) -> Result<Option<u64>> {
        let below = self.below.enter_aside().ok_or(Error::CLOSED)?;
        Ok(below.crypt.as_ref().and_then(|crypt| crypt.turning()).map(|turning| turning.boundary()))
    }

    /// Let the new key be the volume's only one. The old one is wiped.
    ///
    /// # Errors
    /// EINVAL where there is no re-encryption, or it is not at its end; ENOKEY once the keys were wiped; ESHUTDOWN once
    /// closed.
    pub fn end_reencryption(&self) -> Result<()> {
        let control = self.control.lock();
        if control.is_wiped() {
            return Err(Error::NO_KEY);
        }
        if !self.below.hold() {
            return Err(Error::CLOSED);
        }
        let ended = self.below.enter_aside().ok_or(Error::CLOSED).and_then(|below| {
            let crypt = below.crypt.as_ref().ok_or(Error::INVALID)?;
            let turning = crypt.turning().filter(|turning| turning.is_done()).ok_or(Error::INVALID)?;
            self.keyed.as_ref().ok_or(Error::INVALID)?.replace(&turning.new)?;
            crypt.set_turning(None);
            Ok(())
        });
        if !self.suspended.load(Ordering::SeqCst) {
            self.below.release();
        }
        ended
    }
}
