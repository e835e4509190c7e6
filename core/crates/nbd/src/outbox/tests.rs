//! What is sent, however little of it the kernel takes at a time.

use super::{CAPACITY, ENOUGH_REPLIES, Outbox, PIECES};

/// Everything that `outbox` sends where a call takes at most `most` bytes, and the number of calls.
fn sent(outbox: &mut Outbox, most: usize) -> (Vec<u8>, usize) {
    let (mut bytes, mut calls) = (Vec::new(), 0);
    let result = outbox.send_by(|pieces| {
        assert!(pieces.len() <= PIECES && !pieces[0].is_empty());
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).take(most).collect();
        bytes.extend(&all);
        calls += 1;
        Ok(all.len())
    });
    result.expect("sent");
    (bytes, calls)
}

/// An outbox with replies of one head and some data each, and the bytes that they are.
fn filled(lengths: &[usize]) -> (Outbox, Vec<u8>) {
    let (mut outbox, mut expected) = (Outbox::new().expect("memory"), Vec::new());
    for (index, length) in lengths.iter().enumerate() {
        let (head, data) = (vec![b'h'; 1 + index % 7], vec![index as u8; *length]);
        outbox.slot(*length).expect("memory").copy_from_slice(&data);
        outbox.reply(|out| out.extend(&head));
        outbox.data(*length);
        expected.extend([head, data].concat());
    }
    (outbox, expected)
}

/// Whatever a call takes, all is sent, in order, once; afterwards nothing waits.
#[test]
fn sent_whole_in_any_steps() {
    for most in [1, 2, 7, 100, 4096, usize::MAX] {
        let (mut outbox, expected) = filled(&[1, 4096, 5, 4097, 300]);
        assert!(sent(&mut outbox, most).0 == expected, "{most} bytes at a time");
        assert_eq!(sent(&mut outbox, most), (vec![], 0));
        assert!(outbox.fits(CAPACITY));
    }
}

/// More pieces than one call takes go in several.
#[test]
fn many_pieces() {
    let (mut outbox, expected) = filled(&[1; PIECES]);
    let (bytes, calls) = sent(&mut outbox, usize::MAX);
    assert_eq!((bytes == expected, calls), (true, 2));
}

/// Heads that follow each other are one piece, so that replies without data go in one.
#[test]
fn heads_are_joined() {
    let mut outbox = Outbox::new().expect("memory");
    (0..PIECES * 2).for_each(|_| outbox.reply(|out| out.extend(b"reply")));
    assert_eq!(sent(&mut outbox, usize::MAX).1, 1);
}

/// A slot longer than the buffer is got where nothing waits, and every slot begins at a page.
#[test]
fn slots() {
    let (mut outbox, _) = filled(&[1, 5000]);
    assert_eq!(outbox.slot(10).expect("memory").as_ptr() as usize % 4096, 0);
    assert!(!outbox.fits(CAPACITY));
    sent(&mut outbox, usize::MAX);
    assert_eq!(outbox.slot(CAPACITY * 5 + 1).expect("memory").len(), CAPACITY * 5 + 1);
    assert!(outbox.fits(CAPACITY * 5));
}

/// After enough replies, or enough data, it is time to send.
#[test]
fn due() {
    let (outbox, _) = filled(&[1; ENOUGH_REPLIES - 1]);
    assert!(!outbox.is_due());
    assert!(filled(&[1; ENOUGH_REPLIES]).0.is_due());
    assert!(filled(&[1 << 16]).0.is_due());
}
