//! Faults of the backing: what the `file` layer makes of each.

use super::*;
use crate::faults::{Call, Fault, Faulty};

const OFFSET: u64 = 4096;
const SIZE: usize = 1 << 20;
const FUA: WriteFlags = WriteFlags { fua: true };
const LAZY: WriteFlags = WriteFlags { fua: false };

fn file() -> File<Faulty> {
    with_unit(1)
}

fn with_unit(unit: u32) -> File<Faulty> {
    File::new(Faulty::new(OFFSET as usize + SIZE), OFFSET, unit, false, true)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8 + 1).collect()
}

fn extents(file: &File<Faulty>, offset: u64, length: u64) -> Vec<(u64, u64, bool)> {
    let mut found = Vec::new();
    let mut each = |extent: Extent| {
        found.push((extent.offset, extent.length, extent.hole));
        true
    };
    file.extents(offset, length, &mut each).unwrap();
    found
}

/// Reads and writes that fall short or are interrupted go on where they were until everything is done.
#[test]
fn short_and_interrupted_calls_go_on() {
    let file = file();
    let data = pattern(10_000);
    let troubles = || {
        let (short, again) = (Fault::Short(1), Fault::Errno(libc::EAGAIN));
        [Fault::Errno(libc::EINTR), short, Fault::Short(4097), again, Fault::Errno(libc::EINTR), again, short]
    };
    for (call, flags) in [(Call::Write, LAZY), (Call::WriteDurably, FUA)] {
        file.backing.script(call, troubles());
        file.write(&mut data.clone(), 100, flags).unwrap();
        assert_eq!(&file.backing.contents()[OFFSET as usize + 100..][..data.len()], data);
        file.backing.punch(0, SIZE as u64).unwrap();
        file.backing.put(OFFSET as usize + 100, &data);
    }
    file.backing.script(Call::Read, troubles());
    let mut read = vec![0; data.len()];
    file.read(&mut read, 100).unwrap();
    assert_eq!(read, data);
}

/// Where O_DIRECT is at work, a call that falls short inside a unit is repeated from that unit's beginning.
#[test]
fn direct_io_goes_on_at_whole_units() {
    let mut backing = Faulty::new(OFFSET as usize + SIZE);
    backing.demands.offset = 512;
    let file = File::new(backing, OFFSET, 512, false, true);
    file.backing.script(Call::Read, [Fault::Short(1300)]);
    file.read(&mut vec![0; 4096], 0).unwrap();
    assert_eq!(file.backing.calls(Call::Read), [(OFFSET, 4096), (OFFSET + 1024, 3072)]);
    file.backing.script(Call::Read, [Fault::Short(511)]);
    assert_eq!(file.read(&mut vec![0; 4096], 0), Err(Error::IO));
}

/// A backing that ends early, or takes nothing, gives EIO instead of a loop or made-up bytes.
#[test]
fn no_progress_is_an_error() {
    let file = file();
    assert_eq!(file.read(&mut [0; 512], SIZE as u64 - 100), Err(Error::IO));
    file.backing.script(Call::Write, [Fault::Short(100), Fault::Short(0)]);
    assert_eq!(file.write(&mut [0; 512], 0, LAZY), Err(Error::IO));
}

/// EAGAIN without end becomes EIO after a while.
#[test]
fn patience_ends() {
    let file = file();
    file.backing.always(Call::Read, libc::EAGAIN);
    assert_eq!(file.read(&mut [0; 512], 0), Err(Error::IO));
    assert_eq!(file.backing.calls(Call::Read).len() as u32, PATIENCE + 1);
}

/// A full file system is told as ENOSPC, also when it is a quota or a size limit that is full; other errors stay.
#[test]
fn lack_of_space_is_enospc() {
    let file = file();
    for (errno, expected) in [
        (libc::ENOSPC, libc::ENOSPC),
        (libc::EDQUOT, libc::ENOSPC),
        (libc::EFBIG, libc::ENOSPC),
        (libc::EIO, libc::EIO),
        (libc::EROFS, libc::EROFS),
    ] {
        file.backing.script(Call::Write, [Fault::Short(512), Fault::Errno(errno)]);
        assert_eq!(file.write(&mut [1; 4096], 0, LAZY), Err(Error(expected)));
    }
    // None of these said anything about what was written before.
    assert_eq!(file.flush(), Ok(()));
}

