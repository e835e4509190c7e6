//! What a volume that is being filled shows to its users, whatever dies when.

use std::sync::atomic::AtomicI64;
use std::thread;

use super::*;
use crate::gate::Volume;
use crate::open::{Options, assemble_filling};
use crate::track::disk::{Attached, Chance, Disk, SECTOR};

const LAZY: WriteFlags = WriteFlags { fua: false };
const BLOCKS_HERE: u64 = 6;
/// The last block has eight sectors.
const SIZE: u64 = 5 * BLOCK + 8 * SECTOR;
const SECTORS: u64 = SIZE / SECTOR;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the snapshot has in a sector: data, and zeros in between.
fn original(sector: u64) -> u8 {
    if sector / 8 % 50 == 3 { 0 } else { (sector % 199 + 1) as u8 }
}

fn stored(block: u64) -> Vec<u8> {
    let first = block * BLOCK / SECTOR;
    let sectors = first..SECTORS.min(first + BLOCK / SECTOR);
    sectors.flat_map(|sector| [original(sector); SECTOR as usize]).collect()
}

fn notes() -> Arc<Disk> {
    let notes = Disk::new(8192);
    FillFile::create(&Attached(Arc::clone(&notes)), SIZE, &[0..2, 3..BLOCKS_HERE]).unwrap();
    notes
}

/// Of the block that the fill file does not have as missing the content is there.
fn data() -> Arc<Disk> {
    let data = Disk::new(SIZE);
    let attached = Attached(Arc::clone(&data));
    crate::backing::write_all(&attached, &stored(2), 2 * BLOCK).unwrap();
    crate::backing::Backing::sync(&attached).unwrap();
    data
}

fn open_with(data: &Arc<Disk>, notes: &Arc<Disk>, patience: Duration, discard: bool) -> Arc<Volume> {
    let (file, missing) = FillFile::open(Box::new(Attached(Arc::clone(notes)))).unwrap();
    let filling = Filling { file, missing, patience };
    let options = Options { size: SIZE, data_offset: 0, sector_size: 4096, key: None, read_only: false, discard };
    Arc::new(assemble_filling(Attached(Arc::clone(data)), None, Some(filling), &options).unwrap())
}

fn open(data: &Arc<Disk>, notes: &Arc<Disk>) -> Arc<Volume> {
    open_with(data, notes, PATIENCE, true)
}

/// Supply what is wanted while `work` goes on.
fn served<R>(volume: &Volume, work: impl FnOnce() -> R) -> R {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                for block in volume.wanted(Duration::from_millis(5)).unwrap_or_default() {
                    let _ = volume.supply(block, &stored(block));
                }
            }
        });
        let result = work();
        over.store(true, Ordering::SeqCst);
        result
    })
}

/// What a sector may hold: now, and after a power cut.
#[derive(Clone)]
struct Known {
    now: Vec<u8>,
    after_a_cut: Vec<u8>,
}

struct World {
    data: Arc<Disk>,
    notes: Arc<Disk>,
    known: Vec<Known>,
    chance: Chance,
}

impl World {
    fn new(seed: u64) -> World {
        let known = (0..SECTORS).map(|sector| vec![original(sector)]);
        let known = known.map(|value| Known { now: value.clone(), after_a_cut: value }).collect();
        World { data: data(), notes: notes(), known, chance: Chance(seed * 2 + 1) }
    }

    /// Sectors of a request: a few of them, whole blocks, or anything.
    fn range(&mut self) -> Range<u64> {
        let per_block = BLOCK / SECTOR;
        let start = match self.chance.below(3) {
            0 => self.chance.below(BLOCKS_HERE) * per_block,
            _ => self.chance.below(SECTORS),
        };
        let length = match self.chance.below(3) {
            0 => per_block * (1 + self.chance.below(2)),
            1 => 1 + self.chance.below(2 * per_block),
            _ => 1 + self.chance.below(8),
        };
        start..SECTORS.min(start + length)
    }

