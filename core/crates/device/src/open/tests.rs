//! The whole stack: what it refuses to become, and how it behaves once it is there.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::*;
use crate::backing::Demands;
use crate::faults::{Call, Fault, Faulty};
use crate::{Operation, WriteFlags, ZeroFlags};

const SIZE: u64 = 1 << 20;
const LAZY: WriteFlags = WriteFlags { fua: false };

fn key() -> SecretMemory {
    let mut key = SecretMemory::new(64).unwrap();
    key.fill(&(0..64).collect::<Vec<u8>>()).unwrap();
    key
}

fn options(key: Option<&SecretMemory>) -> Options<'_> {
    Options { size: SIZE, data_offset: 4096, sector_size: 4096, key, read_only: false, discard: true }
}

fn backing() -> Faulty {
    Faulty::new(SIZE as usize + 4096)
}

fn memfd(size: i64, flags: i32) -> OwnedFd {
    // SAFETY: plain system calls; the new descriptor is owned right away.
    unsafe {
        let fd = libc::memfd_create(c"backing".as_ptr(), libc::MFD_CLOEXEC);
        libc::ftruncate(fd, size);
        libc::fcntl(fd, libc::F_SETFL, flags);
        OwnedFd::from_raw_fd(fd)
    }
}

fn argument<T>(result: Result<T, SetupError>) -> String {
    match result {
        Err(SetupError::Argument(message)) => message,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

fn errno<T>(result: Result<T, SetupError>) -> i32 {
    match result {
        Err(SetupError::System(errno, _)) => errno,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

/// Sizes, offsets and sector sizes that cannot be served are refused with what is wrong.
#[test]
fn impossible_geometry_is_refused() {
    let key = key();
    let try_with = |change: &dyn Fn(&mut Options<'_>)| {
        let mut options = options(Some(&key));
        change(&mut options);
        argument(assemble(backing(), &options))
    };
    assert!(try_with(&|options| options.size = 0).contains("size 0"));
    assert!(try_with(&|options| options.size = SIZE - 512).contains("multiple of 4096"));
    assert!(try_with(&|options| options.data_offset = 512).contains("data offset 512"));
    assert!(try_with(&|options| options.sector_size = 1024).contains("sector size 1024"));
    assert!(try_with(&|options| options.sector_size = 1).contains("sector size 1"));
    let mut direct = backing();
    direct.demands = Demands { offset: 4096, memory: 512, fast_zero: true };
    let small = Options { size: SIZE - 512, sector_size: 512, ..options(Some(&key)) };
    assert!(argument(assemble(direct, &small)).contains("multiple of 4096"));
}

/// A volume longer than its backing is refused when it is opened, and when it is to grow.
#[test]
fn volume_must_fit_the_backing() {
    let options = Options { size: SIZE + 4096, ..options(None) };
    assert_eq!(errno(assemble(backing(), &options)), libc::EINVAL);
    let volume = assemble(backing(), &Options { size: SIZE / 2, ..options }).unwrap();
    assert_eq!(errno(volume.grow(SIZE + 4096)), libc::EINVAL);
    volume.grow(SIZE).unwrap();
    assert_eq!(volume.size(), SIZE);
    assert!(argument(volume.grow(SIZE / 2)).contains("smaller"));
    volume.read(&mut [0; 512], SIZE - 512).unwrap();
    assert_eq!(volume.read(&mut [0; 512], SIZE - 511), Err(Error::INVALID));
}

/// A key of equal halves is refused.
#[test]
fn equal_halves_are_refused() {
    let mut key = SecretMemory::new(64).unwrap();
    key.fill(&[1; 64]).unwrap();
    assert!(argument(assemble(backing(), &options(Some(&key)))).contains("halves differ"));
}

/// Only a regular file or block device, open for what is wanted and without O_APPEND, can be a backing.
#[test]
fn unsuitable_descriptors_are_refused() {
    let options = options(None);
    let length = SIZE as i64 + 4096;
    let append = memfd(length, libc::O_APPEND);
    assert_eq!(errno(open(append.as_fd(), &options)), libc::EINVAL);
    let mut pipe = [0; 2];
    // SAFETY: both new descriptors are owned right away.
    let ends = unsafe {
        libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC);
        pipe.map(|fd| OwnedFd::from_raw_fd(fd))
    };
    assert_eq!(errno(open(ends[0].as_fd(), &options)), libc::EINVAL);
    let file = memfd(length, 0);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let reader: OwnedFd = std::fs::File::open(path).unwrap().into();
    assert_eq!(errno(open(reader.as_fd(), &options)), libc::EBADF);
    let read_only = open(reader.as_fd(), &Options { read_only: true, ..options }).unwrap();
    read_only.read(&mut [0; 512], 0).unwrap();
    read_only.flush().unwrap();
    read_only.close().unwrap();
}

/// A read-only volume lets nothing change and nothing reach the backing that could.
#[test]
fn read_only_refuses_changes() {
    let volume = assemble(backing(), &Options { read_only: true, ..options(None) }).unwrap();
    assert_eq!(volume.write(&mut [0; 512], 0, LAZY), Err(Error::READ_ONLY));
    assert_eq!(volume.write(&mut [], SIZE + 1, LAZY), Err(Error::READ_ONLY));
    assert_eq!(volume.discard(0, 512, LAZY), Err(Error::READ_ONLY));
    assert_eq!(volume.write_zeroes(0, 512, ZeroFlags::default()), Err(Error::READ_ONLY));
    volume.read(&mut [0; 512], 0).unwrap();
    volume.flush().unwrap();
}

/// Nothing outside the volume is reached, however the numbers overflow; nothing at its very end is in order.
#[test]
fn bounds_hold() {
    let volume = assemble(backing(), &options(None)).unwrap();
    for (offset, length) in
        [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX, u64::MAX), (1, u64::MAX), (SIZE + 1, 0)]
    {
        assert_eq!(volume.discard(offset, length, LAZY), Err(Error::INVALID));
        assert_eq!(volume.write_zeroes(offset, length, ZeroFlags::default()), Err(Error::INVALID));
        assert_eq!(volume.extents(offset, length, &mut |_| true), Err(Error::INVALID));
        if length <= 2 {
            assert_eq!(volume.read(&mut vec![0; length as usize], offset), Err(Error::INVALID));
            assert_eq!(volume.write(&mut vec![0; length as usize], offset, LAZY), Err(Error::INVALID));
        }
    }
    volume.read(&mut [], SIZE).unwrap();
    volume.discard(SIZE, 0, LAZY).unwrap();
    let statistics = volume.statistics(Operation::Discard);
    assert_eq!((statistics.operations, statistics.errors), (7, 6));
}

/// Closing flushes, tells a failed flush, and lets nothing in any more either way.
#[test]
fn close_flushes_and_ends() {
    let key = key();
    for fault in [Fault::None, Fault::Errno(libc::EIO)] {
        let backing = backing();
        backing.script(Call::Sync, [fault]);
        let volume = assemble(backing, &options(Some(&key))).unwrap();
        volume.write(&mut [1; 4096], 0, LAZY).unwrap();
        assert_eq!(volume.close(), if fault == Fault::None { Ok(()) } else { Err(Error::IO) });
        assert_eq!(volume.close(), Ok(()));
        assert_eq!(volume.read(&mut [0; 512], 0), Err(Error::CLOSED));
        assert_eq!(volume.flush(), Err(Error::CLOSED));
        assert_eq!(errno(volume.grow(SIZE)), libc::ESHUTDOWN);
        assert_eq!(volume.size(), SIZE);
    }
}

/// The biggest volume of EBS works at its very end, on a sparse file.
#[test]
fn sixty_four_tebibytes() {
    let size = 64 << 40;
    let key = key();
    let fd = memfd(size + 4096, 0);
    let volume = open(fd.as_fd(), &Options { size: size as u64, ..options(Some(&key)) }).unwrap();
    let last = size as u64 - 5000;
    volume.write(&mut [7; 5000], last, WriteFlags { fua: true }).unwrap();
    let mut read = [0; 5000];
    volume.read(&mut read, last).unwrap();
    assert_eq!(read, [7; 5000]);
    let mut found = Vec::new();
    let mut each = |extent: crate::Extent| {
        found.push((extent.offset, extent.length, extent.hole));
        true
    };
    volume.extents(0, size as u64, &mut each).unwrap();
    assert_eq!(found, [(0, size as u64 - 8192, true), (size as u64 - 8192, 8192, false)]);
    volume.discard(0, size as u64, LAZY).unwrap();
    volume.read(&mut read, last).unwrap();
    assert_eq!(read, [0; 5000]);
}

/// A backing whose writes are not atomic, as those of most file systems are not: half-way through, each gives a reader
/// time to come in between, if only he can.
struct Torn {
    bytes: Vec<AtomicU8>,
    reads: AtomicU64,
}

impl Backing for Torn {
    fn demands(&self) -> Demands {
        Demands { offset: 1, memory: 1, fast_zero: true }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = &self.bytes[offset as usize..];
        buffer.iter_mut().zip(from).for_each(|(to, byte)| *to = byte.load(Ordering::Relaxed));
        self.reads.fetch_add(1, Ordering::SeqCst);
        Ok(buffer.len())
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        let to = &self.bytes[offset as usize..];
        let reads = self.reads.load(Ordering::SeqCst);
        for (index, byte) in buffer.iter().enumerate() {
            if index == buffer.len() / 2 {
                let another = || self.reads.load(Ordering::SeqCst) != reads;
                (0..50).take_while(|_| !another()).for_each(|_| std::thread::yield_now());
            }
            to[index].store(*byte, Ordering::Relaxed);
        }
        Ok(buffer.len())
    }

    fn write_durably_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.write_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.bytes[offset as usize..(offset + length) as usize]
            .iter()
            .for_each(|byte| byte.store(0, Ordering::Relaxed));
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.punch(offset, length)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }

    fn next_hole(&self, _offset: u64) -> io::Result<u64> {
        self.length()
    }
}

/// While one thread writes part of a sector, others read the rest of it as it is: never noise of a half-written sector,
/// also where the sector was a hole.
#[test]
fn reader_of_the_other_bytes_sees_no_half_written_sector() {
    let key = key();
    let bytes = (0..SIZE + 4096).map(|_| AtomicU8::new(0)).collect();
    let torn = Torn { bytes, reads: AtomicU64::new(0) };
    let volume = assemble(torn, &options(Some(&key))).unwrap();
    let current = AtomicU64::new(0);
    let sectors = SIZE / 4096;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for sector in 0..sectors {
                current.store(sector, Ordering::SeqCst);
                // Each sector is a hole before this, which makes a half-written one worst.
                volume.write(&mut [0xAB; 512], sector * 4096 + 1024, LAZY).unwrap();
            }
            current.store(sectors, Ordering::SeqCst);
        });
        loop {
            let sector = current.load(Ordering::SeqCst);
            if sector == sectors {
                break;
            }
            let mut part = [1; 1024];
            volume.read(&mut part, sector * 4096).unwrap();
            assert!(part.iter().all(|byte| *byte == 0));
            let mut whole = [1; 4096];
            volume.read(&mut whole, sector * 4096).unwrap();
            assert!(whole[..1024].iter().chain(&whole[1536..]).all(|byte| *byte == 0));
        }
    });
}
