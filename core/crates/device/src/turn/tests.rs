//! Whatever ends a re-encryption where, no acknowledged byte is lost, and it goes on.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::thread;

use ebscrypt_secret::SecretMemory;

use super::journal::{Journal, zone_size};
use super::*;
use crate::ZeroFlags;
use crate::gate::Volume;
use crate::open::{Options, SetupError, assemble};
use crate::track::disk::{Attached, Chance, Disk};

const LAZY: WriteFlags = WriteFlags { fua: false };
const SECTOR: u64 = 4096;
const ZONE: u64 = 64 * 1024;
/// The journal has room for the smallest zone, so that a small volume has several.
const JOURNAL: Range<u64> = 32768..32768 + 12288 + ZONE;
const DATA: u64 = 128 * 1024;
const ID: [u8; 16] = [7; 16];

fn key(first: u8) -> SecretMemory {
    let mut key = SecretMemory::new(64).unwrap();
    key.fill(&(first..first + 64).collect::<Vec<u8>>()).unwrap();
    key
}

fn open(disk: &Arc<Disk>, key: &SecretMemory) -> Volume {
    let size = disk.size - DATA;
    let options =
        Options { size, data_offset: DATA, sector_size: 4096, key: Some(key), read_only: false, discard: true };
    assemble(Attached(Arc::clone(disk)), &options).unwrap()
}

fn begin(volume: &Volume, disk: &Arc<Disk>) -> Result<(), SetupError> {
    let wanted = Reencryption { key: &key(100), journal: JOURNAL, id: ID };
    volume.begin_reencryption_on(Box::new(Attached(Arc::clone(disk))), &wanted)
}

type Result<T, E> = std::result::Result<T, E>;

fn format(disk: &Arc<Disk>) {
    let (mut journal, found) = Journal::open(Box::new(Attached(Arc::clone(disk))), &JOURNAL, ID).unwrap();
    assert_eq!(found, None);
    journal.write_progress(0).unwrap();
    crate::backing::Backing::sync(&Attached(Arc::clone(disk))).unwrap();
}

/// A volume that is used while it is re-encrypted, and what each of its sectors has to read as.
struct World {
    disk: Arc<Disk>,
    /// One byte for each sector, and whether the last write of it may have been lost or torn.
    sectors: Vec<(u8, bool)>,
    chance: Chance,
}

impl World {
    /// Six zones and a bit; the second is a hole, the fourth and fifth are, and so is much of the rest.
    fn new(seed: u64) -> World {
        let sectors = 6 * ZONE / SECTOR + 3;
        let disk = Disk::new(DATA + sectors * SECTOR);
        format(&disk);
        let volume = open(&disk, &key(0));
        let mut world = World { disk, sectors: vec![(0, false); sectors as usize], chance: Chance(seed * 2 + 1) };
        for sector in (0..sectors).filter(|sector| !matches!(sector / 16, 1 | 3 | 4) && sector % 3 > 0) {
            world.write(&volume, sector, sector as u8 | 1).unwrap();
        }
        world.flush(&volume).unwrap();
        volume.close().unwrap();
        world
    }

    fn write(&mut self, volume: &Volume, sector: u64, byte: u8) -> crate::Result<()> {
        // Before it is tried: what fails may have happened all the same.
        self.sectors[sector as usize] = (byte, true);
        volume.write(&mut [byte; SECTOR as usize], sector * SECTOR, LAZY)
    }

    fn flush(&mut self, volume: &Volume) -> crate::Result<()> {
        volume.flush()?;
        self.sectors.iter_mut().for_each(|sector| sector.1 = false);
        Ok(())
    }

    /// One request of a user.
    fn step(&mut self, volume: &Volume) -> crate::Result<()> {
        let sector = self.chance.below(self.sectors.len() as u64);
        match self.chance.below(8) {
            0..3 => self.write(volume, sector, self.sectors[sector as usize].0.wrapping_add(3)),
            3 => {
                self.sectors[sector as usize].1 = true;
                let byte = self.sectors[sector as usize].0.wrapping_add(5);
                volume.write(&mut [byte; SECTOR as usize], sector * SECTOR, WriteFlags { fua: true })?;
                self.sectors[sector as usize] = (byte, false);
                Ok(())
            }
            4 => {
                self.sectors[sector as usize] = (0, true);
                volume.discard(sector * SECTOR, SECTOR, LAZY)
            }
            5 => self.flush(volume),
            _ => Ok(()),
        }
    }

    /// Use the volume and re-encrypt it, to the end or to the first failure.
    fn run(&mut self, volume: &Volume) -> crate::Result<()> {
        while volume.reencrypt_next()? < volume.size() {
            for _ in 0..3 {
                self.step(volume)?;
            }
        }
        self.flush(volume)
    }

