//! How fast the stack is: `cargo run --release -p ebscrypt-device --example throughput [backing]`.
//!
//! Reads and writes a volume of 256 MiB on a file that is made for it (default: on tmpfs) and prints, for each size of
//! request, bytes by processor time, the median of nine rounds: on tmpfs nothing waits, and processor time is steadier
//! than the clock where other work runs. Compare ratios within one run all the same.

use std::env;
use std::error::Error;
use std::fs::{self, OpenOptions};
use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::Duration;

use ebscrypt_device::{Buffer, Device, Options, WriteFlags, open};
use ebscrypt_secret::SecretMemory;

const SIZE: u64 = 256 << 20;
const ROUNDS: usize = 9;

/// Processor time of this thread so far.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Median gigabytes a second of all rounds over the whole volume.
fn measure(mut round: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut speeds = Vec::new();
    for _ in 0..ROUNDS {
        let start = processor_time();
        round()?;
        speeds.push(SIZE as f64 / (processor_time() - start).as_secs_f64() / 1e9);
    }
    speeds.sort_by(f64::total_cmp);
    Ok(speeds[ROUNDS / 2])
}

fn measure_device(device: &dyn Device, length: usize) -> Result<(f64, f64), Box<dyn Error>> {
    let mut buffer = Buffer::new(length);
    let offsets = || (0..SIZE).step_by(length);
    let write =
        measure(|| Ok(offsets().try_for_each(|offset| device.write(&mut buffer, offset, WriteFlags::default()))?))?;
    let read = measure(|| Ok(offsets().try_for_each(|offset| device.read(&mut buffer, offset))?))?;
    Ok((write, read))
}

fn measure_copy(length: usize) -> Result<f64, Box<dyn Error>> {
    let (mut to, from) = (Buffer::new(length), Buffer::new(SIZE as usize));
    measure(|| {
        for part in from.chunks_exact(length) {
            black_box(&mut to[..]).copy_from_slice(black_box(part));
        }
        Ok(())
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let default = format!("/dev/shm/ebscrypt-throughput-{}", std::process::id());
    let path = env::args().nth(1).unwrap_or(default);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    file.set_len(SIZE)?;
    let mut key = SecretMemory::new(64)?;
    key.fill(&(0..64).collect::<Vec<u8>>())?;

    println!("{:<24}{:>10}{:>12}{:>12}  GB/s", "", "request", "write", "read");
    for length in [4096, 64 * 1024, 1 << 20] {
        println!("{:<24}{length:>10}{:>12.2}", "copy in memory", measure_copy(length)?);
        for (name, key, sector_size) in
            [("plain", None, 4096), ("sectors of 4096", Some(&key), 4096), ("sectors of 512", Some(&key), 512)]
        {
            let options = Options { size: SIZE, data_offset: 0, sector_size, key, read_only: false, discard: true };
            let volume = open(file.as_fd(), &options)?;
            let (write, read) = measure_device(&volume, length)?;
            println!("{name:<24}{length:>10}{write:>12.2}{read:>12.2}");
            volume.close()?;
        }
    }
    Ok(())
}