    /// One request. Whether the power is still on.
    fn step(&mut self, volume: &Volume) -> bool {
        let range = self.range();
        let (offset, length) = (range.start * SECTOR, (range.end - range.start) * SECTOR);
        let flags = WriteFlags { fua: self.chance.below(4) == 0 };
        let (value, result) = match self.chance.below(8) {
            0 => {
                let flushed = volume.flush();
                if flushed.is_ok() {
                    self.known.iter_mut().for_each(|known| known.after_a_cut.clone_from(&known.now));
                }
                return flushed.is_ok();
            }
            1 | 2 => {
                let block = self.chance.below(BLOCKS_HERE);
                return volume.supply(block, &stored(block)).is_ok();
            }
            3 => return volume.settle().is_ok(),
            4 => {
                let flags = ZeroFlags { fua: flags.fua, ..ZeroFlags::default() };
                (0, served(volume, || volume.write_zeroes(offset, length, flags)))
            }
            5 => (0, served(volume, || volume.discard(offset, length, flags))),
            _ => {
                let value = 200 + self.chance.below(56) as u8;
                (value, served(volume, || volume.write(&mut vec![value; length as usize], offset, flags)))
            }
        };
        for known in &mut self.known[range.start as usize..range.end as usize] {
            known.after_a_cut.push(value);
            if result.is_ok() {
                known.now = vec![value];
            } else {
                known.now.push(value);
            }
        }
        result.is_ok()
    }

    /// The sectors of some blocks have what they may have.
    fn check(&mut self, volume: &Volume, blocks: impl Iterator<Item = u64>, cut: bool) {
        for block in blocks {
            let offset = block * BLOCK;
            let mut found = vec![0; BLOCK.min(SIZE - offset) as usize];
            served(volume, || volume.read(&mut found, offset)).unwrap();
            let first = (offset / SECTOR) as usize;
            for (sector, bytes) in (first..).zip(found.chunks(SECTOR as usize)) {
                let known = &mut self.known[sector];
                let value = bytes[0];
                assert_eq!(bytes, [value; SECTOR as usize]);
                assert!(known.now.contains(&value), "sector {sector} has {value}, not one of {:?}", known.now);
                known.now = vec![value];
                if cut {
                    known.after_a_cut = vec![value];
                }
            }
        }
    }

    /// Use the volume until it ends in some way, and look at a part of it in its next life.
    fn live(&mut self) {
        let fuse = Arc::new(AtomicI64::new(i64::MAX));
        [&self.data, &self.notes].iter().for_each(|disk| disk.light(&fuse));
        let volume = open(&self.data, &self.notes);
        fuse.store(1 + self.chance.below(80) as i64, Ordering::SeqCst);
        for _ in 0..1 + self.chance.below(12) {
            if !self.step(&volume) {
                break;
            }
        }
        if self.chance.below(4) == 0 && volume.close().is_ok() {
            self.known.iter_mut().for_each(|known| known.after_a_cut.clone_from(&known.now));
        }
        drop(volume);
        let cut = self.chance.below(3) > 0;
        if cut {
            self.data.cut_power(&mut self.chance);
            self.notes.cut_power(&mut self.chance);
            self.known.iter_mut().for_each(|known| known.now.clone_from(&known.after_a_cut));
        }
        fuse.store(i64::MAX, Ordering::SeqCst);
        let volume = open(&self.data, &self.notes);
        let blocks: Vec<u64> = (0..BLOCKS_HERE).filter(|_| self.chance.below(4) == 0).collect();
        self.check(&volume, blocks.into_iter(), cut);
    }
}

