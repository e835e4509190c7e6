//! The rules of the transmission phase: which request is served, and which error each breach gives.

mod common;

use common::{SIZE, request};
use ebscrypt_device::{WriteFlags, ZeroFlags};
use ebscrypt_nbd::proto::error::{EINVAL, EIO, ENOMEM, ENOSPC, ENOTSUP, EOVERFLOW, EPERM, ESHUTDOWN};
use ebscrypt_nbd::proto::{MAXIMUM_PAYLOAD, command as cmd, command_flag as flag};
use ebscrypt_nbd::transmission::{Operation, Payload, Refusal, Request, Volume, admit};
use ebscrypt_nbd::{Headers, Terms};

const SIMPLE: Terms = Terms::SIMPLE;
const STRUCTURED: Terms = Terms { headers: Headers::Structured, allocation: true };
const EXTENDED: Terms = Terms { headers: Headers::Extended, allocation: true };
const VOLUME: Volume = Volume { size: SIZE, read_only: false };
const MAX: u64 = MAXIMUM_PAYLOAD as u64;

fn ask(terms: Terms, command: u16, flags: u16, offset: u64, length: u64) -> Result<Operation, u32> {
    ask_of(VOLUME, terms, command, flags, offset, length)
}

fn ask_of(volume: Volume, terms: Terms, command: u16, flags: u16, offset: u64, length: u64) -> Result<Operation, u32> {
    let extended = terms.headers == Headers::Extended;
    // Every request goes over the wire form, so that the parser is tested with the rules.
    let header = request(extended, flags, command, 7, offset, length);
    assert_eq!(header.len(), terms.headers.request_length());
    let request = Request::parse(&header, terms.headers).expect("the right magic");
    assert_eq!(request, Request { flags, command, cookie: 7, offset, length });
    admit(&request, terms, volume).map_err(|refusal| refusal.error)
}

/// Each command becomes its operation, with its flags.
#[test]
fn operations() {
    let fua = WriteFlags { fua: true };
    assert_eq!(ask(SIMPLE, cmd::READ, 0, 0, 512), Ok(Operation::Read { holes: false }));
    assert_eq!(ask(STRUCTURED, cmd::READ, 0, 0, 512), Ok(Operation::Read { holes: true }));
    assert_eq!(ask(STRUCTURED, cmd::READ, flag::DF, 0, 512), Ok(Operation::Read { holes: false }));
    assert_eq!(ask(SIMPLE, cmd::WRITE, 0, 1, 1), Ok(Operation::Write(WriteFlags { fua: false })));
    assert_eq!(ask(SIMPLE, cmd::WRITE, flag::FUA, 1, 1), Ok(Operation::Write(fua)));
    assert_eq!(ask(SIMPLE, cmd::DISC, 0, 0, 0), Ok(Operation::Disconnect));
    assert_eq!(ask(SIMPLE, cmd::DISC, 0xffff, 9, 9), Ok(Operation::Disconnect));
    assert_eq!(ask(SIMPLE, cmd::FLUSH, 0, 0, 0), Ok(Operation::Flush));
    assert_eq!(ask(SIMPLE, cmd::TRIM, flag::FUA, 0, SIZE), Ok(Operation::Discard(fua)));
    assert_eq!(ask(SIMPLE, cmd::CACHE, 0, 0, SIZE), Ok(Operation::Cache));
    assert_eq!(
        ask(SIMPLE, cmd::WRITE_ZEROES, flag::NO_HOLE | flag::FAST_ZERO, 0, 1),
        Ok(Operation::WriteZeroes(ZeroFlags { fua: false, no_hole: true, fast: true }))
    );
    assert_eq!(ask(STRUCTURED, cmd::BLOCK_STATUS, 0, 0, 1), Ok(Operation::BlockStatus { one: false }));
    assert_eq!(ask(EXTENDED, cmd::BLOCK_STATUS, flag::REQ_ONE, 0, 1), Ok(Operation::BlockStatus { one: true }));
}

/// Unknown commands are invalid, RESIZE of the experimental extension among them.
#[test]
fn unknown_commands() {
    for command in [8, 9, 99, 0xffff] {
        for terms in [SIMPLE, STRUCTURED, EXTENDED] {
            assert_eq!(ask(terms, command, 0, 0, 512), Err(EINVAL));
        }
    }
}

