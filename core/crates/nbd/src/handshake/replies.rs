//! Writes the server's side of the handshake.

use super::Export;
use crate::proto::{
    INIT_MAGIC, MAXIMUM_PAYLOAD, MINIMUM_BLOCK, OPTION_MAGIC, OPTION_REPLY_MAGIC, PREFERRED_BLOCK, handshake_flag,
    info, option_reply,
};

/// Replies that wait to be sent.
#[derive(Default)]
pub(super) struct Replies(pub(super) Vec<u8>);

impl Replies {
    /// The newstyle greeting.
    pub(super) fn greeting() -> Replies {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(INIT_MAGIC.to_be_bytes());
        bytes.extend(OPTION_MAGIC.to_be_bytes());
        bytes.extend((handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
        Replies(bytes)
    }

    /// One reply to `option`, its data in pieces.
    pub(super) fn push(&mut self, option: u32, kind: u32, data: &[&[u8]]) {
        let length: usize = data.iter().map(|piece| piece.len()).sum();
        self.0.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        self.0.extend(option.to_be_bytes());
        self.0.extend(kind.to_be_bytes());
        // Every piece is a constant, a name or a text of at most MAX_STRING bytes, so 32 bits hold the sum.
        self.0.extend((length as u32).to_be_bytes());
        data.iter().for_each(|piece| self.0.extend_from_slice(piece));
    }

    pub(super) fn acknowledge(&mut self, option: u32) {
        self.push(option, option_reply::ACK, &[]);
    }

    /// The one export that there is, as LIST shows it.
    pub(super) fn server(&mut self, option: u32, export: &Export) {
        let length = (export.name.len() as u32).to_be_bytes();
        let data = [&length[..], export.name.as_bytes(), export.description.as_bytes()];
        self.push(option, option_reply::SERVER, &data);
    }

    /// What INFO and GO tell: always the size, the flags and the block sizes; name and description when asked for.
    pub(super) fn describe(&mut self, option: u32, export: &Export, flags: u16, asked: &[u16]) {
        let kind = |info: u16| info.to_be_bytes();
        let data = [&kind(info::EXPORT)[..], &export.size.to_be_bytes(), &flags.to_be_bytes()];
        self.push(option, option_reply::INFO, &data);
        let sizes = [MINIMUM_BLOCK, PREFERRED_BLOCK, MAXIMUM_PAYLOAD].map(u32::to_be_bytes);
        let data = [&kind(info::BLOCK_SIZE)[..], &sizes[0], &sizes[1], &sizes[2]];
        self.push(option, option_reply::INFO, &data);
        for (wish, text) in [(info::NAME, &export.name), (info::DESCRIPTION, &export.description)] {
            if asked.contains(&wish) {
                self.push(option, option_reply::INFO, &[&kind(wish), text.as_bytes()]);
            }
        }
    }

    /// The answer to EXPORT_NAME, which has a form of its own.
    pub(super) fn export_name(&mut self, export: &Export, flags: u16, no_zeroes: bool) {
        self.0.extend(export.size.to_be_bytes());
        self.0.extend(flags.to_be_bytes());
        if !no_zeroes {
            self.0.extend([0; 124]);
        }
    }
}
