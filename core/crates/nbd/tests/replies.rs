//! How replies look on the wire, byte by byte, and what of a read's data is told instead of sent.

mod common;

use common::{Numbers, number};
use ebscrypt_device::Extent;
use ebscrypt_nbd::Headers;
use ebscrypt_nbd::proto::chunk;
use ebscrypt_nbd::transmission::runs::{GRAIN, Run, is_zero, runs};
use ebscrypt_nbd::transmission::status::{MAX_EXTENTS, StatusChunk};
use ebscrypt_nbd::transmission::{Refusal, Request, reply};

const REQUEST: Request = Request { flags: 0, command: 0, cookie: 0x0102_0304_0506_0708, offset: 0x1000, length: 512 };
const COOKIE: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8];

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// Success without data: 16 bytes, also with structured replies; 32 with extended headers, echoing the offset.
#[test]
fn success() {
    let simple = [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], COOKIE].concat();
    assert_eq!(written(|out| reply::success(out, &REQUEST, Headers::Simple)), simple);
    assert_eq!(written(|out| reply::success(out, &REQUEST, Headers::Structured)), simple);
    let extended = [&[0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 0], COOKIE, &0x1000u64.to_be_bytes(), &[0; 8]].concat();
    assert_eq!(written(|out| reply::success(out, &REQUEST, Headers::Extended)), extended);
}

/// An error is a number in simple replies, and a chunk with a text for people in the others.
#[test]
fn refusal() {
    let refusal = Refusal { error: 22, text: "why" };
    let simple = written(|out| reply::refusal(out, &REQUEST, Headers::Simple, refusal));
    assert_eq!(simple, [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 22], COOKIE].concat());
    let payload = [0, 0, 0, 22, 0, 3, b'w', b'h', b'y'];
    let structured = written(|out| reply::refusal(out, &REQUEST, Headers::Structured, refusal));
    let header = [&[0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1], COOKIE, &[0, 0, 0, 9]].concat();
    assert_eq!(structured, [&header[..], &payload].concat());
    let extended = written(|out| reply::refusal(out, &REQUEST, Headers::Extended, refusal));
    assert_eq!((number(&extended[24..32]), &extended[32..]), (9, &payload[..]));
}

/// Data in one piece: after a simple header, or in one last chunk that repeats the offset.
#[test]
fn data() {
    let simple = written(|out| reply::data(out, &REQUEST, Headers::Simple));
    assert_eq!(simple, [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], COOKIE].concat());
    let structured = written(|out| reply::data(out, &REQUEST, Headers::Structured));
    let header = [&[0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1], COOKIE, &[0, 0, 2, 8], &0x1000u64.to_be_bytes()].concat();
    assert_eq!(structured, header);
    let extended = written(|out| reply::data(out, &REQUEST, Headers::Extended));
    assert_eq!((extended.len(), number(&extended[24..32]), number(&extended[32..40])), (40, 520, 0x1000));
}

/// A read in runs: holes say where and how long, and only the last chunk is marked as such.
#[test]
fn chunks_of_a_read() {
    let first = Run { start: 0, length: 200, zero: true };
    let second = Run { start: 200, length: 312, zero: false };
    let hole = written(|out| reply::run(out, &REQUEST, Headers::Structured, first));
    assert_eq!(hole[4..8], [0, 0, 0, chunk::OFFSET_HOLE as u8]);
    assert_eq!((number(&hole[16..20]), number(&hole[20..28]), number(&hole[28..])), (12, 0x1000, 200));
    let data = written(|out| reply::run(out, &REQUEST, Headers::Structured, second));
    assert_eq!(data[4..8], [0, 1, 0, chunk::OFFSET_DATA as u8]);
    assert_eq!((number(&data[16..20]), number(&data[20..])), (320, 0x1000 + 200));
}

fn status(headers: Headers, one: bool, extents: &[(u64, bool)]) -> Option<Vec<u8>> {
    let mut out = b"before".to_vec();
    let mut chunk = StatusChunk::begin(&mut out, &REQUEST, headers, one);
    let mut offset = 0;
    for (length, hole) in extents {
        if !chunk.push(Extent { offset, length: *length, hole: *hole }) {
            break;
        }
        offset += length;
    }
    let told = chunk.finish();
    assert_eq!(&out[..6], b"before");
    told.then(|| out.split_off(6))
}

/// Extents: neighbours in one state are joined, holes read as zeros, lengths have 32 or 64 bits.
#[test]
fn extents() {
    let extents = [(10, false), (20, false), (30, true), (40, false)];
    let compact = status(Headers::Structured, false, &extents).expect("told");
    assert_eq!(compact[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 5]);
    let expected: Vec<u8> = [28u32, 1, 30, 0, 30, 3, 40, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    assert_eq!(compact[16..], expected);
    let extended = status(Headers::Extended, false, &[(1 << 40, true), (5, false)]).expect("told");
    assert_eq!(extended[4..8], [0, 1, 0, 6]);
    assert_eq!((number(&extended[24..32]), number(&extended[32..36]), number(&extended[36..40])), (40, 1, 2));
    let expected: Vec<u8> = [1u64 << 40, 3, 5, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    assert_eq!(extended[40..], expected);
}

/// Asked for one extent, the reply has the whole of the first and nothing of the second.
#[test]
fn one_extent() {
    let reply = status(Headers::Structured, true, &[(10, true), (20, true), (30, false)]).expect("told");
    assert_eq!((number(&reply[24..28]), number(&reply[28..32]), reply.len()), (30, 3, 32));
}

/// Without an extent there is no chunk; with too many the reply ends at the limit, at an extent's end.
#[test]
fn no_extents_and_too_many() {
    assert_eq!(status(Headers::Structured, false, &[]), None);
    let many: Vec<_> = (0..MAX_EXTENTS + 10).map(|index| (8, index % 2 == 0)).collect();
    let reply = status(Headers::Extended, false, &many).expect("told");
    assert_eq!((number(&reply[36..40]) as usize, reply.len()), (MAX_EXTENTS, 40 + 16 * MAX_EXTENTS));
}

/// Runs cover the data in order, are zero exactly where they say so, alternate, and break at the grain of the volume.
#[test]
fn runs_of_random_data() {
    let mut numbers = Numbers(1);
    for _ in 0..200 {
        let length = 1 + numbers.below(6 * GRAIN as u64) as usize;
        let offset = numbers.below(1 << 20);
        let mut data = vec![0; length];
        for _ in 0..numbers.below(4) {
            data[numbers.below(length as u64) as usize] = 1;
        }
        let found: Vec<Run> = runs(&data, offset).collect();
        let mut next = 0;
        for (index, run) in found.iter().enumerate() {
            assert_eq!(run.start, next);
            assert!(run.length > 0 && (index == 0 || found[index - 1].zero != run.zero));
            assert!(!run.zero || data[run.start..run.start + run.length].iter().all(|byte| *byte == 0));
            next += run.length;
            assert!(next == length || (offset + next as u64) % GRAIN as u64 == 0);
        }
        assert_eq!(next, length);
        let blocks_with_data = found.iter().filter(|run| !run.zero).count();
        assert_eq!(blocks_with_data == 0, data.iter().all(|byte| *byte == 0));
    }
}

/// One byte that is not zero is found wherever it is.
#[test]
fn zero_detection() {
    for length in [0, 1, 63, 64, 65, 300] {
        let mut data = vec![0; length];
        assert!(is_zero(&data));
        for at in 0..length {
            data[at] = 0x80;
            assert!(!is_zero(&data), "{at} of {length}");
            data[at] = 0;
        }
    }
}
