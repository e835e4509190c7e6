//! The handshake machine, option by option and error by error.

mod common;

use common::{Haggler, SIZE, export, feed, go_data, meta_data, number, option};
use ebscrypt_nbd::handshake::{Handshake, MAX_OPTION_DATA, MAX_OPTIONS, MAX_SKIP, Progress};
use ebscrypt_nbd::proto::option_reply::{
    ACK, ERR_EXT_HEADER_REQD, ERR_INVALID, ERR_SHUTDOWN, ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, INFO, SERVER,
};
use ebscrypt_nbd::proto::{option as opt, transmission_flag as flag};
use ebscrypt_nbd::{Headers, Terms};

const SIMPLE: Terms = Terms::SIMPLE;

fn terms(progress: Progress) -> Terms {
    match progress {
        Progress::Transmission(terms) => terms,
        other => panic!("transmission expected, not {other:?}"),
    }
}

/// The greeting is the newstyle one and offers fixed newstyle and no zeroes, nothing else.
#[test]
fn greeting() {
    let mut handshake = Handshake::new(export());
    assert_eq!(handshake.replies().as_slice(), b"NBDMAGICIHAVEOPT\x00\x03");
    assert_eq!(handshake.wants(), 4);
}

/// Client flags that the server did not offer end the connection at once.
#[test]
fn unknown_client_flags_close() {
    for flags in [4u32, 1 << 31, 7] {
        let mut handshake = Handshake::new(export());
        assert_eq!(handshake.receive(&flags.to_be_bytes()), (4, Progress::Close));
        assert_eq!(handshake.wants(), 0);
    }
}

/// A client without fixed newstyle can use EXPORT_NAME only: nothing else could be answered.
#[test]
fn plain_newstyle_knows_export_name_only() {
    for (code, expected) in [(opt::EXPORT_NAME, Progress::Transmission(SIMPLE)), (opt::LIST, Progress::Close)] {
        let mut handshake = Handshake::new(export());
        assert_eq!(feed(&mut handshake, &[0; 4]), Progress::Continue);
        assert_eq!(feed(&mut handshake, &option(code, b"")), expected);
    }
}

/// EXPORT_NAME answers with size and flags, and 124 zeros unless both sides do without.
#[test]
fn export_name_reply() {
    for (client_flags, length) in [(1u8, 8 + 2 + 124), (3, 8 + 2)] {
        let mut handshake = Handshake::new(export());
        handshake.replies().clear();
        feed(&mut handshake, &[0, 0, 0, client_flags]);
        assert_eq!(feed(&mut handshake, &option(opt::EXPORT_NAME, b"vol-1")), Progress::Transmission(SIMPLE));
        let reply = handshake.replies();
        assert_eq!(reply.len(), length);
        assert_eq!(number(&reply[..8]), SIZE);
        assert_eq!(number(&reply[8..10]) as u16, export().flags);
        assert!(reply[10..].iter().all(|byte| *byte == 0));
    }
}

/// EXPORT_NAME cannot be refused, so an unknown or overlong name ends the connection without a word.
#[test]
fn export_name_unknown_closes() {
    for name in [&b"other"[..], &[b'n'; 4097]] {
        let mut haggler = Haggler::new();
        assert_eq!(haggler.send(opt::EXPORT_NAME, name), (vec![], Progress::Close));
    }
}

/// With extended headers a client MUST NOT use EXPORT_NAME; one that does is cut off.
#[test]
fn export_name_after_extended_headers_closes() {
    assert_eq!(Haggler::extended().send(opt::EXPORT_NAME, b""), (vec![], Progress::Close));
}

/// ABORT is acknowledged, whatever data came with it, and ends the handshake.
#[test]
fn abort() {
    for data in [&b""[..], b"ignored"] {
        let (replies, progress) = Haggler::new().send(opt::ABORT, data);
        assert_eq!((replies.len(), replies[0].kind, progress), (1, ACK, Progress::Close));
    }
}

/// LIST shows the one export with its description.
#[test]
fn list() {
    let (replies, progress) = Haggler::new().send(opt::LIST, b"");
    assert_eq!(progress, Progress::Continue);
    assert_eq!((replies[0].kind, &replies[0].data[..]), (SERVER, &b"\0\0\0\x05vol-1a volume"[..]));
    assert_eq!((replies[1].kind, replies.len()), (ACK, 2));
}

