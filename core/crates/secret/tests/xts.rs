//! The cipher against the standard's vectors, and its behaviour under threads, wiping and wrong arguments.

use ebscrypt_secret::{Kind, SecretMemory, XtsCipher};

const VECTORS: &str = include_str!("../../../../tests/vectors/ieee1619.txt");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|index| u8::from_str_radix(&hex[index..index + 2], 16).unwrap()).collect()
}

fn field<'a>(vector: &'a str, name: &str) -> Option<&'a str> {
    vector.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
}

fn memory_of(key: &[u8]) -> SecretMemory {
    let mut memory = SecretMemory::new(key.len()).unwrap();
    memory.fill(key).unwrap();
    memory
}

/// A key whose halves differ.
fn example_key() -> Vec<u8> {
    (0..64).collect()
}

/// Each vector of IEEE 1619 for AES-256 turns into the standard's ciphertext and back; equal halves are refused.
#[test]
fn ieee_1619_vectors() {
    let mut turned = 0;
    let mut refused = 0;
    for vector in VECTORS.split("\n\n").filter(|vector| vector.contains("vector = ")) {
        let cipher = XtsCipher::new(&memory_of(&bytes(field(vector, "key").unwrap())));
        if field(vector, "refused").is_some() {
            assert_eq!(cipher.err().unwrap().raw_os_error(), Some(libc::EINVAL));
            refused += 1;
            continue;
        }
        let cipher = cipher.unwrap();
        let unit = u64::from_str_radix(field(vector, "unit").unwrap().trim_start_matches("0x"), 16).unwrap();
        let plaintext = bytes(field(vector, "plaintext").unwrap());
        let mut data = plaintext.clone();
        cipher.encrypt(&mut data, 512, unit * 512).unwrap();
        assert_eq!(data, bytes(field(vector, "ciphertext").unwrap()));
        cipher.decrypt(&mut data, 512, unit * 512).unwrap();
        assert_eq!(data, plaintext);
        turned += 1;
    }
    assert_eq!((turned, refused), (5, 1));
}

/// A sector's tweak is the number of its first 512-byte unit: many sectors at once equal one by one, and a sector of
/// 4096 bytes begins as the 512-byte sector of the same unit does.
#[test]
fn tweak_counts_units_of_512() {
    let cipher = XtsCipher::new(&memory_of(&example_key())).unwrap();
    let offset = 3 << 40;
    for sector_size in [512, 4096] {
        let mut together = vec![0x11; 8 * sector_size];
        let mut apart = together.clone();
        cipher.encrypt(&mut together, sector_size, offset).unwrap();
        for (index, sector) in apart.chunks_mut(sector_size).enumerate() {
            cipher.encrypt(sector, sector_size, offset + (index * sector_size) as u64).unwrap();
        }
        assert_eq!(together, apart);
        let mut first_unit = vec![0x11; 512];
        cipher.encrypt(&mut first_unit, 512, offset).unwrap();
        assert_eq!(together[..512], first_unit);
    }
}

/// What is not whole sectors of a known size is refused and left as it was.
#[test]
fn only_whole_sectors() {
    let cipher = XtsCipher::new(&memory_of(&example_key())).unwrap();
    for (length, sector_size, offset) in
        [(100, 512, 0), (4096, 4096, 512), (512, 1, 0), (1024, 1024, 0), (4608, 4096, 0)]
    {
        let mut data = vec![1; length];
        let error = cipher.encrypt(&mut data, sector_size, offset).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(data, vec![1; length]);
    }
    for size in [1, 32, 63, 65, 128] {
        assert_eq!(XtsCipher::new(&memory_of(&vec![1; size])).err().unwrap().raw_os_error(), Some(libc::EINVAL));
    }
}

/// More threads than lanes turn sectors at once, and each gets its own right.
#[test]
fn threads_do_not_disturb_each_other() {
    let cipher = XtsCipher::new(&memory_of(&example_key())).unwrap();
    std::thread::scope(|scope| {
        for number in 0..80_u64 {
            let cipher = &cipher;
            scope.spawn(move || {
                let plaintext = vec![number as u8; 16 * 512];
                let mut data = plaintext.clone();
                for round in 0..20 {
                    cipher.encrypt(&mut data, 512, (number * 1000 + round) * 512).unwrap();
                    assert_ne!(data, plaintext);
                    cipher.decrypt(&mut data, 512, (number * 1000 + round) * 512).unwrap();
                    assert_eq!(data, plaintext);
                }
            });
        }
    });
}

/// The cipher needs the key's memory only while it is made; once wiped it turns nothing any more, however often.
#[test]
fn wiped_cipher_fails() {
    let key = memory_of(&example_key());
    let cipher = XtsCipher::new(&key).unwrap();
    drop(key);
    cipher.encrypt(&mut [0; 512], 512, 0).unwrap();
    cipher.wipe();
    cipher.wipe();
    let mut data = [5; 512];
    assert_eq!(cipher.encrypt(&mut data, 512, 0).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(cipher.decrypt(&mut data, 512, 0).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(data, [5; 512]);
}

/// A wiped cipher works again with a key given anew, its own or another; a key that is none leaves it wiped.
#[test]
fn rekeyed_cipher_turns_with_the_new_key() {
    let (own, other) = (memory_of(&example_key()), memory_of(&(1..65).collect::<Vec<u8>>()));
    let cipher = XtsCipher::new(&own).unwrap();
    let turned = |cipher: &XtsCipher| {
        let mut data = [5; 512];
        cipher.encrypt(&mut data, 512, 0).map(|()| data)
    };
    let (with_own, with_other) = (turned(&cipher).unwrap(), turned(&XtsCipher::new(&other).unwrap()).unwrap());
    cipher.wipe();
    cipher.rekey(&other).unwrap();
    assert_eq!(turned(&cipher).unwrap(), with_other);
    cipher.rekey(&own).unwrap();
    assert_eq!(turned(&cipher).unwrap(), with_own);
    assert_eq!(cipher.rekey(&memory_of(&[1; 64])).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(turned(&cipher).unwrap_err().raw_os_error(), Some(libc::EIO));
}

/// Fingerprints are equal exactly where keys are, down to the last bit of either half; a wiped cipher has none.
#[test]
fn fingerprint_tells_keys_apart() {
    let fingerprint = |key: &[u8]| XtsCipher::new(&memory_of(key)).unwrap().fingerprint().unwrap();
    let key = example_key();
    assert_eq!(fingerprint(&key), fingerprint(&key));
    for index in [0, 31, 32, 63] {
        let mut wrong = key.clone();
        wrong[index] ^= 1;
        assert_ne!(fingerprint(&wrong), fingerprint(&key));
    }
    let cipher = XtsCipher::new(&memory_of(&key)).unwrap();
    cipher.wipe();
    assert_eq!(cipher.fingerprint().unwrap_err().raw_os_error(), Some(libc::EIO));
}

/// A key in the fallback's memory makes the same cipher.
#[test]
fn fallback_memory_makes_the_same_cipher() {
    let mut fallback = SecretMemory::with_kind(Kind::Memfd, 64).unwrap();
    fallback.fill(&example_key()).unwrap();
    let (mut left, mut right) = ([7; 4096], [7; 4096]);
    XtsCipher::new(&fallback).unwrap().encrypt(&mut left, 4096, 8192).unwrap();
    XtsCipher::new(&memory_of(&example_key())).unwrap().encrypt(&mut right, 4096, 8192).unwrap();
    assert_eq!(left, right);
}
