//! What the change file says after every kind of end, and what a snapshot sees under load.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::thread;

use super::disk::{Attached, Chance, Disk, SECTOR, Sector};
use super::*;
use crate::backing::Backing;
use crate::gate::Volume;
use crate::open::{Options, assemble_tracked};
use crate::view::SnapshotView;
use crate::{Error, Operation};

const LAZY: WriteFlags = WriteFlags { fua: false };
const GIB: u64 = 1 << 30;

fn open(data: &Arc<Disk>, notes: &Arc<Disk>, boot: u8) -> Arc<Volume> {
    let changes = Changes::open(Box::new(Attached(Arc::clone(notes))), [boot; 16], data.size).unwrap();
    let options =
        Options { size: data.size, data_offset: 0, sector_size: 4096, key: None, read_only: false, discard: true };
    Arc::new(assemble_tracked(Attached(Arc::clone(data)), Some(changes), &options).unwrap())
}

fn spool() -> OwnedFd {
    // SAFETY: a plain system call; the new descriptor is owned right away.
    unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"spool".as_ptr(), libc::MFD_CLOEXEC)) }
}

/// The blocks that the volume says have changed since `base`; none where it says that all may have.
fn changed_since(volume: &Arc<Volume>, base: &str) -> Option<BTreeSet<u64>> {
    let view = SnapshotView::begin(volume, spool(), base).unwrap();
    let mut changed = BTreeSet::new();
    let mut next = 0;
    while let Some(block) = view.next(next) {
        changed.insert(block);
        next = block + 1;
    }
    (view.base() == base && !base.is_empty()).then_some(changed)
}

/// A volume of four regions, a few of whose blocks are in use, and what is known of it.
struct World {
    data: Arc<Disk>,
    notes: Arc<Disk>,
    boot: u8,
    base: String,
    at_base: HashMap<u64, Vec<Sector>>,
    written: BTreeSet<u64>,
    chance: Chance,
}

const USED: [u64; 10] = [0, 1, 63, 64, 2047, 2048, 4000, 4095, 4096, 6146];

impl World {
    fn new(seed: u64) -> World {
        let data = Disk::new(3 * GIB + 3 * BLOCK);
        let chance = Chance(seed * 2 + 1);
        let (notes, base, boot) = (Disk::new(64 << 20), String::new(), 1);
        World { data, notes, boot, base, at_base: HashMap::new(), written: BTreeSet::new(), chance }
    }

    fn contents(&self) -> HashMap<u64, Vec<Sector>> {
        USED.map(|block| (block, self.data.block(block))).into()
    }

    /// One request, or one snapshot.
    fn step(&mut self, volume: &Arc<Volume>) {
        let block = USED[self.chance.below(USED.len() as u64) as usize];
        let offset = block * BLOCK + self.chance.below(8) * SECTOR;
        let flags = WriteFlags { fua: self.chance.below(4) == 0 };
        match self.chance.below(16) {
            0..9 => {
                let byte = self.chance.below(256) as u8;
                volume.write(&mut [byte; 512], offset, flags).unwrap();
                self.written.insert(block);
            }
            9 => {
                volume.discard(offset, 2 * SECTOR, flags).unwrap();
                self.written.insert(block);
            }
            10..13 => volume.flush().unwrap(),
            13 => {
                // A snapshot that is not to be, with a write in the middle.
                let view = SnapshotView::begin(volume, spool(), &self.base).unwrap();
                volume.write(&mut [1; 512], offset, flags).unwrap();
                self.written.insert(block);
                view.abort();
            }
            _ => self.snapshot(volume, offset),
        }
    }