/// Whatever is lost when, on both disks, at any write or sync: each sector has what was last acknowledged, or one of the
/// values that were not flushed; where nobody wrote, what the snapshot has. And then it can be filled to the end.
#[test]
fn no_late_block_overwrites_a_change() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        for _ in 0..5 {
            world.live();
        }
        let volume = open(&world.data, &world.notes);
        while let Some(block) = volume.next_missing(0).unwrap() {
            volume.supply(block, &stored(block)).unwrap();
        }
        world.check(&volume, 0..BLOCKS_HERE, false);
        volume.settle().unwrap();
        assert_eq!(volume.fill_left().unwrap(), 0);
        volume.close().unwrap();
        assert_eq!(open(&world.data, &world.notes).fill_left().unwrap(), 0);
    }
}

/// A request that needs what is missing asks for it, waits, and gets it; one that needs nothing of it asks for nothing.
#[test]
fn who_needs_a_block_asks_for_it() {
    let (data, notes) = (data(), notes());
    let volume = open(&data, &notes);
    let mut there = vec![0; BLOCK as usize];
    volume.read(&mut there, 2 * BLOCK).unwrap();
    assert_eq!(there, stored(2));
    volume.write(&mut [9; 512], 2 * BLOCK, LAZY).unwrap();
    volume.write(&mut vec![7; BLOCK as usize], BLOCK, LAZY).unwrap();
    volume.discard(5 * BLOCK, 8 * SECTOR, LAZY).unwrap();
    assert!(volume.wanted(Duration::ZERO).unwrap().is_empty());
    assert_eq!(volume.fill_left().unwrap(), 3);
    // What came too late changes nothing.
    volume.supply(1, &stored(1)).unwrap();
    let mut found = [0; 512];
    volume.read(&mut found, BLOCK).unwrap();
    assert_eq!(found, [7; 512]);
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut found = [0; 1024];
            volume.read(&mut found, 4 * BLOCK - SECTOR).map(|()| found)
        });
        let mut wanted = HashSet::new();
        while wanted.len() < 2 {
            wanted.extend(volume.wanted(PATIENCE).unwrap());
        }
        assert_eq!(wanted, [3, 4].into());
        assert!(!reading.is_finished());
        volume.supply(3, &stored(3)).unwrap();
        volume.supply(4, &stored(4)).unwrap();
        let found = reading.join().unwrap().unwrap();
        assert_eq!(found[..512], stored(3)[stored(3).len() - 512..]);
        assert_eq!(found[512..], stored(4)[..512]);
    });
}

/// Whoever waits is told why there is no block; waits no longer than allowed; and goes when the volume is closed.
#[test]
fn every_wait_ends() {
    let (data, notes) = (data(), notes());
    let impatient = open_with(&data, &notes, Duration::from_millis(10), true);
    assert_eq!(impatient.read(&mut [0; 512], 0), Err(Error::IO));
    assert_eq!(impatient.write(&mut [0; 512], 0, LAZY), Err(Error::IO));
    let volume = open(&data, &notes);
    for ending in 0..3 {
        thread::scope(|scope| {
            let reading = scope.spawn(|| volume.read(&mut [0; 512], 0));
            while volume.wanted(PATIENCE).unwrap().is_empty() {}
            let expected = match ending {
                0 => {
                    volume.fail(0, Error(libc::ETIMEDOUT)).unwrap();
                    Error(libc::ETIMEDOUT)
                }
                1 => {
                    data.fail(true);
                    assert_eq!(volume.supply(0, &stored(0)), Err(Error::IO));
                    data.fail(false);
                    Error::IO
                }
                _ => {
                    volume.close().unwrap();
                    Error::CLOSED
                }
            };
            assert_eq!(reading.join().unwrap(), Err(expected));
        });
    }
    assert_eq!(volume.wanted(Duration::ZERO), Err(Error::CLOSED));
    assert_eq!(volume.supply(0, &[]), Err(Error::CLOSED));
}

