//! LIST_META_CONTEXT and SET_META_CONTEXT: which contexts a client's queries find. There is one, `base:allocation`.

use super::fields::Fields;
use crate::proto::allocation;

/// What an option of the two asks.
pub(super) struct Query<'data> {
    /// For which export.
    pub(super) export: &'data [u8],
    /// No query at all was sent.
    pub(super) empty: bool,
    /// One query names the context itself.
    pub(super) exact: bool,
    /// One query is the namespace alone.
    pub(super) wildcard: bool,
}

impl<'data> Query<'data> {
    /// None where the data are malformed: a length that leads outside, bytes left over, or a query without the colon
    /// that every one must have. A query of an unknown namespace is not malformed, and finds nothing.
    pub(super) fn parse(data: &'data [u8]) -> Option<Query<'data>> {
        let mut fields = Fields::new(data);
        let export = fields.string()?;
        let count = fields.u32()?;
        let mut query = Query { export, empty: count == 0, exact: false, wildcard: false };
        // Each round takes four bytes or ends the loop, so a lie about the count costs nothing.
        for _ in 0..count {
            let text = fields.string()?;
            if !text.contains(&b':') {
                return None;
            }
            query.exact |= text == allocation::NAME.as_bytes();
            query.wildcard |= text == allocation::NAMESPACE.as_bytes();
        }
        (fields.left() == 0).then_some(query)
    }

    /// Whether the context is among what LIST_META_CONTEXT shows.
    pub(super) fn lists(&self) -> bool {
        self.empty || self.exact || self.wildcard
    }

    /// Whether SET_META_CONTEXT selects the context: only its full name does.
    pub(super) fn selects(&self) -> bool {
        self.exact
    }
}