    fn snapshot(&mut self, volume: &Arc<Volume>, offset: u64) {
        let view = SnapshotView::begin(volume, spool(), &self.base).unwrap();
        let contents = self.contents();
        let during = self.chance.below(2) == 0;
        if during {
            volume.write(&mut [2; 512], offset, LAZY).unwrap();
        }
        while let Some(block) = view.next(0) {
            view.done(block).unwrap();
        }
        self.base = format!("snap-{}", self.chance.below(1 << 40));
        view.commit(&self.base).unwrap();
        self.at_base = contents;
        self.written = if during { [offset / BLOCK].into() } else { BTreeSet::new() };
    }

    /// Every block that differs from the base is said to have changed; `exactly`: only what was written is.
    fn check(&self, volume: &Arc<Volume>, exactly: bool) {
        let changed = changed_since(volume, &self.base);
        if self.base.is_empty() {
            assert_eq!(changed, None);
            return;
        }
        let changed = changed.unwrap();
        let now = self.contents();
        for block in USED {
            assert!(changed.contains(&block) || now[&block] == self.at_base[&block], "block {block} changed unnoted");
        }
        assert!(!exactly || changed == self.written, "{changed:?} instead of {:?}", self.written);
    }
}

/// Whatever is done and however it ends, no block has changed that is not said to have. After an end in order, and after
/// the death of the process, what is said is exact; after a power cut it may be too much by whole regions.
#[test]
fn unsure_means_changed() {
    let mut inexact = 0;
    for seed in 0..80 {
        let mut world = World::new(seed);
        for _ in 0..6 {
            let volume = open(&world.data, &world.notes, world.boot);
            for _ in 0..world.chance.below(25) {
                world.step(&volume);
            }
            world.check(&volume, inexact != seed + 1);
            match world.chance.below(4) {
                0 => volume.close().unwrap(),
                1 => std::mem::forget(volume),
                _ => {
                    std::mem::forget(volume);
                    world.data.cut_power(&mut world.chance);
                    world.notes.cut_power(&mut world.chance);
                    world.boot += 1;
                    inexact = seed + 1;
                }
            }
            let again = open(&world.data, &world.notes, world.boot);
            world.check(&again, inexact != seed + 1);
            again.close().unwrap();
        }
    }
}

/// After a power cut only the blocks of regions that were written to count as changed.
#[test]
fn a_power_cut_costs_regions() {
    let mut world = World::new(7);
    let volume = open(&world.data, &world.notes, 1);
    volume.write(&mut [1; 512], 0, LAZY).unwrap();
    world.snapshot(&volume, 2048 * BLOCK);
    volume.write(&mut [1; 512], 2100 * BLOCK, LAZY).unwrap();
    let expected = changed_since(&volume, &world.base).unwrap();
    assert!(expected.is_subset(&[2048, 2100].into()));
    std::mem::forget(volume);
    world.notes.cut_power(&mut world.chance);
    let volume = open(&world.data, &world.notes, 2);
    assert_eq!(changed_since(&volume, &world.base).unwrap(), (2048..4096).collect());
}

/// What is no change file, and one that was kept for another state, make everything count as changed.
#[test]
fn nothing_is_believed_that_does_not_fit() {
    let (data, notes) = (Disk::new(GIB), Disk::new(64 << 20));
    Attached(Arc::clone(&notes)).write_at(&[0xAA; 8192], 0).unwrap();
    let volume = open(&data, &notes, 1);
    let tracking = volume.tracking().unwrap().unwrap();
    assert_eq!((tracking.base.as_str(), tracking.blocks, tracking.changed), ("", 2048, 2048));
    let view = SnapshotView::begin(&volume, spool(), "").unwrap();
    (0..2048).for_each(|block| view.done(block).unwrap());
    view.commit("one").unwrap();
    assert_eq!(volume.tracking().unwrap().unwrap().changed, 0);
    assert_eq!(changed_since(&volume, "another"), None);
    assert_eq!(changed_since(&volume, "one"), Some(BTreeSet::new()));
}