/// A failed block is no reason to fail the next request for it, and blocks that do not exist are refused.
#[test]
fn a_failure_is_not_for_ever() {
    let volume = open(&data(), &notes());
    volume.fail(0, Error::IO).unwrap();
    let mut found = [0; 512];
    served(&volume, || volume.read(&mut found, 0)).unwrap();
    assert_eq!(found, stored(0)[..512]);
    assert_eq!(volume.supply(BLOCKS_HERE, &[]), Err(Error::INVALID));
    assert_eq!(volume.supply(u64::MAX, &[]), Err(Error::INVALID));
    assert_eq!(volume.supply(5, &[1; 9 * 512]), Err(Error::INVALID));
    assert!(volume.grow(SIZE + BLOCK).is_err());
}

/// What is missing counts as data, what is there as what it is, also in parts of blocks.
#[test]
fn extents_tell_of_no_hole_too_many() {
    let volume = open(&data(), &notes());
    volume.supply(0, &[]).unwrap();
    for (offset, length) in [(0, SIZE), (BLOCK - 512, 1024), (2 * BLOCK + 512, BLOCK), (4 * BLOCK + 512, 512)] {
        let mut at = offset;
        volume
            .extents(offset, length, &mut |found| {
                assert_eq!(found.offset, at);
                assert!(found.length > 0 && !found.hole);
                at = found.end();
                true
            })
            .unwrap();
        assert_eq!(at, offset + length);
    }
    let mut seen = 0;
    volume
        .extents(0, SIZE, &mut |_| {
            seen += 1;
            false
        })
        .unwrap();
    assert_eq!(seen, 1);
}

/// Where discards do nothing, they do nothing to what is missing either.
#[test]
fn an_idle_discard_forgets_nothing() {
    let volume = open_with(&data(), &notes(), PATIENCE, false);
    volume.discard(0, SIZE, LAZY).unwrap();
    assert_eq!(volume.fill_left().unwrap(), 5);
    let mut found = [0; 512];
    served(&volume, || volume.read(&mut found, 4 * BLOCK)).unwrap();
    assert_eq!(found, stored(4)[..512]);
}

/// Once the fill file could not be written nothing that it says is missing may change: reading goes on.
#[test]
fn a_broken_fill_file_lets_nothing_change() {
    let (data, notes) = (data(), notes());
    let volume = open(&data, &notes);
    volume.supply(0, &stored(0)).unwrap();
    notes.fail(true);
    assert_eq!(volume.write(&mut [1; 512], 0, LAZY), Err(Error::IO));
    notes.fail(false);
    assert_eq!(volume.write(&mut [1; 512], 0, LAZY), Err(Error::IO));
    assert_eq!(volume.write(&mut vec![1; BLOCK as usize], BLOCK, LAZY), Err(Error::IO));
    volume.write(&mut [1; 512], 2 * BLOCK, LAZY).unwrap();
    let mut found = [0; 512];
    volume.read(&mut found, 0).unwrap();
    assert_eq!(found, stored(0)[..512]);
}

/// Of a fill file every bit of the header counts, and it must be whole.
#[test]
fn a_damaged_fill_file_is_refused() {
    let mut whole = vec![0; 8192];
    crate::backing::read_all(&Attached(notes()), &mut whole, 0).unwrap();
    let opens = |bytes: &[u8]| {
        let disk = Attached(Disk::new(bytes.len() as u64));
        crate::backing::write_all(&disk, bytes, 0).unwrap();
        FillFile::open(Box::new(disk)).is_ok()
    };
    assert!(opens(&whole));
    assert!(!opens(&whole[..4096]));
    assert!(!opens(&[0; 8192]));
    for bit in 0..512 * 8 {
        whole[bit / 8] ^= 1 << (bit % 8);
        assert!(!opens(&whole), "bit {bit}");
        whole[bit / 8] ^= 1 << (bit % 8);
    }
    let nowhere = Attached(Disk::new(8192));
    assert!(FillFile::create(&nowhere, SIZE, &[0..1, 1..BLOCKS_HERE + 1]).is_err());
    assert!(FillFile::create(&nowhere, (BLOCKS + 1) * BLOCK, &[]).is_err());
}

