//! The transmission phase, without a socket: what a request is, whether it is served, how a reply looks.
//!
//! ```text
//!   header bytes ─▶ Request::parse ─▶ Request::payload ─▶ admit ─▶ Operation ─▶ (device) ─▶ reply::*
//!                       │ wrong magic     │ hostile          │ Refusal ─────────────────────▶ reply::refusal
//!                       └────────┬────────┘
//!                          the connection ends
//! ```

pub mod admit;
pub mod reply;
pub mod request;
pub mod runs;
pub mod status;

pub use admit::{Operation, Refusal, Volume, admit};
pub use request::{Payload, Request};