/// Every flag that a command does not have is invalid with it; FUA goes with all.
#[test]
fn flags_per_command() {
    let (fua, hole, df, one, fast) = (flag::FUA, flag::NO_HOLE, flag::DF, flag::REQ_ONE, flag::FAST_ZERO);
    let length = |command| if command == cmd::FLUSH { 0 } else { 512 };
    let rows = [
        (cmd::READ, fua | df),
        (cmd::WRITE, fua),
        (cmd::FLUSH, fua),
        (cmd::TRIM, fua),
        (cmd::CACHE, fua),
        (cmd::WRITE_ZEROES, fua | hole | fast),
        (cmd::BLOCK_STATUS, fua | one),
    ];
    for (command, allowed) in rows {
        for bit in 0..16 {
            let result = ask(STRUCTURED, command, 1 << bit, 0, length(command));
            assert_eq!(result.is_ok(), allowed & (1 << bit) != 0, "command {command}, flag bit {bit}: {result:?}");
        }
    }
    assert_eq!(ask(SIMPLE, cmd::READ, df, 0, 512), Err(EINVAL), "DF without structured replies");
}

/// With extended headers a write must say that its length is payload, and nothing else may.
#[test]
fn payload_flag() {
    assert_eq!(ask(EXTENDED, cmd::WRITE, 0, 0, 512), Err(EINVAL));
    assert!(ask(EXTENDED, cmd::WRITE, flag::PAYLOAD_LEN, 0, 512).is_ok());
    for command in [cmd::READ, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
        assert_eq!(ask(EXTENDED, command, flag::PAYLOAD_LEN, 0, 512), Err(EINVAL));
    }
    assert_eq!(ask(STRUCTURED, cmd::WRITE, flag::PAYLOAD_LEN, 0, 512), Err(EINVAL));
}

/// A range that ends beyond the volume is EINVAL, for what would write ENOSPC; sums that overflow do not get through.
#[test]
fn ranges() {
    let beyond = [(SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (u64::MAX, 1), (u64::MAX - 511, 512), (1 << 63, 4096)];
    let rows = [
        (cmd::READ, EINVAL),
        (cmd::WRITE, ENOSPC),
        (cmd::TRIM, EINVAL),
        (cmd::CACHE, EINVAL),
        (cmd::WRITE_ZEROES, ENOSPC),
        (cmd::BLOCK_STATUS, EINVAL),
    ];
    for (command, error) in rows {
        for (offset, length) in beyond {
            assert_eq!(ask(STRUCTURED, command, 0, offset, length), Err(error), "{command} {offset} {length}");
        }
        assert!(ask(STRUCTURED, command, 0, SIZE - 1, 1).is_ok());
        assert_eq!(ask(STRUCTURED, command, 0, 0, 0), Err(EINVAL), "a length of zero");
    }
    assert_eq!(ask(EXTENDED, cmd::TRIM, 0, 1, u64::MAX), Err(EINVAL));
}

/// A flush has neither offset nor length.
#[test]
fn flush_is_of_everything() {
    assert_eq!(ask(SIMPLE, cmd::FLUSH, 0, 512, 0), Err(EINVAL));
    assert_eq!(ask(SIMPLE, cmd::FLUSH, 0, 0, 512), Err(EINVAL));
}

/// A read-only volume refuses what writes with EPERM, before it looks at the range, and serves the rest.
#[test]
fn read_only() {
    let volume = Volume { size: SIZE, read_only: true };
    for command in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
        assert_eq!(ask_of(volume, STRUCTURED, command, 0, 0, 512), Err(EPERM));
        assert_eq!(ask_of(volume, STRUCTURED, command, 0, SIZE, 512), Err(EPERM));
    }
    for (command, length) in [(cmd::READ, 512), (cmd::FLUSH, 0), (cmd::CACHE, 512), (cmd::BLOCK_STATUS, 512)] {
        assert!(ask_of(volume, STRUCTURED, command, 0, 0, length).is_ok());
    }
}

/// Only what passes through a buffer is limited to 32 MiB; the rest takes any length, unchanged, up to the volume's.
#[test]
fn lengths() {
    let volume = Volume { size: 64 << 40, read_only: false };
    let ask = |terms, command, flags, length| ask_of(volume, terms, command, flags, 0, length);
    for length in [MAX + 1, 64 << 20, u64::from(u32::MAX)] {
        assert_eq!(ask(SIMPLE, cmd::READ, 0, length), Err(EINVAL));
        assert_eq!(ask(STRUCTURED, cmd::READ, flag::DF, length), Err(EOVERFLOW));
        assert_eq!(ask(EXTENDED, cmd::CACHE, 0, length), Err(EOVERFLOW));
        assert_eq!(ask(STRUCTURED, cmd::WRITE, 0, length), Err(EINVAL));
        for command in [cmd::TRIM, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
            assert!(ask(STRUCTURED, command, 0, length).is_ok());
        }
    }
    assert!(ask(SIMPLE, cmd::READ, 0, MAX).is_ok());
    for command in [cmd::TRIM, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
        assert!(ask(EXTENDED, command, 0, 64 << 40).is_ok());
        assert!(ask(EXTENDED, command, 0, (64 << 40) + 1).is_err());
    }
}

