//! What a volume that is being filled shows to its users, whatever dies when.

mod model;

use std::sync::Arc;
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