/// A write that cannot be noted makes everything count as changed; where not even that can be written down it fails,
/// and so do others, until it can.
#[test]
fn what_cannot_be_noted_is_not_written() {
    let mut world = World::new(1);
    let volume = open(&world.data, &world.notes, 1);
    world.snapshot(&volume, 0);
    let noted = changed_since(&volume, &world.base).unwrap();
    world.notes.fail(true);
    for _ in 0..2 {
        assert_eq!(volume.write(&mut [5; 512], 6000 * BLOCK, LAZY), Err(Error::IO));
    }
    assert_eq!(world.data.block(6000)[0], [0; 512]);
    for block in noted {
        volume.write(&mut [5; 512], block * BLOCK, LAZY).unwrap();
    }
    world.notes.fail(false);
    volume.write(&mut [5; 512], 6000 * BLOCK, LAZY).unwrap();
    assert_eq!(volume.tracking().unwrap().unwrap().base, "");
    volume.close().unwrap();
    assert_eq!(open(&world.data, &world.notes, 1).tracking().unwrap().unwrap().base, "");
}

/// Stops the writers, also where the test fails and would wait for them for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Under threads that write without pause every view is the volume at one instant: no block of it is older than what was
/// acknowledged before, newer than what was begun before, torn, or different when read again.
#[test]
fn views_are_of_one_instant() {
    const THREADS: u64 = 3;
    const EACH: u64 = 4;
    // SAFETY: a plain system call; the new descriptor is owned right away.
    let (data, notes) = (fs::File::from(spool()), fs::File::from(spool()));
    data.set_len(THREADS * EACH * BLOCK).unwrap();
    let options = Options {
        size: THREADS * EACH * BLOCK,
        data_offset: 0,
        sector_size: 4096,
        key: None,
        read_only: false,
        discard: true,
    };
    use std::os::fd::AsFd;
    let volume = Arc::new(crate::open_tracked(data.as_fd(), notes.as_fd(), &options).unwrap());
    let (begun, done): (Vec<_>, Vec<_>) = (0..THREADS * EACH).map(|_| (AtomicU64::new(0), AtomicU64::new(0))).unzip();
    let stop = AtomicBool::new(false);
    let now =
        |counters: &[AtomicU64]| counters.iter().map(|counter| counter.load(Ordering::SeqCst)).collect::<Vec<_>>();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (volume, begun, done, stop) = (&volume, &begun, &done, &stop);
            scope.spawn(move || {
                let mut chance = Chance(number + 1);
                while !stop.load(Ordering::Relaxed) {
                    let block = number * EACH + chance.below(EACH);
                    let count = begun[block as usize].fetch_add(1, Ordering::SeqCst) + 1;
                    let mut buffer = vec![count as u8; BLOCK as usize];
                    volume.write(&mut buffer, block * BLOCK, LAZY).unwrap();
                    done[block as usize].store(count, Ordering::SeqCst);
                }
            });
        }
        let _stop = Stop(&stop);
        let mut copies = 0;
        for round in 0..30 {
            let before = now(&done);
            let view = SnapshotView::begin(&volume, spool(), "").unwrap();
            let after = now(&begun);
            let mut first = Vec::new();
            for block in 0..THREADS * EACH {
                let mut bytes = Vec::new();
                let digest = view.read(block, |piece| bytes.extend_from_slice(piece)).unwrap();
                let byte = bytes.first().copied().unwrap_or(0);
                assert!(bytes.iter().all(|other| *other == byte), "block {block} is torn");
                let (oldest, newest) = (before[block as usize], after[block as usize]);
                assert!((oldest..=newest).any(|count| count as u8 == byte), "{byte} not in {oldest}..={newest}");
                first.push(digest);
            }
            if round % 2 == 0 {
                while volume.statistics(Operation::Write).operations < 50 * (round + 1) {
                    thread::yield_now();
                }
            }
            for block in 0..THREADS * EACH {
                assert_eq!(view.read(block, |_| {}).unwrap(), first[block as usize], "block {block} changed");
            }
            copies += view.copies();
        }
        assert!(copies > 30, "only {copies} blocks were copied");
    });
}
