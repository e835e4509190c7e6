//! Bytes that no client of good will sends: random ones, and valid conversations with a few bits wrong. Whatever comes,
//! nothing panics, nothing grows without bound, and the next client is served.
//!
//! The numbers are the same on every run, so that a failure can be repeated.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;

use common::wire::{Listening, Wire, eventually, options};
use common::{Numbers, export, feed, go_data, meta_data, option, request};
use ebscrypt_device::testing::MemoryDevice;
use ebscrypt_nbd::handshake::{Handshake, MAX_OPTIONS, MAX_SKIP, Progress};
use ebscrypt_nbd::proto::{command_flag, option as opt};
use ebscrypt_nbd::transmission::{Operation, Request, Volume, admit, reply};
use ebscrypt_nbd::{Headers, Terms};

const SIZE: u64 = 1 << 20;

/// A conversation that a good client could have.
fn conversation(numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    for _ in 0..numbers.below(6) {
        let name: &[u8] = [&b""[..], b"vol-1", b"other"][numbers.below(3) as usize];
        let queries = &["base:allocation", "base:", "x-y:z"][numbers.below(4) as usize..];
        bytes.extend(match numbers.below(7) {
            0 => option(opt::LIST, b""),
            1 => option(opt::STRUCTURED_REPLY, b""),
            2 => option(opt::EXTENDED_HEADERS, b""),
            3 => option(opt::INFO, &go_data(name, &[1, 2, 3])),
            4 => option(opt::SET_META_CONTEXT, &meta_data(name, queries)),
            5 => option(opt::LIST_META_CONTEXT, &meta_data(name, queries)),
            _ => {
                let length = numbers.below(300) as usize;
                option(numbers.next() as u32, &numbers.bytes(length))
            }
        });
    }
    bytes.extend(option(opt::GO, &go_data(b"", &[3])));
    bytes
}

/// Change, remove, repeat or insert something in a few places.
fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..numbers.below(4) {
        let at = numbers.below(bytes.len() as u64) as usize;
        match numbers.below(5) {
            0 => bytes[at] ^= 1 << numbers.below(8),
            1 => bytes[at] = [0, 0xff, 0x7f, 0x80][numbers.below(4) as usize],
            2 => bytes.truncate(at.max(1)),
            3 => bytes.insert(at, numbers.next() as u8),
            _ => bytes.extend_from_within(at..),
        }
    }
}

/// The handshake machine takes anything: it asks for little, answers little, and comes to an end.
#[test]
fn handshake_machine() {
    let mut numbers = Numbers(0x1111);
    let mut entered = 0;
    for round in 0..20_000 {
        let mut handshake = Handshake::new(export());
        let mut bytes = conversation(&mut numbers);
        if round % 4 == 0 {
            bytes = numbers.bytes(200);
            bytes[..4].copy_from_slice(&[0, 0, 0, 3]);
        } else {
            mutate(&mut bytes, &mut numbers);
        }
        if round % 50 == 0 {
            handshake.shut_down();
        }
        let progress = feed(&mut handshake, &bytes);
        entered += u32::from(matches!(progress, Progress::Transmission(_)));
        assert!(handshake.wants() <= MAX_SKIP as usize);
        assert!(handshake.replies().len() <= MAX_OPTIONS as usize * 300);
    }
    assert!(entered > 1000, "the mutations leave enough alive to be worth it: {entered}");
}

/// Every request gets a decision without overflow, and an admitted one lies within the volume.
#[test]
fn request_rules() {
    let mut numbers = Numbers(0x2222);
    let mut admitted = 0;
    for _ in 0..200_000 {
        let headers = [Headers::Simple, Headers::Structured, Headers::Extended][numbers.below(3) as usize];
        let terms = Terms { headers, allocation: numbers.below(2) == 0 };
        let volume = Volume { size: SIZE, read_only: numbers.below(4) == 0 };
        let edge = |numbers: &mut Numbers| match numbers.below(4) {
            0 => numbers.next(),
            1 => numbers.below(2 * SIZE),
            2 => numbers.below(2),
            _ => u64::MAX >> numbers.below(64),
        };
        let (flags, command) = ((1u32 << numbers.below(32)) as u16, numbers.below(10) as u16);
        let (offset, length) = (edge(&mut numbers), edge(&mut numbers));
        let header = request(headers == Headers::Extended, flags, command, 1, offset, length);
        let request = Request::parse(&header, headers).expect("the right magic");
        let mut out = Vec::new();
        match admit(&request, terms, volume) {
            Ok(Operation::Disconnect | Operation::Flush) => {}
            Ok(operation) => {
                admitted += 1;
                assert!(request.length > 0 && request.offset + request.length <= SIZE, "{request:?} {operation:?}");
                reply::success(&mut out, &request, headers);
            }
            Err(refusal) => reply::refusal(&mut out, &request, headers, refusal),
        }
        assert!(out.len() <= reply::ROOM);
    }
    assert!(admitted > 5000, "{admitted}");
}

/// Requests, most of them valid, with payloads of about the right length.
fn requests(extended: bool, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + numbers.below(20) {
        let (command, length) = (numbers.below(9) as u16, numbers.below(5000));
        let payload = command == 1 && extended || numbers.below(10) == 0;
        let flags =
            if payload { command_flag::PAYLOAD_LEN } else { 0 } | (1 << numbers.below(5) & numbers.next() as u16);
        bytes.extend(request(extended, flags, command, numbers.next(), numbers.below(SIZE), length));
        if command == 1 || extended && payload {
            bytes.extend(numbers.bytes(length as usize));
        }
    }
    bytes
}

/// Send garbage, close the sending half, and read what comes until the server ends the connection.
fn abuse(mut wire: Wire, bytes: &[u8]) {
    // The server may hang up at any byte, so neither half need succeed; both must end.
    let _ = wire.stream.write_all(bytes);
    let _ = wire.stream.shutdown(std::net::Shutdown::Write);
    let mut received = 0;
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = wire.stream.read(&mut buffer) {
        received += count;
    }
    assert!(received < 64 << 20);
}

/// A server under garbage, before and after the handshake, goes on serving.
#[test]
fn server_under_garbage() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let listening = Listening::new(device, options());
    let mut numbers = Numbers(0x3333);
    for round in 0..400 {
        let forms = [opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS];
        let (wire, mut bytes) = match round % 4 {
            0 => (listening.connect(), conversation(&mut numbers)),
            1 => (listening.connect(), numbers.bytes(500)),
            2 => (Wire::adopted(&listening.server), requests(false, &mut numbers)),
            _ => {
                let form = forms[numbers.below(2) as usize];
                (listening.connect().negotiated(form), requests(form == opt::EXTENDED_HEADERS, &mut numbers))
            }
        };
        mutate(&mut bytes, &mut numbers);
        abuse(wire, &bytes);
    }
    eventually(|| listening.server.connections() == 0);
    let mut wire = listening.connect().negotiated(opt::EXTENDED_HEADERS);
    wire.ask(3, 0, 0);
    assert_eq!(wire.chunk().error, 0);
}