/// BLOCK_STATUS without a negotiated context is invalid.
#[test]
fn block_status_needs_a_context() {
    for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
        assert_eq!(ask(Terms { headers, allocation: false }, cmd::BLOCK_STATUS, 0, 0, 512), Err(EINVAL));
    }
}

/// What follows a header: compact writes always and of any length, extended requests when flagged, up to 32 MiB.
#[test]
fn payloads() {
    let payload =
        |headers, flags, command, length| Request { flags, command, cookie: 0, offset: 0, length }.payload(headers);
    let long = u64::from(u32::MAX);
    assert_eq!(payload(Headers::Simple, 0, cmd::WRITE, long), Payload::Bytes(long));
    assert_eq!(payload(Headers::Structured, flag::PAYLOAD_LEN, cmd::READ, 8), Payload::Absent);
    assert_eq!(payload(Headers::Structured, 0, 99, 8), Payload::Absent);
    assert_eq!(payload(Headers::Extended, 0, cmd::WRITE, 8), Payload::Absent);
    for command in [cmd::READ, cmd::WRITE, 99] {
        assert_eq!(payload(Headers::Extended, flag::PAYLOAD_LEN, command, MAX), Payload::Bytes(MAX));
        assert_eq!(payload(Headers::Extended, flag::PAYLOAD_LEN, command, MAX + 1), Payload::Hostile);
        assert_eq!(payload(Headers::Extended, flag::PAYLOAD_LEN, command, u64::MAX), Payload::Hostile);
    }
}

/// A header with any magic but the negotiated one cannot be read.
#[test]
fn magic() {
    for (extended, headers) in [(true, Headers::Simple), (true, Headers::Structured), (false, Headers::Extended)] {
        let mut header = request(extended, 0, 0, 0, 0, 0);
        header.resize(headers.request_length(), 0);
        assert_eq!(Request::parse(&header, headers), None);
        assert_eq!(Request::parse(&[0; 32][..headers.request_length()], headers), None);
    }
}

/// The payload of BLOCK_STATUS is a length and the one context: other lengths, other and repeated contexts are invalid.
#[test]
fn status_payload() {
    let request = Request {
        flags: flag::PAYLOAD_LEN | flag::REQ_ONE,
        command: cmd::BLOCK_STATUS,
        cookie: 1,
        offset: 2,
        length: 12,
    };
    let payload = |length: u64, ids: &[u32]| {
        [length.to_be_bytes().to_vec(), ids.iter().flat_map(|id| id.to_be_bytes()).collect()].concat()
    };
    let asked = request.with_status_payload(&payload(1 << 40, &[1])).expect("valid");
    assert_eq!(asked, Request { flags: flag::REQ_ONE, length: 1 << 40, ..request });
    for bad in
        [payload(4096, &[]), payload(4096, &[0]), payload(4096, &[2]), payload(4096, &[1, 1]), vec![], vec![0; 11]]
    {
        assert_eq!(request.with_status_payload(&bad).map_err(|refusal| refusal.error), Err(EINVAL), "{bad:?}");
    }
}

/// Every errno of a device becomes one of the values that the protocol allows; "not supported" only for a fast zero.
#[test]
fn errors_of_the_device() {
    let rows = [
        (libc::EPERM, EPERM),
        (libc::EROFS, EPERM),
        (libc::EIO, EIO),
        (libc::ENOMEM, ENOMEM),
        (libc::EINVAL, EINVAL),
        (libc::ENOSPC, ENOSPC),
        (libc::EDQUOT, ENOSPC),
        (libc::EFBIG, ENOSPC),
        (libc::EOPNOTSUPP, EIO),
        (libc::ESHUTDOWN, ESHUTDOWN),
        (libc::ENODEV, EIO),
        (0, EIO),
        (-1, EIO),
    ];
    for (errno, expected) in rows {
        assert_eq!(Refusal::from_device(errno, false).error, expected);
    }
    assert_eq!(Refusal::from_device(libc::EOPNOTSUPP, true).error, ENOTSUP);
}
