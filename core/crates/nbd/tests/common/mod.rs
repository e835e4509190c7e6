//! What the protocol tests share: builders of a client's messages and readers of the server's, written against the
//! protocol document and not with the crate's own writers.

#![allow(dead_code)] // each test file is a crate of its own and uses its part

pub mod wire;

use ebscrypt_nbd::handshake::{Export, Handshake, Progress};
use ebscrypt_nbd::proto::{self, option_reply};

pub const SIZE: u64 = 16 << 20;

/// An option as a client sends it.
pub fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The data of INFO and GO.
pub fn go_data(name: &[u8], wishes: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((wishes.len() as u16).to_be_bytes());
    wishes.iter().for_each(|wish| data.extend(wish.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn meta_data(name: &[u8], queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(string(query.as_bytes())));
    data
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

/// One reply to an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionReply {
    pub option: u32,
    pub kind: u32,
    pub data: Vec<u8>,
}

/// Read replies until the bytes end; they must end where a reply does.
pub fn option_replies(mut bytes: &[u8]) -> Vec<OptionReply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(number(&bytes[..8]), 0x0003_e889_0455_65a9, "the magic of a reply to an option");
        let (option, kind) = (number(&bytes[8..12]) as u32, number(&bytes[12..16]) as u32);
        let end = 20 + number(&bytes[16..20]) as usize;
        replies.push(OptionReply { option, kind, data: bytes[20..end].to_vec() });
        bytes = &bytes[end..];
    }
    replies
}

/// A big-endian number of up to eight bytes.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

pub fn export() -> Export {
    let flags = ebscrypt_nbd::base_flags(false);
    Export { name: "vol-1".into(), description: "a volume".into(), size: SIZE, flags }
}

/// Feed everything, as much at a time as the machine wants; stops where the machine does.
pub fn feed(handshake: &mut Handshake, mut bytes: &[u8]) -> Progress {
    let mut progress = Progress::Continue;
    while !bytes.is_empty() && progress == Progress::Continue {
        let taken;
        (taken, progress) = handshake.receive(bytes);
        bytes = &bytes[taken..];
    }
    progress
}

/// A client in its option haggling, with a fixed newstyle server.
pub struct Haggler(pub Handshake);

impl Haggler {
    pub fn new() -> Haggler {
        let mut handshake = Handshake::new(export());
        handshake.replies().clear();
        assert_eq!(feed(&mut handshake, &[0, 0, 0, 3]), Progress::Continue);
        Haggler(handshake)
    }

    /// With structured replies agreed on.
    pub fn structured() -> Haggler {
        let mut haggler = Haggler::new();
        assert_eq!(haggler.kinds(proto::option::STRUCTURED_REPLY, &[]), [option_reply::ACK]);
        haggler
    }

    /// With extended headers agreed on.
    pub fn extended() -> Haggler {
        let mut haggler = Haggler::new();
        assert_eq!(haggler.kinds(proto::option::EXTENDED_HEADERS, &[]), [option_reply::ACK]);
        haggler
    }

    /// Send one option; what came of it.
    pub fn send(&mut self, code: u32, data: &[u8]) -> (Vec<OptionReply>, Progress) {
        let progress = feed(&mut self.0, &option(code, data));
        let replies = option_replies(&std::mem::take(self.0.replies()));
        replies.iter().for_each(|reply| assert_eq!(reply.option, code, "a reply names the option it is for"));
        (replies, progress)
    }

    /// Send one option that does not end the handshake; the kinds of the replies.
    pub fn kinds(&mut self, code: u32, data: &[u8]) -> Vec<u32> {
        let (replies, progress) = self.send(code, data);
        assert_eq!(progress, Progress::Continue);
        replies.iter().map(|reply| reply.kind).collect()
    }
}

/// A request's header.
pub fn request(extended: bool, flags: u16, command: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    if extended {
        bytes.extend(length.to_be_bytes());
    } else {
        bytes.extend((length as u32).to_be_bytes());
    }
    bytes
}

/// A generator of the same numbers every time: splitmix64.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
