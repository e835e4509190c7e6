//! NBD over a device: everything between a stream socket and [`ebscrypt_device::Device`].
//!
//! ```text
//!   server      threads, places, stopping              listener, roster
//!   connection  one client: sockets ↔ machines         socket, inbox, outbox, buffer
//!   handshake   bytes → replies, terms                 no socket in it
//!   transmission  header → operation or refusal → reply   no socket in it
//!   terms, proto  what was agreed; the protocol's numbers
//! ```
//!
//! The protocol is the document `doc/proto.md` of NetworkBlockDevice/nbd: fixed newstyle handshake, structured replies,
//! `base:allocation`, block size constraints, and the extended headers of its extension-ext-header branch. There is no
//! TLS here; nbdkit in front of a volume brings it.

mod buffer;
mod connection;
mod inbox;
mod listener;
mod outbox;
mod roster;
mod server;
mod socket;
mod terms;

pub mod handshake;
pub mod proto;
pub mod transmission;

pub use server::{Options, Server};
pub use terms::{Headers, Terms, base_flags};