/// There is no TLS here, which STARTTLS hears; the haggling goes on in the clear.
#[test]
fn starttls_is_unsupported() {
    let mut haggler = Haggler::new();
    assert_eq!(haggler.kinds(opt::STARTTLS, b""), [ERR_UNSUP]);
    assert_eq!(haggler.kinds(opt::LIST, b""), [SERVER, ACK]);
}

/// Options that take no data are refused with some, and nothing they would have changed is changed.
#[test]
fn data_where_none_belongs() {
    for code in [opt::LIST, opt::STARTTLS, opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS] {
        let mut haggler = Haggler::new();
        assert_eq!(haggler.kinds(code, b"x"), [ERR_INVALID]);
        assert_eq!(terms(haggler.send(opt::GO, &go_data(b"", &[])).1), SIMPLE);
    }
}

/// Unknown options, the withdrawn PEEK_EXPORT among them, are skipped with their data and refused.
#[test]
fn unknown_options() {
    let mut haggler = Haggler::new();
    for code in [0, 4, 12, 0xffff_ffff] {
        assert_eq!(haggler.kinds(code, &[0xee; 70_000]), [ERR_UNSUP]);
    }
    assert_eq!(haggler.kinds(opt::LIST, b""), [SERVER, ACK]);
}

/// INFO and GO always tell size, flags and block sizes, name and description when asked, and ignore unknown wishes.
#[test]
fn info_and_go() {
    for (code, end) in [(opt::INFO, Progress::Continue), (opt::GO, Progress::Transmission(SIMPLE))] {
        for name in [&b""[..], b"vol-1"] {
            let (replies, progress) = Haggler::new().send(code, &go_data(name, &[2, 77, 1]));
            assert_eq!(progress, end);
            assert_eq!(replies.iter().map(|reply| reply.kind).collect::<Vec<_>>(), [INFO, INFO, INFO, INFO, ACK]);
            let data: Vec<_> = replies.iter().map(|reply| &reply.data[..]).collect();
            let mut size_and_flags = vec![0, 0];
            size_and_flags.extend(SIZE.to_be_bytes());
            size_and_flags.extend(export().flags.to_be_bytes());
            assert_eq!(data[0], size_and_flags);
            assert_eq!(data[1], b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0");
            assert_eq!((data[2], data[3]), (&b"\0\x01vol-1"[..], &b"\0\x02a volume"[..]));
        }
        assert_eq!(Haggler::new().send(code, &go_data(b"", &[])).0.len(), 3);
    }
}

/// INFO and GO with lengths that do not fit are invalid: too short, too long, a name beyond the data, odd wishes.
#[test]
fn info_malformed() {
    let good = go_data(b"vol-1", &[3]);
    let long = [&good[..], b"x"].concat();
    let lying = [&[0xff; 4][..], &good[4..]].concat();
    for data in
        [&b""[..], &good[..3], &good[..good.len() - 1], &long, &lying, &go_data(b"\xff", &[]), &go_data(b"a\0", &[])]
    {
        for code in [opt::INFO, opt::GO] {
            assert_eq!(Haggler::new().kinds(code, data), [ERR_INVALID], "{data:?}");
        }
    }
}

/// An unknown export, and a name longer than the protocol's strings, are told as what they are; GO may be tried again.
#[test]
fn go_unknown_export() {
    let mut haggler = Haggler::new();
    assert_eq!(haggler.kinds(opt::GO, &go_data(b"vol-2", &[])), [ERR_UNKNOWN]);
    assert_eq!(haggler.kinds(opt::GO, &go_data(&[b'n'; 4097], &[])), [ERR_TOO_BIG]);
    assert_eq!(terms(haggler.send(opt::GO, &go_data(b"vol-1", &[])).1), SIMPLE);
}

/// DF is offered with structured and extended replies only, filtering of BLOCK_STATUS with extended headers and a
/// context only.
#[test]
fn flags_follow_the_terms() {
    let flags = |haggler: &mut Haggler| {
        let (replies, _) = haggler.send(opt::INFO, &go_data(b"", &[]));
        number(&replies[0].data[10..]) as u16 & (flag::SEND_DF | flag::BLOCK_STATUS_PAYLOAD)
    };
    assert_eq!(flags(&mut Haggler::new()), 0);
    assert_eq!(flags(&mut Haggler::structured()), flag::SEND_DF);
    let mut extended = Haggler::extended();
    assert_eq!(flags(&mut extended), flag::SEND_DF);
    extended.kinds(opt::SET_META_CONTEXT, &meta_data(b"", &["base:allocation"]));
    assert_eq!(flags(&mut extended), flag::SEND_DF | flag::BLOCK_STATUS_PAYLOAD);
}

/// Header forms can be asked for once; from extended headers there is no way back.
#[test]
fn header_forms() {
    let mut haggler = Haggler::structured();
    assert_eq!(haggler.kinds(opt::STRUCTURED_REPLY, b""), [ERR_INVALID]);
    assert_eq!(haggler.kinds(opt::EXTENDED_HEADERS, b""), [ACK]);
    assert_eq!(haggler.kinds(opt::EXTENDED_HEADERS, b""), [ERR_INVALID]);
    assert_eq!(haggler.kinds(opt::STRUCTURED_REPLY, b""), [ERR_EXT_HEADER_REQD]);
    assert_eq!(terms(haggler.send(opt::GO, &go_data(b"", &[])).1).headers, Headers::Extended);
}

/// Too much data is skipped and refused up to a limit; beyond it the connection ends before any of it is read.
#[test]
fn oversize_options() {
    let mut haggler = Haggler::structured();
    for code in [opt::INFO, opt::GO, opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
        assert_eq!(haggler.kinds(code, &vec![0; MAX_OPTION_DATA as usize + 1]), [ERR_TOO_BIG]);
    }
    let header = [b"IHAVEOPT\0\0\0\x07".as_slice(), &(MAX_SKIP + 1).to_be_bytes()].concat();
    assert_eq!(feed(&mut haggler.0, &header), Progress::Close);
}

/// A client may not haggle for ever.
#[test]
fn number_of_options_is_bounded() {
    let mut haggler = Haggler::new();
    for _ in 0..MAX_OPTIONS {
        assert_eq!(haggler.kinds(99, b""), [ERR_UNSUP]);
    }
    assert_eq!(haggler.send(99, b"").1, Progress::Close);
}

/// A wrong magic before an option ends the connection.
#[test]
fn wrong_option_magic_closes() {
    let mut bytes = option(opt::LIST, b"");
    bytes[7] ^= 1;
    assert_eq!(feed(&mut Haggler::new().0, &bytes), Progress::Close);
}

/// A server that is ending says so to every option but ABORT, and lets nobody in.
#[test]
fn shutting_down() {
    let mut haggler = Haggler::new();
    haggler.0.shut_down();
    assert_eq!(haggler.kinds(opt::LIST, b""), [ERR_SHUTDOWN]);
    assert_eq!(haggler.kinds(opt::GO, &go_data(b"", &[])), [ERR_SHUTDOWN]);
    assert_eq!(haggler.send(opt::ABORT, b"").1, Progress::Close);
    let mut haggler = Haggler::new();
    haggler.0.shut_down();
    assert_eq!(haggler.send(opt::EXPORT_NAME, b"").1, Progress::Close);
}

/// The machine never takes a byte beyond what it wants: what is sent early stays where it is, for its turn.
#[test]
fn takes_no_more_than_it_wants() {
    let early = [option(opt::GO, &go_data(b"", &[])), b"first request".to_vec()].concat();
    let mut handshake = Haggler::new().0;
    let mut rest = &early[..];
    loop {
        let wanted = handshake.wants();
        let (taken, progress) = handshake.receive(rest);
        assert!(taken <= wanted);
        rest = &rest[taken..];
        if progress != Progress::Continue {
            break;
        }
    }
    assert_eq!(rest, b"first request");
    assert_eq!(handshake.receive(rest), (0, Progress::Close));
}

/// Bytes may come one at a time.
#[test]
fn byte_by_byte() {
    let conversation = [
        vec![0, 0, 0, 3],
        option(opt::STRUCTURED_REPLY, b""),
        option(50, b"unknown"),
        option(opt::SET_META_CONTEXT, &meta_data(b"vol-1", &["base:allocation"])),
        option(opt::GO, &go_data(b"vol-1", &[3])),
    ]
    .concat();
    let mut handshake = Handshake::new(export());
    let (last, all) = conversation.split_last().expect("not empty");
    for byte in all {
        assert_eq!(handshake.receive(&[*byte]), (1, Progress::Continue));
    }
    let expected = Terms { headers: Headers::Structured, allocation: true };
    assert_eq!(handshake.receive(&[*last]), (1, Progress::Transmission(expected)));
}
