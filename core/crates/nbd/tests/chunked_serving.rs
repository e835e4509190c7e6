//! Structured replies and extended headers through a socket.

mod common;

use std::sync::Arc;

use common::wire::{Listening, Wire, options};
use common::{Numbers, number, request};
use ebscrypt_device::testing::MemoryDevice;
use ebscrypt_device::{Device, Operation, WriteFlags};
use ebscrypt_nbd::proto::error::{EINVAL, EIO, EOVERFLOW};
use ebscrypt_nbd::proto::option::{EXTENDED_HEADERS, STRUCTURED_REPLY};
use ebscrypt_nbd::proto::{chunk, command as cmd, command_flag as flag};

const SIZE: u64 = 64 << 20;

fn serve(form: u32) -> (Arc<MemoryDevice>, Listening, Wire) {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let listening = Listening::new(Arc::clone(&device) as Arc<dyn Device>, options());
    let wire = listening.connect().negotiated(form);
    (device, listening, wire)
}

/// Put a read together from its chunks: its data, and the kinds of the chunks.
fn reassemble(wire: &mut Wire, offset: u64, length: usize) -> (Vec<u8>, Vec<u16>) {
    let (mut data, mut kinds, mut covered) = (vec![0xff; length], vec![], 0);
    loop {
        let reply = wire.chunk();
        assert_eq!((reply.cookie, reply.error), (offset, 0));
        let at = (number(&reply.payload[..8]) - offset) as usize;
        let kind = reply.kind.expect("a chunk");
        let bytes = match kind {
            chunk::OFFSET_DATA => reply.payload[8..].to_vec(),
            chunk::OFFSET_HOLE => vec![0; number(&reply.payload[8..12]) as usize],
            other => panic!("chunk type {other} in the reply to a read"),
        };
        data[at..at + bytes.len()].copy_from_slice(&bytes);
        covered += bytes.len();
        kinds.push(kind);
        if reply.done {
            assert_eq!(covered, length, "every byte is told once");
            return (data, kinds);
        }
    }
}

/// Zeros are told as holes, data are sent, and together they are what the volume holds; with DF all is sent in one.
#[test]
fn sparse_reads() {
    for form in [STRUCTURED_REPLY, EXTENDED_HEADERS] {
        let (device, _listening, mut wire) = serve(form);
        device.write(&mut Numbers(6).bytes(100_000), 1 << 20, WriteFlags::default()).expect("written");
        let (offset, length) = (1_000_000, 1_000_000);
        let expected = device.contents()[offset..offset + length].to_vec();
        wire.ask(cmd::READ, offset as u64, length as u64);
        let (data, kinds) = reassemble(&mut wire, offset as u64, length);
        assert!(data == expected);
        assert_eq!(kinds, [chunk::OFFSET_HOLE, chunk::OFFSET_DATA, chunk::OFFSET_HOLE]);
        wire.send(&request(wire.extended, flag::DF, cmd::READ, offset as u64, offset as u64, length as u64));
        let (data, kinds) = reassemble(&mut wire, offset as u64, length);
        assert!(data == expected);
        assert_eq!(kinds, [chunk::OFFSET_DATA]);
    }
}

/// Reads of every length up to 32 MiB come in one reply each; a longer one is EOVERFLOW and nothing is read.
#[test]
fn read_lengths() {
    let (device, _listening, mut wire) = serve(EXTENDED_HEADERS);
    for length in [1, 511, 65_536, 1 << 20, (1 << 20) + 1, 32 << 20] {
        wire.ask(cmd::READ, 3, length);
        assert_eq!(reassemble(&mut wire, 3, length as usize).1, [chunk::OFFSET_HOLE]);
    }
    let before = device.calls().len();
    wire.ask(cmd::READ, 0, (32 << 20) + 1);
    assert_eq!((wire.chunk().error, device.calls().len()), (EOVERFLOW, before));
}

/// A failed read is an error chunk with a text, and no content at all.
#[test]
fn failed_read() {
    for form in [STRUCTURED_REPLY, EXTENDED_HEADERS] {
        let (device, _listening, mut wire) = serve(form);
        device.fail_once(Operation::Read, libc::EIO, 0);
        wire.ask(cmd::READ, 0, 4096);
        let reply = wire.chunk();
        assert_eq!((reply.kind, reply.error, reply.done), (Some(chunk::ERROR), EIO, true));
        assert_eq!(reply.payload, b"input/output error");
    }
}

