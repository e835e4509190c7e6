//! Where keys live and what may be done with them.
//!
//! Three kinds of memory make up the whole life of a key in this process, all of them `memfd_secret` (which neither
//! root nor the kernel's own direct map can read) where the kernel has it:
//!
//! * [`SecretMemory`]: the 64 bytes of a data key, shared by descriptor with the process that unwraps it;
//! * the *arena*: AWS-LC's whole heap, hence every cipher context with its round keys;
//! * the *lanes*: the stacks on which AWS-LC runs. Its AVX-512 XTS code copies the round keys onto the stack for every
//!   sector, and a signal that arrives meanwhile has the kernel store all vector registers there; on these stacks both
//!   land in secret memory. Each stay on a lane ends with the vector registers cleared.
//!
//! So at no instant does ordinary memory hold a key or a round key: not after the work, and not during it.

mod arena;
mod digest;
mod fork;
mod lanes;
mod mapping;
mod memory;
mod privileges;
mod process;
mod registers;
mod sha256;
mod threads;
mod wipe;
mod xts;

pub use digest::Hash;
pub use mapping::Kind;
pub use memory::SecretMemory;
pub use privileges::drop_privileges;
pub use process::harden_process;
pub use sha256::{DIGEST_SIZE, Sha256};
pub use threads::thread_number;
pub use wipe::{equal, wipe};
pub use xts::{KEY_SIZE, XtsCipher};
