//! Requests through a socket to a device, and what the device sees of them.

mod common;

use std::sync::Arc;

use common::wire::{Listening, Wire, options, server};
use common::{Numbers, request};
use ebscrypt_device::testing::MemoryDevice;
use ebscrypt_device::{Device, Operation, WriteFlags, ZeroFlags};
use ebscrypt_nbd::proto::error::{EINVAL, EIO, ENOSPC, ENOTSUP, EPERM, ESHUTDOWN};
use ebscrypt_nbd::proto::{command as cmd, command_flag as flag};

const SIZE: u64 = 64 << 20;

fn serve(device: &Arc<MemoryDevice>) -> (ebscrypt_nbd::Server, Wire) {
    let server = server(Arc::clone(device) as Arc<dyn Device>);
    let wire = Wire::adopted(&server);
    (server, wire)
}

fn write(wire: &mut Wire, flags: u16, offset: u64, data: &[u8]) {
    let flags = if wire.extended { flags | flag::PAYLOAD_LEN } else { flags };
    wire.send(&request(wire.extended, flags, cmd::WRITE, offset, offset, data.len() as u64));
    wire.send(data);
}

/// What is written is read back, at any offset and length, through one connection or another.
#[test]
fn write_and_read_back() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let (server, mut writer) = serve(&device);
    let mut reader = Wire::adopted(&server);
    let mut numbers = Numbers(2);
    for (offset, length) in [(0, 1), (511, 2), (4096, 4096), (5000, 70_001), (1 << 20, 1 << 20), (SIZE - 3, 3)] {
        let data = numbers.bytes(length);
        write(&mut writer, 0, offset, &data);
        assert_eq!((writer.simple().error, device.contents()[offset as usize..][..length] == data), (0, true));
        reader.ask(cmd::READ, offset, length as u64);
        let reply = reader.simple_with(length);
        assert_eq!((reply.cookie, reply.payload == data), (offset, true));
    }
}

/// Each command reaches the device as what it is, with its flags.
#[test]
fn commands_and_flags() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let (_server, mut wire) = serve(&device);
    let rows = [
        (cmd::FLUSH, 0, 0, 0),
        (cmd::TRIM, flag::FUA, 4096, 8192),
        (cmd::WRITE_ZEROES, flag::NO_HOLE | flag::FUA, 0, 4096),
        (cmd::WRITE_ZEROES, flag::FAST_ZERO, 0, SIZE),
        (cmd::CACHE, 0, 512, 100),
    ];
    for (command, flags, offset, length) in rows {
        wire.send(&request(false, flags, command, 1, offset, length));
        assert_eq!(wire.simple().error, 0);
    }
    let zero = |fua, no_hole, fast| ZeroFlags { fua, no_hole, fast };
    let seen: Vec<_> =
        device.calls().iter().map(|call| (call.operation, call.offset, call.length, call.flags)).collect();
    let expected = [
        (Operation::Flush, 0, 0, zero(false, false, false)),
        (Operation::Discard, 4096, 8192, zero(true, false, false)),
        (Operation::WriteZeroes, 0, 4096, zero(true, true, false)),
        (Operation::WriteZeroes, 0, SIZE, zero(false, false, true)),
        (Operation::Read, 512, 100, zero(false, false, false)),
    ];
    assert_eq!(seen, expected);
}

/// Many requests in one sending are all answered, in order, and each ends up where it belongs.
#[test]
fn batches() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let (_server, mut wire) = serve(&device);
    let mut numbers = Numbers(3);
    let blocks: Vec<Vec<u8>> = (0..200).map(|index| numbers.bytes(1 + index * 37)).collect();
    let at = |index: usize| (index * 16384) as u64;
    let mut sent = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        sent.extend(request(false, 0, cmd::WRITE, at(index), at(index), block.len() as u64));
        sent.extend(block);
        sent.extend(request(false, 0, cmd::READ, at(index), at(index), block.len() as u64));
    }
    let mut sender = Wire::new(wire.stream.try_clone().expect("a second end"), false);
    let sending = std::thread::spawn(move || sender.send(&sent));
    for (index, block) in blocks.iter().enumerate() {
        assert_eq!((wire.simple().cookie, wire.simple_with(block.len()).payload == *block), (at(index), true));
    }
    sending.join().expect("sent");
}

/// A long write goes to the device in parts that end at sector bounds; with FUA one flush follows the last.
#[test]
fn long_writes() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let (_server, mut wire) = serve(&device);
    let (offset, data) = (1000, Numbers(4).bytes(5 << 20));
    write(&mut wire, flag::FUA, offset, &data);
    assert_eq!(wire.simple().error, 0);
    assert!(device.contents()[offset as usize..][..data.len()] == data);
    let calls = device.calls();
    let (flush, writes) = calls.split_last().expect("calls");
    assert_eq!(flush.operation, Operation::Flush);
    let (_, all_but_last) = writes.split_last().expect("writes");
    assert!(all_but_last.iter().all(|call| (call.offset + call.length) % 4096 == 0 && !call.flags.fua));
}

/// A write of up to 256 KiB with FUA is one request to the device, with FUA.
#[test]
fn write_with_fua() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let (_server, mut wire) = serve(&device);
    write(&mut wire, flag::FUA, 0, &vec![1; 256 << 10]);
    assert_eq!((wire.simple().error, device.calls().len(), device.calls()[0].flags.fua), (0, 1, true));
}