    /// Every sector is what it has to be. What may have been lost or torn is settled by writing it again.
    fn check(&mut self, volume: &Volume, exactly: bool) {
        for sector in 0..self.sectors.len() as u64 {
            let (byte, open) = self.sectors[sector as usize];
            let mut found = [0; SECTOR as usize];
            volume.read(&mut found, sector * SECTOR).unwrap();
            if open && !exactly {
                self.write(volume, sector, byte).unwrap();
            } else {
                assert!(found.iter().all(|other| *other == byte), "sector {sector}: {} instead of {byte}", found[0]);
            }
        }
        self.flush(volume).unwrap();
    }
}

/// The machine stops at every single call of a re-encryption in use, and what the disk had not synced is lost at random:
/// nothing that was made durable is, it goes on, and in the end the new key alone opens everything.
#[test]
fn every_power_cut_is_survived() {
    let mut cuts = 0;
    for calls in 0.. {
        let mut world = World::new(calls);
        let volume = open(&world.disk, &key(0));
        begin(&volume, &world.disk).unwrap();
        world.disk.stop_after(Some(calls));
        let ended = world.run(&volume);
        drop(volume);
        world.disk.stop_after(None);
        if ended.is_ok() {
            break;
        }
        world.disk.cut_power(&mut world.chance);
        cuts += 1;
        // The recovery is cut off too, a little later each time.
        let volume = open(&world.disk, &key(0));
        world.disk.stop_after(Some(calls % 5));
        let _ = begin(&volume, &world.disk);
        drop(volume);
        world.disk.stop_after(None);
        world.disk.cut_power(&mut world.chance);

        let volume = open(&world.disk, &key(0));
        begin(&volume, &world.disk).unwrap();
        world.check(&volume, false);
        world.run(&volume).unwrap();
        volume.end_reencryption().unwrap();
        world.check(&volume, true);
        volume.close().unwrap();
        let volume = open(&world.disk, &key(100));
        world.check(&volume, true);
    }
    assert!(cuts > 40, "{cuts}");
}

/// Where only the process dies, nothing that was acknowledged is lost at all, flushed or not.
#[test]
fn every_kill_is_survived() {
    for calls in 0.. {
        let mut world = World::new(calls);
        let volume = open(&world.disk, &key(0));
        begin(&volume, &world.disk).unwrap();
        let before = world.sectors.clone();
        world.disk.stop_after(Some(calls));
        let ended = loop {
            match volume.reencrypt_next() {
                Ok(boundary) if boundary < volume.size() => {}
                other => break other,
            }
        };
        drop(volume);
        world.disk.stop_after(None);
        let volume = open(&world.disk, &key(0));
        begin(&volume, &world.disk).unwrap();
        assert_eq!(world.sectors, before);
        world.check(&volume, true);
        if ended.is_ok() {
            break;
        }
        world.run(&volume).unwrap();
        world.check(&volume, true);
    }
}

/// Under threads that read, write and discard without pause each finds what it wrote, long ranges get their turn, and the
/// whole volume has the new key in the end.
#[test]
fn nobody_notices() {
    const THREADS: u64 = 3;
    const EACH: u64 = 40;
    let disk = Disk::new(DATA + THREADS * EACH * SECTOR);
    format(&disk);
    let volume = open(&disk, &key(0));
    begin(&volume, &disk).unwrap();
    let stop = AtomicBool::new(false);
    let bytes: Vec<u8> = thread::scope(|scope| {
        let user = |number: u64| {
            let (volume, stop) = (&volume, &stop);
            move || {
                let (mut chance, mut model) = (Chance(number + 1), vec![0; EACH as usize]);
                let start = number * EACH;
                let mut rounds = 0;
                while !stop.load(Ordering::SeqCst) || rounds < 50 {
                    rounds += 1;
                    let (first, count) = (chance.below(EACH - 5), chance.below(5) + 1);
                    let range = first as usize..(first + count) as usize;
                    let (offset, length) = ((start + first) * SECTOR, (count * SECTOR) as usize);
                    let byte = chance.below(256) as u8;
                    match chance.below(4) {
                        0 => {
                            volume.write(&mut vec![byte; length], offset, LAZY).unwrap();
                            model[range].fill(byte);
                        }
                        1 => {
                            volume.write_zeroes(offset, length as u64, ZeroFlags::default()).unwrap();
                            model[range].fill(0);
                        }
                        2 if chance.below(20) == 0 => {
                            volume.discard(start * SECTOR, EACH * SECTOR, LAZY).unwrap();
                            model.fill(0);
                        }
                        _ => {
                            let mut found = vec![0; length];
                            volume.read(&mut found, offset).unwrap();
                            let wanted = |at: usize| model[first as usize + at / SECTOR as usize];
                            assert!(found.iter().enumerate().all(|(at, other)| *other == wanted(at)));
                        }
                    }
                }
                model
            }
        };
        let users: Vec<_> = (0..THREADS).map(|number| scope.spawn(user(number))).collect();
        while volume.reencrypt_next().unwrap() < volume.size() {
            thread::yield_now();
        }
        volume.end_reencryption().unwrap();
        stop.store(true, Ordering::SeqCst);
        users.into_iter().flat_map(|user| user.join().unwrap()).collect()
    });
    volume.close().unwrap();
    let volume = open(&disk, &key(100));
    for (byte, sector) in bytes.iter().zip(0..) {
        let mut found = [0; SECTOR as usize];
        volume.read(&mut found, sector * SECTOR).unwrap();
        assert_eq!(found, [*byte; SECTOR as usize]);
    }
}