/// Extents are those of the device, 32 bits wide or 64; REQ_ONE gives the first; the errors of the device are told.
#[test]
fn block_status() {
    for (form, kind, width) in
        [(STRUCTURED_REPLY, chunk::BLOCK_STATUS, 4), (EXTENDED_HEADERS, chunk::BLOCK_STATUS_EXT, 8)]
    {
        let (device, _listening, mut wire) = serve(form);
        device.write(&mut [1; 8192], 1 << 20, WriteFlags::default()).expect("written");
        let expected = [(1 << 20, 3), (8192, 0), (SIZE - (1 << 20) - 8192, 3)];
        for (flags, expected) in [(0, &expected[..]), (flag::REQ_ONE, &expected[..1])] {
            wire.send(&request(wire.extended, flags, cmd::BLOCK_STATUS, 1, 0, SIZE));
            let reply = wire.chunk();
            assert_eq!((reply.kind, number(&reply.payload[..4])), (Some(kind), 1));
            let extents: Vec<_> = reply.payload[width..]
                .chunks(2 * width)
                .map(|pair| (number(&pair[..width]), number(&pair[width..])))
                .collect();
            assert_eq!(extents, expected);
        }
        device.fail_once(Operation::BlockStatus, libc::EIO, 0);
        wire.ask(cmd::BLOCK_STATUS, 0, SIZE);
        assert_eq!(wire.chunk().error, EIO);
        wire.ask(cmd::FLUSH, 0, 0);
        assert_eq!(if wire.extended { wire.chunk().error } else { wire.simple().error }, 0);
    }
}

/// With extended headers BLOCK_STATUS may name its context in a payload; a wrong one is read, refused, and harmless.
#[test]
fn block_status_payload() {
    let (_device, _listening, mut wire) = serve(EXTENDED_HEADERS);
    let mut ask = |payload: &[u8]| {
        wire.send(&request(true, flag::PAYLOAD_LEN, cmd::BLOCK_STATUS, 1, 4096, payload.len() as u64));
        wire.send(payload);
        wire.chunk()
    };
    let payload = |length: u64, id: u32| [&length.to_be_bytes()[..], &id.to_be_bytes()].concat();
    let reply = ask(&payload(8192, 1));
    assert_eq!((reply.error, number(&reply.payload[8..16])), (0, 8192));
    for bad in [payload(8192, 2), payload(SIZE, 1), payload(8192, 1)[..8].to_vec(), vec![0; 100_000]] {
        assert_eq!(ask(&bad).error, EINVAL);
    }
    assert_eq!(ask(&payload(4096, 1)).error, 0);
}

/// With extended headers, a payload where none belongs is read and refused; a write without one is refused at once.
#[test]
fn unexpected_payloads() {
    let (device, _listening, mut wire) = serve(EXTENDED_HEADERS);
    for command in [cmd::READ, cmd::FLUSH, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES, 99] {
        wire.send(&request(true, flag::PAYLOAD_LEN, command, 1, 0, 3_000_000));
        wire.send(&vec![0x25; 3_000_000]);
        assert_eq!(wire.chunk().error, EINVAL);
    }
    wire.ask(cmd::WRITE, 0, 4096);
    assert_eq!(wire.chunk().error, EINVAL);
    assert_eq!(device.calls(), []);
}

/// With extended headers, announcing more than 32 MiB of payload ends the connection; so does a compact request.
#[test]
fn hostile_extended_requests() {
    for bytes in [
        request(true, flag::PAYLOAD_LEN, cmd::WRITE, 1, 0, (32 << 20) + 1),
        request(true, flag::PAYLOAD_LEN, cmd::READ, 1, 0, u64::MAX),
        [request(false, 0, cmd::READ, 1, 0, 512), vec![0; 4]].concat(),
    ] {
        let (_device, _listening, mut wire) = serve(EXTENDED_HEADERS);
        wire.send(&bytes);
        wire.assert_ended();
    }
}