/// A failing part of a long write fails the request; the rest of its payload is read and the connection goes on.
#[test]
fn failure_in_a_long_write() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    device.fail_once(Operation::Write, libc::EIO, 1);
    let (_server, mut wire) = serve(&device);
    write(&mut wire, 0, 0, &vec![1; 4 << 20]);
    assert_eq!((wire.simple().error, device.count(Operation::Write)), (EIO, 2));
    write(&mut wire, 0, 0, &[2; 512]);
    assert_eq!(wire.simple().error, 0);
}

/// A failing flush after a long FUA write fails the write: nothing is acknowledged that is not durable.
#[test]
fn failing_flush_fails_a_long_fua_write() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    device.fail_once(Operation::Flush, libc::EIO, 0);
    let (_server, mut wire) = serve(&device);
    write(&mut wire, flag::FUA, 0, &vec![1; 2 << 20]);
    assert_eq!(wire.simple().error, EIO);
}

/// Refused writes have their payload read and thrown away, 4 GiB's worth of header notwithstanding: out of range,
/// unknown flag, longer than 32 MiB. The device sees none of them, and the next request is understood.
#[test]
fn refused_writes() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let (_server, mut wire) = serve(&device);
    for (flags, offset, length, error) in
        [(0, SIZE - 1, 512, ENOSPC), (flag::DF, 0, 512, EINVAL), (0, 0, (32 << 20) + 1, EINVAL), (0, 0, 0, EINVAL)]
    {
        write(&mut wire, flags, offset, &vec![7; length]);
        assert_eq!(wire.simple().error, error);
    }
    assert_eq!(device.calls(), []);
    wire.ask(cmd::FLUSH, 0, 0);
    assert_eq!(wire.simple().error, 0);
}

/// The device's errors reach the client as the protocol's values.
#[test]
fn device_errors() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let rows = [
        (Operation::Read, libc::EIO, cmd::READ, 0, EIO),
        (Operation::Flush, libc::ENOSPC, cmd::FLUSH, 0, ENOSPC),
        (Operation::Discard, libc::EOPNOTSUPP, cmd::TRIM, 0, EIO),
        (Operation::WriteZeroes, libc::EOPNOTSUPP, cmd::WRITE_ZEROES, flag::FAST_ZERO, ENOTSUP),
        (Operation::WriteZeroes, libc::EDQUOT, cmd::WRITE_ZEROES, 0, ENOSPC),
        (Operation::Read, libc::ESHUTDOWN, cmd::READ, 0, ESHUTDOWN),
    ];
    let (_server, mut wire) = serve(&device);
    for (operation, errno, command, flags, error) in rows {
        device.fail_once(operation, errno, 0);
        let length = if command == cmd::FLUSH { 0 } else { 512 };
        wire.send(&request(false, flags, command, 5, 0, length));
        assert_eq!(wire.simple_with(0).error, error);
    }
}

/// A read-only device is never asked to write.
#[test]
fn read_only() {
    let device = Arc::new(MemoryDevice::new_read_only(SIZE));
    let (_server, mut wire) = serve(&device);
    write(&mut wire, 0, 0, &[1; 512]);
    assert_eq!(wire.simple().error, EPERM);
    for command in [cmd::TRIM, cmd::WRITE_ZEROES] {
        wire.ask(command, 0, 512);
        assert_eq!(wire.simple().error, EPERM);
    }
    assert_eq!(device.calls(), []);
}

/// The longest read is served whole, and small ones after it.
#[test]
fn longest_read() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let mut data = Numbers(5).bytes(1 << 20);
    device.write(&mut data.clone(), (31 << 20) + 5, WriteFlags::default()).expect("written");
    let (_server, mut wire) = serve(&device);
    wire.ask(cmd::READ, 5, 32 << 20);
    let reply = wire.simple_with(32 << 20);
    assert!(reply.payload[31 << 20..] == data);
    wire.ask(cmd::READ, (31 << 20) + 5, 16);
    data.truncate(16);
    assert_eq!(wire.simple_with(16).payload, data);
}

/// A connection ends without a reply: at DISC, after serving what came before it, and at a wrong magic likewise.
#[test]
fn endings() {
    for last in [request(false, 0, cmd::DISC, 0, 0, 0), vec![0; 28]] {
        let device = Arc::new(MemoryDevice::new(SIZE));
        let (_server, mut wire) = serve(&device);
        wire.send(&[request(false, 0, cmd::READ, 9, 0, 10), last, request(false, 0, cmd::FLUSH, 0, 0, 0)].concat());
        assert_eq!(wire.simple_with(10).cookie, 9);
        wire.assert_ended();
        assert_eq!(device.count(Operation::Flush), 0);
    }
}

/// A client that has closed its sending half still gets every reply.
#[test]
fn half_closed() {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let listening = Listening::new(device, options());
    let mut wire = listening.connect().negotiated(ebscrypt_nbd::proto::option::STRUCTURED_REPLY);
    (0..100).for_each(|index| wire.ask(cmd::READ, index * 4096, 4096));
    wire.finish();
    for index in 0..100 {
        assert_eq!(wire.chunk().cookie, index * 4096);
    }
    wire.assert_ended();
}
