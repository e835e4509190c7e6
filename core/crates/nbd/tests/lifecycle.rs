//! Connections as the server sees them: places, deadlines, stopping, and clients and devices that misbehave.

mod common;

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::request;
use common::wire::{Listening, PATIENCE, Wire, eventually, options, server};
use ebscrypt_device::testing::MemoryDevice;
use ebscrypt_device::{Device, Extent, Operation, Result, WriteFlags, ZeroFlags};
use ebscrypt_nbd::proto::command as cmd;
use ebscrypt_nbd::proto::option::STRUCTURED_REPLY;
use ebscrypt_nbd::{Options, base_flags};

const SIZE: u64 = 64 << 20;

fn device() -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(SIZE))
}

/// A client beyond the limit waits in the queue, and gets in when another leaves.
#[test]
fn places_are_limited() {
    let listening = Listening::new(device(), Options { max_connections: 2, ..options() });
    let first = listening.connect().negotiated(STRUCTURED_REPLY);
    let _second = listening.connect().negotiated(STRUCTURED_REPLY);
    let third = listening.connect();
    third.stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let mut byte = [0];
    let result = std::io::Read::read(&mut &third.stream, &mut byte);
    assert_eq!(result.expect_err("no greeting yet").kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(listening.server.connections(), 2);
    drop(first);
    Wire::new(third.stream, false).negotiated(STRUCTURED_REPLY);
}

/// A client that is silent in its handshake, or talks too slowly, loses its place at the deadline.
#[test]
fn handshake_deadline() {
    let timeout = Duration::from_secs(1);
    let listening = Listening::new(device(), Options { max_connections: 2, handshake_timeout: timeout, ..options() });
    let started = Instant::now();
    let mut silent = listening.connect();
    let mut slow = listening.connect();
    let dripping = std::thread::spawn(move || {
        // An endless option, a byte at a time: each of them comes in time, all of them never.
        let bytes = [&[0, 0, 0, 3][..], b"IHAVEOPT\0\0\0\x07\0\0\xff\xff", &[0; 1000]].concat();
        for byte in bytes {
            if std::io::Write::write_all(&mut slow.stream, &[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("nobody cut the slow client off");
    });
    silent.receive(18);
    silent.assert_ended();
    assert!(started.elapsed() >= timeout);
    dripping.join().expect("cut off");
    listening.connect().negotiated(STRUCTURED_REPLY);
}

/// A handshake that was completed in time has no deadline any more.
#[test]
fn no_deadline_after_the_handshake() {
    let timeout = Duration::from_secs(1);
    let listening = Listening::new(device(), Options { handshake_timeout: timeout, ..options() });
    let mut wire = listening.connect().negotiated(STRUCTURED_REPLY);
    std::thread::sleep(timeout + timeout / 4);
    wire.ask(cmd::FLUSH, 0, 0);
    assert_eq!(wire.simple().error, 0);
}

/// Stopping waits for the request under way, serves those that had arrived, and then ends every connection.
#[test]
fn stop_finishes_what_was_sent() {
    let device = device();
    let listening = Listening::new(Arc::clone(&device) as Arc<dyn Device>, options());
    let mut busy = listening.connect().negotiated(STRUCTURED_REPLY);
    let mut idle = listening.connect().negotiated(STRUCTURED_REPLY);
    let mut haggling = listening.connect();
    haggling.receive(18);
    device.hold();
    busy.send(&[request(false, 0, cmd::FLUSH, 1, 0, 0), request(false, 0, cmd::FLUSH, 2, 0, 0)].concat());
    device.wait_until_held(1);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| listening.server.stop(PATIENCE));
        idle.assert_ended();
        haggling.assert_ended();
        assert!(!stopping.is_finished());
        device.release();
        assert!(stopping.join().expect("stopped"), "nobody had to be cut off");
    });
    assert_eq!((busy.simple().cookie, busy.simple().cookie), (1, 2));
    busy.assert_ended();
    assert_eq!(listening.server.connections(), 0);
}

/// A client that never reads cannot keep a server from stopping; it is cut off, and the caller is told.
#[test]
fn stop_cuts_who_does_not_read() {
    let server = server(device());
    let mut wire = Wire::adopted(&server);
    wire.ask(cmd::READ, 0, 32 << 20);
    wire.receive(16);
    assert!(!server.stop(Duration::from_millis(50)));
    eventually(|| server.connections() == 0);
}

/// A device that does not answer cannot keep a server from stopping either.
#[test]
fn stop_with_a_stuck_device() {
    let device = device();
    let server = server(Arc::clone(&device) as Arc<dyn Device>);
    let mut wire = Wire::adopted(&server);
    device.hold();
    wire.ask(cmd::FLUSH, 0, 0);
    device.wait_until_held(1);
    assert!(!server.stop(Duration::from_millis(50)));
    assert_eq!(server.connections(), 1, "its thread waits for the device");
    device.release();
    eventually(|| server.connections() == 0);
}

/// After a stop nobody gets in any more, and stopping again is nothing.
#[test]
fn stopped_for_good() {
    let listening = Listening::new(device(), options());
    assert!(listening.server.stop(PATIENCE));
    assert!(listening.server.stop(PATIENCE));
    let late = UnixListener::bind(listening.path.with_extension("late")).expect("a socket");
    let error = listening.server.listen(late.into()).expect_err("stopped");
    assert_eq!(error.raw_os_error(), Some(libc::ESHUTDOWN));
    let (_ours, theirs) = UnixStream::pair().expect("a pair");
    assert_eq!(listening.server.adopt(theirs.into()).expect_err("stopped").raw_os_error(), Some(libc::ESHUTDOWN));
    std::fs::remove_file(listening.path.with_extension("late")).expect("removed");
}

/// Dropping the server ends its connections.
#[test]
fn dropped() {
    let server = server(device());
    let mut wire = Wire::adopted(&server);
    drop(server);
    wire.assert_ended();
}

/// A client that dies in the middle of a payload leaves its place. Of a write of up to 256 KiB the device sees nothing,
/// of a longer one at most what was sent, in whole sectors.
#[test]
fn killed_in_mid_payload() {
    for (length, seen) in [(256 << 10, 0), (1 << 20, 98304)] {
        let device = device();
        let server = server(Arc::clone(&device) as Arc<dyn Device>);
        let mut wire = Wire::adopted(&server);
        wire.ask(cmd::WRITE, 0, length);
        wire.send(&[1; 100_000]);
        drop(wire);
        eventually(|| server.connections() == 0);
        assert_eq!(device.calls().iter().map(|call| call.length).sum::<u64>(), seen);
    }
}

/// Clients that come and go at once, in any number, leave nothing behind.
#[test]
fn many_connects() {
    let listening = Listening::new(device(), options());
    (0..300).for_each(|_| drop(listening.connect()));
    listening.connect().negotiated(STRUCTURED_REPLY);
    eventually(|| listening.server.connections() == 0);
}

/// A device that panics on reading, and otherwise serves.
struct Explosive(MemoryDevice);

impl Device for Explosive {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_only(&self) -> bool {
        self.0.read_only()
    }
    fn alignment(&self) -> u32 {
        self.0.alignment()
    }
    fn read(&self, _buffer: &mut [u8], _offset: u64) -> Result<()> {
        panic!("as the test wants it");
    }
    fn write(&self, buffer: &mut [u8], offset: u64, flags: WriteFlags) -> Result<()> {
        self.0.write(buffer, offset, flags)
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
    fn discard(&self, offset: u64, length: u64, flags: WriteFlags) -> Result<()> {
        self.0.discard(offset, length, flags)
    }
    fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<()> {
        self.0.write_zeroes(offset, length, flags)
    }
    fn extents(&self, offset: u64, length: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.0.extents(offset, length, each)
    }
}

/// A panic ends the connection in which it happens, frees its place, and leaves the others alone.
#[test]
fn panic_in_one_connection() {
    let device = Arc::new(Explosive(MemoryDevice::new(SIZE)));
    let server = server(Arc::clone(&device) as Arc<dyn Device>);
    let (mut victim, mut other) = (Wire::adopted(&server), Wire::adopted(&server));
    victim.ask(cmd::READ, 0, 512);
    victim.assert_ended();
    eventually(|| server.connections() == 1);
    other.ask(cmd::FLUSH, 0, 0);
    assert_eq!((other.simple().error, device.0.count(Operation::Flush)), (0, 1));
}

/// A connection that has ended is seen to end although another descriptor of its socket is still open, as the one is
/// from which a socket was adopted: after a goodbye, and after a panic.
#[test]
fn adopted_socket_ends_for_good() {
    let device: Arc<dyn Device> = Arc::new(Explosive(MemoryDevice::new(SIZE)));
    let server = server(device);
    for command in [cmd::DISC, cmd::READ] {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        server.adopt(theirs.try_clone().expect("a duplicate").into()).expect("adopted");
        let mut wire = Wire::new(ours, false);
        wire.ask(command, 0, 512);
        wire.assert_ended();
        drop(theirs);
    }
}

/// The flags for the kernel's client are those of simple replies, and say what a read-only device does not do.
#[test]
fn transmission_flags() {
    assert_eq!(server(device()).transmission_flags(), base_flags(false));
    assert_eq!(base_flags(false), 0b1101_0110_1101);
    let read_only = server(Arc::new(MemoryDevice::new_read_only(SIZE)));
    assert_eq!(read_only.transmission_flags(), 0b0101_0000_1111);
}