/// After one failed fdatasync no flush and no FUA write succeeds any more, nor is even tried; the rest works on.
#[test]
fn failed_flush_is_for_ever() {
    let file = file();
    file.flush().unwrap();
    file.backing.script(Call::Sync, [Fault::Errno(libc::EINTR), Fault::Errno(libc::EIO)]);
    assert_eq!(file.flush(), Err(Error::IO));
    let tried = file.backing.calls(Call::Sync).len();
    assert_eq!(file.flush(), Err(Error::IO));
    assert_eq!(file.write(&mut [1; 512], 0, FUA), Err(Error::IO));
    assert_eq!(file.discard(0, 512, FUA), Err(Error::IO));
    assert_eq!(file.write_zeroes(0, 512, ZeroFlags { fua: true, ..ZeroFlags::default() }), Err(Error::IO));
    assert_eq!(file.backing.calls(Call::Sync).len(), tried);
    assert_eq!(file.backing.calls(Call::WriteDurably).len(), 0);
    file.write(&mut [1; 512], 0, LAZY).unwrap();
    file.read(&mut [0; 512], 0).unwrap();
}

/// A failed FUA write counts as a failed flush, since nobody can say which part of it failed.
#[test]
fn failed_durable_write_is_for_ever() {
    let file = file();
    file.backing.script(Call::WriteDurably, [Fault::Short(512), Fault::Errno(libc::EIO)]);
    assert_eq!(file.write(&mut [1; 4096], 0, FUA), Err(Error::IO));
    assert_eq!(file.flush(), Err(Error::IO));
}

/// A FUA write for which there is no room concerns itself alone: whatever the limit was, later ones and flushes go on.
#[test]
fn refused_durable_write_spoils_nothing() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
        let file = file();
        file.backing.script(Call::WriteDurably, [Fault::Errno(errno)]);
        assert_eq!(file.write(&mut [1; 4096], 0, FUA), Err(Error(libc::ENOSPC)));
        assert_eq!(file.flush(), Ok(()));
        assert_eq!(file.write(&mut [1; 4096], 0, FUA), Ok(()));
    }
}

/// FUA on discard and write_zeroes flushes; without it nothing is flushed.
#[test]
fn fua_of_zeroing_flushes() {
    let file = file();
    file.discard(0, 512, LAZY).unwrap();
    file.write_zeroes(0, 512, ZeroFlags::default()).unwrap();
    assert_eq!(file.backing.calls(Call::Sync).len(), 0);
    file.discard(0, 512, FUA).unwrap();
    file.write_zeroes(0, 512, ZeroFlags { fua: true, ..ZeroFlags::default() }).unwrap();
    assert_eq!(file.backing.calls(Call::Sync).len(), 2);
}

/// Zeros are made by a hole; where there are none, by zeroing; where that is missing too, by writing. What is missing is
/// asked for once.
#[test]
fn zeroing_falls_back_step_by_step() {
    let file = file();
    let length = 300 * 1024;
    let zero = |flags| {
        file.backing.put(OFFSET as usize, &pattern(length + 1));
        let result = file.write_zeroes(0, length as u64, flags);
        let contents = file.backing.contents();
        assert_ne!(contents[OFFSET as usize + length], 0);
        result.map(|()| contents[OFFSET as usize..][..length].iter().all(|byte| *byte == 0))
    };
    let counts = || [Call::Punch, Call::Zero, Call::Write].map(|call| file.backing.calls(call).len());
    let (plain, fast) = (ZeroFlags::default(), ZeroFlags { fast: true, ..ZeroFlags::default() });
    assert_eq!(zero(plain), Ok(true));
    assert_eq!(counts(), [1, 0, 0]);
    file.backing.always(Call::Punch, libc::EOPNOTSUPP);
    assert_eq!(zero(plain), Ok(true));
    assert_eq!(counts(), [2, 1, 0]);
    assert_eq!(zero(fast), Ok(true));
    assert_eq!(counts(), [2, 2, 0]);
    file.backing.always(Call::Zero, libc::ENOSYS);
    assert_eq!(zero(fast), Err(Error::UNSUPPORTED));
    assert_eq!(counts(), [2, 3, 0]);
    assert_eq!(zero(plain), Ok(true));
    assert_eq!(counts(), [2, 3, 3]);
    file.backing.script(Call::Write, [Fault::None, Fault::Errno(libc::ENOSPC)]);
    assert_eq!(zero(plain), Err(Error(libc::ENOSPC)));
}