/// A durable write to a zone that was just turned is never undone by the record of that zone.
#[test]
fn what_comes_after_a_zone_stays() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        let volume = open(&world.disk, &key(0));
        begin(&volume, &world.disk).unwrap();
        assert_eq!(volume.reencrypt_next(), Ok(ZONE));
        volume.write(&mut [99; SECTOR as usize], SECTOR, WriteFlags { fua: true }).unwrap();
        world.sectors[1] = (99, false);
        drop(volume);
        world.disk.cut_power(&mut world.chance);
        let volume = open(&world.disk, &key(0));
        begin(&volume, &world.disk).unwrap();
        world.check(&volume, true);
    }
}

/// A zone is not begun while a request to it is under way, whose sectors have the key that it found.
#[test]
fn requests_under_way_are_waited_for() {
    let world = World::new(1);
    let volume = open(&world.disk, &key(0));
    begin(&volume, &world.disk).unwrap();
    let turning = volume.below.enter().unwrap().crypt.as_ref().unwrap().turning().unwrap();
    thread::scope(|scope| {
        let stay = turning.enter(ZONE - SECTOR, SECTOR).unwrap();
        let next = scope.spawn(|| volume.reencrypt_next());
        for _ in 0..20 {
            thread::sleep(std::time::Duration::from_millis(1));
            assert_eq!(turning.boundary(), 0);
            assert!(!next.is_finished());
        }
        drop(stay);
        assert_eq!(next.join().unwrap(), Ok(ZONE));
    });
}

/// Where a zone cannot be finished its requests fail, all others go on, and the next opening finishes it.
#[test]
fn a_zone_that_cannot_be_finished_is_kept_shut() {
    let mut world = World::new(3);
    let volume = open(&world.disk, &key(0));
    begin(&volume, &world.disk).unwrap();
    // The record is durable; the write in place fails.
    world.disk.stop_after(Some(2));
    assert_eq!(volume.reencrypt_next(), Err(Error::IO));
    world.disk.stop_after(None);
    let mut sector = [0; SECTOR as usize];
    assert_eq!(volume.read(&mut sector, SECTOR), Err(Error::IO));
    assert_eq!(volume.discard(0, 2 * ZONE, LAZY), Err(Error::IO));
    assert_eq!(volume.reencrypt_next(), Err(Error::IO));
    volume.read(&mut sector, ZONE).unwrap();
    world.write(&volume, 16, 9).unwrap();
    let _ = volume.close();
    let volume = open(&world.disk, &key(0));
    begin(&volume, &world.disk).unwrap();
    assert_eq!(volume.reencrypted(), Ok(Some(ZONE)));
    world.check(&volume, true);
}

/// Where only reading fails nothing has happened, and it can be tried again.
#[test]
fn a_zone_that_cannot_be_read_stays() {
    use crate::faults::{Call, Fault, Faulty};
    let backing = Faulty::new((DATA + 2 * ZONE) as usize);
    let old = key(0);
    let options = Options {
        size: 2 * ZONE,
        data_offset: DATA,
        sector_size: 4096,
        key: Some(&old),
        read_only: false,
        discard: true,
    };
    backing.script(Call::Read, [Fault::Errno(libc::EIO)]);
    let volume = assemble(backing, &options).unwrap();
    let disk = Disk::new(DATA);
    format(&disk);
    begin(&volume, &disk).unwrap();
    volume.write(&mut [5; SECTOR as usize], 0, LAZY).unwrap();
    assert_eq!(volume.reencrypt_next(), Err(Error::IO));
    assert_eq!(volume.reencrypted(), Ok(Some(0)));
    let mut sector = [0; SECTOR as usize];
    volume.read(&mut sector, 0).unwrap();
    assert_eq!(sector, [5; SECTOR as usize]);
    assert_eq!(volume.reencrypt_next(), Ok(ZONE));
    volume.read(&mut sector, 0).unwrap();
    assert_eq!(sector, [5; SECTOR as usize]);
}