/// A whole block that is changed while it is being supplied has the change from end to end, however the two meet.
#[test]
fn a_change_of_a_whole_block_meets_its_supply() {
    for _ in 0..300 {
        let volume = open(&data(), &notes());
        let begun = std::sync::Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                begun.wait();
                volume.supply(0, &stored(0)).unwrap();
            });
            begun.wait();
            volume.write(&mut vec![7; BLOCK as usize], 0, LAZY).unwrap();
        });
        let mut found = vec![0; BLOCK as usize];
        volume.read(&mut found, 0).unwrap();
        assert!(found == vec![7; BLOCK as usize]);
    }
}

/// A process that dies between writing bits and syncing them leaves bits that only the kernel has. Whoever believes them
/// makes them durable before anything changes.
#[test]
fn bits_that_only_the_kernel_has_are_not_believed() {
    for seed in 0..40 {
        let (data, notes) = (data(), notes());
        let volume = open(&data, &notes);
        volume.supply(0, &stored(0)).unwrap();
        // The bits are written, and the sync after it fails.
        notes.light(&Arc::new(AtomicI64::new(1)));
        assert_eq!(volume.settle(), Err(Error::IO));
        drop(volume);
        notes.light(&Arc::new(AtomicI64::new(i64::MAX)));
        let volume = open(&data, &notes);
        assert_eq!(volume.fill_left().unwrap(), 4);
        volume.write(&mut [9; 512], 0, WriteFlags { fua: true }).unwrap();
        drop(volume);
        let mut chance = Chance(seed * 2 + 1);
        data.cut_power(&mut chance);
        notes.cut_power(&mut chance);
        let volume = open(&data, &notes);
        let mut found = [0; 512];
        served(&volume, || volume.read(&mut found, 0)).unwrap();
        assert_eq!(found, [9; 512], "a block came late, over a change");
    }
}

/// Many users and two suppliers at once: each user finds what it wrote, and elsewhere what the snapshot has.
#[test]
fn under_load() {
    for seed in 0..12 {
        let (data, notes) = (data(), notes());
        let volume = open(&data, &notes);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while volume.fill_left().unwrap() > 0 {
                        let wanted = volume.wanted(Duration::from_millis(1)).unwrap();
                        for block in wanted.into_iter().chain(volume.next_missing(0).unwrap()) {
                            volume.supply(block, &stored(block)).unwrap();
                        }
                        volume.settle().unwrap();
                    }
                });
            }
            // Each has every fourth sector of the first three and the last block; one writes the fourth as a whole.
            for user in 0..4 {
                let volume = &volume;
                scope.spawn(move || {
                    let mut chance = Chance(seed * 8 + user + 1);
                    let mut mine: HashMap<u64, u8> = HashMap::new();
                    for round in 0..200 {
                        let sector = chance.below(SECTORS) / 4 * 4 + user;
                        if user == 0 && round == 20 {
                            volume.write(&mut vec![7; BLOCK as usize], 3 * BLOCK, LAZY).unwrap();
                        }
                        if sector * SECTOR / BLOCK == 3 || sector >= SECTORS {
                            continue;
                        }
                        if chance.below(2) == 0 {
                            let value = chance.below(256) as u8;
                            volume.write(&mut [value; 512], sector * SECTOR, LAZY).unwrap();
                            mine.insert(sector, value);
                        }
                        let mut found = [0; 512];
                        volume.read(&mut found, sector * SECTOR).unwrap();
                        assert_eq!(found, [mine.get(&sector).copied().unwrap_or(original(sector)); 512]);
                    }
                });
            }
        });
        let mut found = vec![0; BLOCK as usize];
        volume.read(&mut found, 3 * BLOCK).unwrap();
        assert_eq!(found, vec![7; BLOCK as usize]);
        assert_eq!(volume.fill_left().unwrap(), 0);
    }
}
