//! The handshake machine's metadata contexts: listing, selecting, replacing.

mod common;

use common::{Haggler, go_data, meta_data};
use ebscrypt_nbd::Terms;
use ebscrypt_nbd::handshake::{MAX_OPTION_DATA, Progress};
use ebscrypt_nbd::proto::option as opt;
use ebscrypt_nbd::proto::option_reply::{ACK, ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN, META_CONTEXT};

fn terms(progress: Progress) -> Terms {
    match progress {
        Progress::Transmission(terms) => terms,
        other => panic!("transmission expected, not {other:?}"),
    }
}

/// Contexts need structured replies or extended headers first.
#[test]
fn contexts_need_chunks() {
    for code in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
        let data = meta_data(b"", &["base:allocation"]);
        assert_eq!(Haggler::new().kinds(code, &data), [ERR_INVALID]);
        assert_eq!(Haggler::structured().kinds(code, &data), [META_CONTEXT, ACK]);
        assert_eq!(Haggler::extended().kinds(code, &data), [META_CONTEXT, ACK]);
    }
}

/// Listing finds the context by no query, by its namespace and by its name, once; unknown namespaces find nothing.
#[test]
fn list_contexts() {
    let found: &[&[&str]] = &[&[], &["base:"], &["base:allocation"], &["x-y:z", "base:", "base:allocation"]];
    let missed: &[&[&str]] = &[&["x-y:z"], &["base:other"], &["qemu:dirty-bitmap:b0"]];
    for queries in found {
        let (replies, _) = Haggler::structured().send(opt::LIST_META_CONTEXT, &meta_data(b"vol-1", queries));
        assert_eq!((replies.len(), &replies[0].data[..]), (2, &b"\0\0\0\0base:allocation"[..]));
    }
    for queries in missed {
        assert_eq!(Haggler::structured().kinds(opt::LIST_META_CONTEXT, &meta_data(b"", queries)), [ACK]);
    }
}

/// Selecting takes the full name; wildcards, unknown contexts and an empty list select nothing.
#[test]
fn set_contexts() {
    for (queries, selected) in
        [(&["base:allocation"][..], true), (&["base:"], false), (&["base:x", "x-y:z"], false), (&[], false)]
    {
        let mut haggler = Haggler::structured();
        let (replies, _) = haggler.send(opt::SET_META_CONTEXT, &meta_data(b"", queries));
        assert_eq!(replies.len(), if selected { 2 } else { 1 });
        if selected {
            assert_eq!(&replies[0].data[..], b"\0\0\0\x01base:allocation");
        }
        assert_eq!(terms(haggler.send(opt::GO, &go_data(b"", &[])).1).allocation, selected);
    }
}

/// The data of a second SET_META_CONTEXT, its replies, the name that GO uses, and whether the context is selected then.
type Replacement<'case> = (Vec<u8>, &'case [u32], &'case [u8], bool);

/// Each SET_META_CONTEXT replaces the last, also when it fails; and it counts for the name that it was sent for only.
#[test]
fn contexts_are_replaced() {
    let set = |haggler: &mut Haggler, data: &[u8]| haggler.kinds(opt::SET_META_CONTEXT, data);
    let good = meta_data(b"", &["base:allocation"]);
    let cases: [Replacement<'_>; 6] = [
        (good.clone(), &[META_CONTEXT, ACK], b"", true),
        (good.clone(), &[META_CONTEXT, ACK], b"vol-1", false),
        (meta_data(b"", &[]), &[ACK], b"", false),
        (meta_data(b"vol-2", &["base:allocation"]), &[ERR_UNKNOWN], b"", false),
        (good[..good.len() - 1].to_vec(), &[ERR_INVALID], b"", false),
        (vec![0; MAX_OPTION_DATA as usize + 1], &[ERR_TOO_BIG], b"", false),
    ];
    for (second, kinds, name, selected) in cases {
        let mut haggler = Haggler::structured();
        set(&mut haggler, &good);
        assert_eq!(set(&mut haggler, &second), kinds);
        assert_eq!(terms(haggler.send(opt::GO, &go_data(name, &[])).1).allocation, selected);
    }
}

/// Malformed queries are invalid: a count beyond the data, a length beyond the data, bytes left over, no colon.
#[test]
fn contexts_malformed() {
    let good = meta_data(b"", &["base:allocation"]);
    let many = [&good[..4], &[0xff; 4], &good[8..]].concat();
    let over = [&good[..8], &[0xff; 4], &good[12..]].concat();
    let left = [&good[..], b"x"].concat();
    for data in [&b""[..], &many, &over, &left, &meta_data(b"", &["allocation"]), &meta_data(b"", &[""])] {
        for code in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
            assert_eq!(Haggler::structured().kinds(code, data), [ERR_INVALID], "{data:?}");
        }
    }
}