/// A hole of any length is one step, and stays a hole.
#[test]
fn holes_are_passed() {
    let disk = Disk::new(DATA + (1 << 40));
    format(&disk);
    let volume = open(&disk, &key(0));
    volume.write(&mut [1; SECTOR as usize], 1 << 39, LAZY).unwrap();
    begin(&volume, &disk).unwrap();
    let steps: Vec<u64> = (0..3).map(|_| volume.reencrypt_next().unwrap()).collect();
    assert_eq!(steps, [1 << 39, (1 << 39) + ZONE, 1 << 40]);
    let mut sector = [1; SECTOR as usize];
    volume.read(&mut sector, (1 << 39) + SECTOR).unwrap();
    assert_eq!(sector, [0; SECTOR as usize]);
}

fn errno(result: Result<(), SetupError>) -> i32 {
    match result {
        Err(SetupError::System(errno, _)) => errno,
        other => panic!("{other:?}"),
    }
}

/// What cannot be re-encrypted now, or at all, is refused, and what would not fit beside it too.
#[test]
fn what_does_not_fit_is_refused() {
    let world = World::new(1);
    let (disk, old) = (&world.disk, key(0));
    let volume = open(disk, &old);
    assert_eq!(volume.reencrypt_next(), Err(Error::INVALID));
    assert_eq!(volume.end_reencryption(), Err(Error::INVALID));
    assert_eq!(volume.reencrypted(), Ok(None));
    let other = Reencryption { key: &key(100), journal: JOURNAL, id: [8; 16] };
    assert_eq!(errno(volume.begin_reencryption_on(Box::new(Attached(Arc::clone(disk))), &other)), libc::EUCLEAN);
    let short = Reencryption { key: &key(100), journal: JOURNAL.start..JOURNAL.end - 1, id: ID };
    let refused = volume.begin_reencryption_on(Box::new(Attached(Arc::clone(disk))), &short);
    assert!(matches!(refused, Err(SetupError::Argument(_))));
    begin(&volume, disk).unwrap();
    assert_eq!(errno(begin(&volume, disk)), libc::EBUSY);
    assert_eq!(volume.end_reencryption(), Err(Error::INVALID));
    assert_eq!(errno(volume.grow(volume.size())), libc::EBUSY);
    // Without its keys it cannot come back alone: two are needed.
    volume.suspend(true, true).unwrap();
    assert_eq!(errno(volume.resume(Some(&old))), libc::EBUSY);
    assert_eq!(errno(begin(&volume, disk)), libc::ENOKEY);
    assert_eq!(volume.end_reencryption(), Err(Error::NO_KEY));
    volume.close().unwrap();
    assert_eq!(volume.reencrypt_next(), Err(Error::CLOSED));

    for (key, read_only) in [(None, false), (Some(&old), true)] {
        let options = Options { size: ZONE, data_offset: DATA, sector_size: 4096, key, read_only, discard: true };
        let volume = assemble(Attached(Arc::clone(disk)), &options).unwrap();
        assert!(matches!(begin(&volume, disk), Err(SetupError::Argument(_))));
    }
}

/// After the end the volume is one like any other: suspended, it comes back with the new key, not with the old one.
#[test]
fn the_new_key_is_the_volumes() {
    let mut world = World::new(2);
    let volume = open(&world.disk, &key(0));
    begin(&volume, &world.disk).unwrap();
    world.run(&volume).unwrap();
    volume.end_reencryption().unwrap();
    assert_eq!(volume.reencrypted(), Ok(None));
    volume.suspend(true, true).unwrap();
    assert_eq!(errno(volume.resume(Some(&key(0)))), libc::EKEYREJECTED);
    volume.resume(Some(&key(100))).unwrap();
    world.check(&volume, true);
}

/// A journal of 12 KiB and a zone of 64 KiB is the smallest; none is larger than 4 MiB.
#[test]
fn zones_fit_their_journal() {
    assert_eq!(zone_size(12288 + ZONE - 1), None);
    assert_eq!(zone_size(0), None);
    assert_eq!(zone_size(12288 + ZONE), Some(ZONE));
    assert_eq!(zone_size(16 << 20), Some(4 << 20));
}
