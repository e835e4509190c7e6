//! A volume that is filled, used, killed and cut off, beside a model of what it may hold.

use super::*;

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