/// With no_hole the space stays: no hole is punched, whatever else must be done.
#[test]
fn no_hole_never_punches() {
    let file = file();
    let flags = ZeroFlags { no_hole: true, ..ZeroFlags::default() };
    file.write_zeroes(0, 4096, flags).unwrap();
    file.backing.always(Call::Zero, libc::EOPNOTSUPP);
    file.write_zeroes(4096, 4096, flags).unwrap();
    assert_eq!(file.write_zeroes(8192, 4096, ZeroFlags { fast: true, ..flags }), Err(Error::UNSUPPORTED));
    assert_eq!(file.backing.calls(Call::Punch), []);
    assert_eq!(extents(&file, 0, 12288), [(0, 8192, false), (8192, 4096, true)]);
}

/// Where zeroing is no faster than writing, a fast request is told so at once.
#[test]
fn slow_zeroing_is_not_called_fast() {
    let mut backing = Faulty::new(SIZE);
    backing.demands.fast_zero = false;
    backing.always(Call::Punch, libc::EOPNOTSUPP);
    let file = File::new(backing, 0, 1, false, true);
    assert_eq!(file.write_zeroes(0, 512, ZeroFlags { fast: true, ..ZeroFlags::default() }), Err(Error::UNSUPPORTED));
    assert_eq!(file.backing.calls(Call::Zero), []);
    file.write_zeroes(0, 512, ZeroFlags::default()).unwrap();
    assert_eq!(file.backing.calls(Call::Zero), [(0, 512)]);
}

/// Discard punches a hole; where it is switched off or unknown to the backing it does nothing and succeeds.
#[test]
fn discard_is_a_hint() {
    let file = file();
    file.backing.put(OFFSET as usize, &pattern(4096));
    file.discard(0, 4096, LAZY).unwrap();
    assert_eq!(file.backing.calls(Call::Punch), [(OFFSET, 4096)]);
    assert_eq!(extents(&file, 0, 4096), [(0, 4096, true)]);
    file.backing.always(Call::Punch, libc::EOPNOTSUPP);
    assert_eq!(file.discard(0, 4096, FUA), Ok(()));

    let kept = File::new(Faulty::new(SIZE), 0, 1, false, false);
    kept.discard(0, 4096, FUA).unwrap();
    assert_eq!(kept.backing.calls(Call::Punch), []);
    kept.write_zeroes(0, 4096, ZeroFlags::default()).unwrap();
    assert_eq!(kept.backing.calls(Call::Punch), []);
    assert_eq!(kept.backing.calls(Call::Zero).len(), 1);
}

/// Extents cover the range without a gap, in turns; a unit that is data in part counts as data.
#[test]
fn extents_grow_to_whole_units() {
    let file = with_unit(4096);
    // Data in one 512-byte piece of units 2, 3 and 5: 2 and 3 become one extent.
    for unit in [2, 3, 5] {
        file.backing.put((OFFSET + unit * 4096 + 1024) as usize, &[1; 512]);
    }
    let expected =
        [(0, 8192, true), (8192, 8192, false), (16384, 4096, true), (20480, 4096, false), (24576, 8192, true)];
    assert_eq!(extents(&file, 0, 32768), expected);
    assert_eq!(extents(&file, 8192, 4096), [(8192, 4096, false)]);
    assert_eq!(extents(&file, 12288, 8192), [(12288, 4096, false), (16384, 4096, true)]);
    assert_eq!(extents(&file, 24576, SIZE as u64 - 24576), [(24576, SIZE as u64 - 24576, true)]);
}

/// Whoever has heard enough is told no more.
#[test]
fn extents_stop_when_told() {
    let file = with_unit(512);
    for unit in (0..100).step_by(2) {
        file.backing.put((OFFSET + unit * 512) as usize, &[1; 512]);
    }
    let mut count = 0;
    let mut each = |_| {
        count += 1;
        count < 3
    };
    file.extents(0, SIZE as u64, &mut each).unwrap();
    assert_eq!(count, 3);
    assert!(file.backing.calls(Call::NextData).len() < 5);
}

/// A backing that cannot tell holes is all data; a failure to look is a failure.
#[test]
fn extents_without_holes_are_data() {
    let file = file();
    file.backing.script(Call::NextData, [Fault::Errno(libc::EINVAL), Fault::Errno(libc::EOPNOTSUPP)]);
    assert_eq!(extents(&file, 4096, 8192), [(4096, 8192, false)]);
    assert_eq!(extents(&file, 4096, 8192), [(4096, 8192, false)]);
    file.backing.script(Call::NextData, [Fault::Errno(libc::EIO)]);
    assert_eq!(file.extents(0, 4096, &mut |_| true), Err(Error::IO));
}
