//! What requests may do, changed while they come: read-only, suspended and back, and the end of a volume.
//!
//! A suspended volume has no request below its gate, everything acknowledged is durable, and who comes waits. That is the
//! one time at which the round keys can be taken away and brought back without any request noticing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ebscrypt_secret::{SecretMemory, XtsCipher, equal};
use parking_lot::Mutex;

use crate::gate::Volume;
use crate::open::SetupError;
use crate::{Access, Error, Result};

type Setup<T> = std::result::Result<T, SetupError>;

/// The volume's cipher, and how its key is known again.
pub(crate) struct Keyed {
    pub(crate) cipher: Arc<XtsCipher>,
    fingerprint: Mutex<[u8; 32]>,
}

impl Keyed {
    pub(crate) fn new(cipher: Arc<XtsCipher>) -> Setup<Keyed> {
        let fingerprint = cipher.fingerprint().map_err(|error| SetupError::from_io(error, "the cipher"))?;
        Ok(Keyed { cipher, fingerprint: Mutex::new(fingerprint) })
    }

    /// Expand the round keys again, from the same key only.
    fn restore(&self, key: &SecretMemory) -> Setup<()> {
        self.cipher.rekey(key).map_err(SetupError::from_key)?;
        let found = self.cipher.fingerprint().map_err(|error| SetupError::from_io(error, "the cipher"))?;
        if equal(&found, &*self.fingerprint.lock()) {
            return Ok(());
        }
        self.cipher.wipe();
        Err(SetupError::system(libc::EKEYREJECTED, "this is not the volume's data key"))
    }

    /// Let the key of `new` be the volume's; the old one is wiped. Nobody uses either at the moment.
    pub(crate) fn replace(&self, new: &XtsCipher) -> Result<()> {
        let fingerprint = new.fingerprint()?;
        self.cipher.exchange(new)?;
        new.wipe();
        *self.fingerprint.lock() = fingerprint;
        Ok(())
    }
}

/// What those know who change a volume's access, one at a time.
#[derive(Default)]
pub(crate) struct Control {
    wiped: bool,
}

impl Control {
    /// Whether the round keys were taken away.
    pub(crate) fn is_wiped(&self) -> bool {
        self.wiped
    }
}

impl Volume {
    /// What requests may do now. While a suspension begins it is `Suspended` already.
    #[must_use]
    pub fn access(&self) -> Access {
        if self.suspended.load(Ordering::SeqCst) {
            Access::Suspended
        } else if self.writable.load(Ordering::SeqCst) {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        }
    }

    /// Change what requests may do. When it returns, no request goes on that this access would not let in. `Suspended` is
    /// [`Volume::suspend`] with a flush; from it, the other two go on as [`Volume::resume`] without a key does.
    ///
    /// # Errors
    /// EPERM for `ReadWrite` where the volume was opened read-only; ENOKEY where the key was wiped; ESHUTDOWN once closed;
    /// what [`Volume::suspend`] says.
    pub fn set_access(&self, access: Access) -> Result<()> {
        if access == Access::Suspended {
            return self.suspend(false, true);
        }
        if self.read_only && access == Access::ReadWrite {
            return Err(Error::READ_ONLY);
        }
        let control = self.control.lock();
        self.check_open()?;
        if control.wiped {
            return Err(Error::NO_KEY);
        }
        let was_writable = self.writable.swap(access == Access::ReadWrite, Ordering::SeqCst);
        // Who was let in while it was writable is waited for, and who waits since a suspension is let in.
        let drain = was_writable && access == Access::ReadOnly;
        if drain && !self.below.hold() {
            return Err(Error::CLOSED);
        }
        self.suspended.store(false, Ordering::SeqCst);
        self.below.release();
        Ok(())
    }

    /// Let new requests wait and those under way finish; with `flush` make everything durable; with `wipe` take the round
    /// keys out of memory. Of a volume that is suspended already, what was left out the first time is done.
    ///
    /// # Errors
    /// ESHUTDOWN once closed, be it meanwhile. What the flush says: the volume is suspended, and wiped, all the same.
    pub fn suspend(&self, wipe: bool, flush: bool) -> Result<()> {
        let mut control = self.control.lock();
        self.suspended.store(true, Ordering::SeqCst);
        if !self.below.hold() {
            return Err(Error::CLOSED);
        }
        let below = self.below.enter_aside().ok_or(Error::CLOSED)?;
        let flushed = if flush && !self.read_only { below.flush() } else { Ok(()) };
        if let (true, Some(keyed)) = (wipe, &self.keyed) {
            keyed.cipher.wipe();
            if let Some(turning) = below.crypt.as_ref().and_then(|crypt| crypt.turning()) {
                turning.new.wipe();
            }
            control.wiped = true;
        }
        flushed
    }

    /// End a suspension: the access is what it was before. Where the round keys were wiped `key` is needed, and compared
    /// with the one before; without a suspension nothing happens.
    ///
    /// # Errors
    /// ENOKEY without a key where one is needed; EKEYREJECTED for another volume's; [`SetupError::Argument`] for one that
    /// cannot be a key, or is not needed; EBUSY where the keys were wiped in the middle of a re-encryption, which needs both
    /// of them: the volume must be opened anew. The volume stays suspended then. ESHUTDOWN once closed.
    pub fn resume(&self, key: Option<&SecretMemory>) -> Setup<()> {
        let system = |error: Error| SetupError::System(error.0, "the device cannot be resumed".to_owned());
        let mut control = self.control.lock();
        self.check_open().map_err(system)?;
        match (key, &self.keyed) {
            _ if control.wiped && self.reencrypted().map_err(system)?.is_some() => {
                return Err(SetupError::system(libc::EBUSY, "a re-encryption was under way: open the volume anew"));
            }
            (Some(key), Some(keyed)) if control.wiped => keyed.restore(key)?,
            (Some(_), _) => return Err(SetupError::Argument("a key was given, but none was wiped".to_owned())),
            (None, _) if control.wiped => return Err(system(Error::NO_KEY)),
            (None, _) => {}
        }
        control.wiped = false;
        self.suspended.store(false, Ordering::SeqCst);
        self.below.release();
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        self.below.enter_aside().map(drop).ok_or(Error::CLOSED)
    }

    /// Let no request in any more: those that wait at the gate, and those to come, fail with ESHUTDOWN. Those under way go
    /// on. [`Volume::close`] is still to be called.
    pub fn abort(&self) {
        self.below.shut();
        self.end_waits();
    }

    /// Those who are inside and wait for a block that is still to come shall not keep the end waiting.
    fn end_waits(&self) {
        if let Some(fill) = self.fill.upgrade() {
            fill.shut();
        }
    }

    /// Let no request in any more, wait for those under way, flush, wipe the round keys and close the backing. The
    /// second time it only waits for the first. A long discard or write-zeroes under way is cut off with an error, and so
    /// is whoever waits for a suspension to end.
    ///
    /// # Errors
    /// When the flush fails; all the rest is done nevertheless. The first call tells.
    pub fn close(&self) -> Result<()> {
        // First, so that a suspension that is just beginning gives up.
        self.abort();
        let _control = self.control.lock();
        let Some(below) = self.below.close() else { return Ok(()) };
        if let Some(fill) = &below.fill {
            // What cannot be settled now is supplied again; what was written the flush below tells.
            let _ = fill.settle_all();
        }
        let flushed = if self.read_only { Ok(()) } else { below.flush() };
        if let Some(keyed) = &self.keyed {
            keyed.cipher.wipe();
        }
        flushed
    }
}

#[cfg(test)]
mod tests;
