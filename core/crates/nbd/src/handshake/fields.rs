//! Reads an option's data field by field; whatever is missing ends the reading, never the process.

use crate::proto::{u16_at, u32_at};

/// The part of an option's data that was not read yet.
pub(super) struct Fields<'data>(&'data [u8]);

impl<'data> Fields<'data> {
    pub(super) fn new(data: &'data [u8]) -> Self {
        Fields(data)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.bytes(2).map(|word| u16_at(word, 0))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(|word| u32_at(word, 0))
    }

    /// A string after its 32-bit length; not checked further.
    pub(super) fn string(&mut self) -> Option<&'data [u8]> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Option<&'data [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn left(&self) -> usize {
        self.0.len()
    }
}
