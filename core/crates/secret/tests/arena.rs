//! What happens when secret memory is full: a test program of its own, since no other test could work meanwhile.

use ebscrypt_secret::{SecretMemory, XtsCipher};

/// Ciphers fill the arena to a clean ENOMEM, and it holds as many again once they are gone.
#[test]
fn full_arena_is_an_error_and_no_more() {
    let mut key = SecretMemory::new(64).unwrap();
    key.fill(&(0..64).collect::<Vec<u8>>()).unwrap();
    let fill = || {
        let mut ciphers = Vec::new();
        loop {
            match XtsCipher::new(&key) {
                Ok(cipher) => ciphers.push(cipher),
                Err(error) => break (ciphers, error),
            }
        }
    };
    let (ciphers, error) = fill();
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    assert!(ciphers.len() >= 15, "{} ciphers only", ciphers.len());
    ciphers.iter().for_each(|cipher| cipher.encrypt(&mut [0; 512], 512, 0).unwrap());
    let count = ciphers.len();
    drop(ciphers);
    assert_eq!(fill().0.len(), count);
}
