//! How fast a snapshot is: `cargo run --release -p ebscrypt-device --example snapshot [folder]`.
//!
//! Reads and hashes every block of a volume of 512 MiB in `folder` (default: tmpfs), from the page cache, on one
//! processor, and prints bytes by processor time, beside SHA-256 alone; then what a write of 4 KiB takes without change
//! file, with one, and while every block is copied first.

use std::env;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use ebscrypt_device::{BLOCK, Buffer, Device, Options, SnapshotView, Volume, WriteFlags, open, open_tracked};
use ebscrypt_secret::Sha256;

const SIZE: u64 = 512 << 20;
const ROUNDS: usize = 5;

fn scrap(folder: &str, name: &str) -> Result<File, Box<dyn Error>> {
    let path = format!("{folder}/ebscrypt-snapshot-{}-{name}", std::process::id());
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Processor time of this thread so far: steadier than the clock where other work runs.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn processor_seconds(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let start = processor_time();
    work()?;
    Ok(processor_time() - start)
}

fn seconds(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Median and 99th percentile in microseconds of a write of 4 KiB to each block, in an order that jumps.
fn write_each_block(volume: &Volume) -> Result<(f64, f64), Box<dyn Error>> {
    let blocks = SIZE / BLOCK;
    let mut buffer = Buffer::new(4096);
    let mut times = Vec::new();
    for number in 0..blocks {
        let offset = (number * 389 % blocks) * BLOCK;
        times.push(seconds(|| Ok(volume.write(&mut buffer, offset, WriteFlags::default())?))? * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args().nth(1).unwrap_or_else(|| "/dev/shm".to_owned());
    let (data, changes) = (scrap(&folder, "data")?, scrap(&folder, "changes")?);
    data.set_len(SIZE)?;
    let options = Options { size: SIZE, data_offset: 0, sector_size: 4096, key: None, read_only: false, discard: true };
    let mut content: Vec<u8> = (0..BLOCK).map(|index| ((index * 167) >> 3) as u8).collect();
    let plain = open(data.as_fd(), &options)?;
    for block in 0..SIZE / BLOCK {
        content[0] = block as u8;
        plain.write(&mut content.clone(), block * BLOCK, WriteFlags::default())?;
    }
    println!("write of 4 KiB, no change file       {:8.1?} µs median, 99 %", write_each_block(&plain)?);
    plain.close()?;

    let volume = Arc::new(open_tracked(data.as_fd(), changes.as_fd(), &options)?);
    let view = SnapshotView::begin(&volume, scrap(&folder, "spool")?.into(), "")?;
    (0..view.blocks()).try_for_each(|block| view.done(block))?;
    view.commit("one")?;
    println!("write of 4 KiB, first to its block   {:8.1?}", write_each_block(&volume)?);
    println!("write of 4 KiB, noted before         {:8.1?}", write_each_block(&volume)?);
    let view = SnapshotView::begin(&volume, scrap(&folder, "spool")?.into(), "")?;
    println!("write of 4 KiB, block copied first   {:8.1?}", write_each_block(&volume)?);
    println!("write of 4 KiB, copied before        {:8.1?}", write_each_block(&volume)?);
    drop(view);

    let (mut hashed, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let view = SnapshotView::begin(&volume, scrap(&folder, "spool")?.into(), "")?;
        hashed.push(processor_seconds(|| {
            Ok((0..view.blocks()).try_for_each(|block| view.read(block, |_| {}).map(drop))?)
        })?);
        alone.push(processor_seconds(|| {
            (0..SIZE / BLOCK).for_each(|_| {
                let mut hash = Sha256::new();
                hash.update(&content);
                std::hint::black_box(hash.finish());
            });
            Ok(())
        })?);
    }
    let speed = |times: Vec<f64>| SIZE as f64 / median(times) / 1e9;
    println!("blocks read and hashed {:.2} GB/s, SHA-256 alone {:.2} GB/s", speed(hashed), speed(alone));
    volume.close()?;
    Ok(())
}
