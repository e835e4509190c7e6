//! What each option does, once its data are there.

use super::fields::Fields;
use super::meta::Query;
use super::{Handshake, Progress};
use crate::proto::{MAX_STRING, allocation, option, option_reply as reply};
use crate::terms::{Headers, Terms};

impl Handshake {
    pub(super) fn option(&mut self, option: u32, data: &[u8]) -> Progress {
        match option {
            option::EXPORT_NAME => return self.export_name(data),
            option::INFO | option::GO => return self.info(option, data),
            option::LIST => {
                self.replies.server(option, &self.export);
                self.replies.acknowledge(option);
            }
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => self.change_headers(option),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(option, data),
            _ => self.refuse(option, reply::ERR_UNSUP, "unknown option"),
        }
        Progress::Continue
    }

    fn refuse(&mut self, option: u32, kind: u32, text: &'static str) {
        self.replies.push(option, kind, &[text.as_bytes()]);
    }

    fn knows(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.export.name.as_bytes()
    }

    fn terms_for(&self, name: &[u8]) -> Terms {
        Terms { headers: self.headers, allocation: self.context.as_deref() == Some(name) }
    }

    fn export_name(&mut self, name: &[u8]) -> Progress {
        if !self.knows(name) {
            return Progress::Close;
        }
        let terms = self.terms_for(name);
        self.replies.export_name(&self.export, terms.transmission_flags(self.export.flags), self.no_zeroes);
        Progress::Transmission(terms)
    }

    fn info(&mut self, option: u32, data: &[u8]) -> Progress {
        let Some((name, asked)) = parse_info(data) else {
            self.refuse(option, reply::ERR_INVALID, "the lengths inside the option do not fit its data");
            return Progress::Continue;
        };
        if !self.check_name(option, name) {
            return Progress::Continue;
        }
        let terms = self.terms_for(name);
        self.replies.describe(option, &self.export, terms.transmission_flags(self.export.flags), &asked);
        self.replies.acknowledge(option);
        if option == option::GO { Progress::Transmission(terms) } else { Progress::Continue }
    }

    /// Whether `name` is the export's; else the refusal is written.
    fn check_name(&mut self, option: u32, name: &[u8]) -> bool {
        if name.len() > MAX_STRING {
            self.refuse(option, reply::ERR_TOO_BIG, "an export name has at most 4096 bytes");
        } else if name.contains(&0) || std::str::from_utf8(name).is_err() {
            self.refuse(option, reply::ERR_INVALID, "an export name is UTF-8 without NUL");
        } else if !self.knows(name) {
            self.refuse(option, reply::ERR_UNKNOWN, "no such export");
        } else {
            return true;
        }
        false
    }

    fn change_headers(&mut self, option: u32) {
        match (option, self.headers) {
            (option::STRUCTURED_REPLY, Headers::Extended) => {
                self.refuse(option, reply::ERR_EXT_HEADER_REQD, "extended headers are on already");
            }
            (option::STRUCTURED_REPLY, Headers::Structured) | (option::EXTENDED_HEADERS, Headers::Extended) => {
                self.refuse(option, reply::ERR_INVALID, "already negotiated");
            }
            (option::STRUCTURED_REPLY, Headers::Simple) => {
                self.headers = Headers::Structured;
                self.replies.acknowledge(option);
            }
            _ => {
                self.headers = Headers::Extended;
                self.replies.acknowledge(option);
            }
        }
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) {
        let set = option == option::SET_META_CONTEXT;
        if set {
            self.context = None;
        }
        if !self.headers.chunked() {
            return self.refuse(option, reply::ERR_INVALID, "negotiate structured replies or extended headers first");
        }
        let Some(query) = Query::parse(data) else {
            return self.refuse(option, reply::ERR_INVALID, "a query is malformed");
        };
        if !self.check_name(option, query.export) {
            return;
        }
        if set && query.selects() {
            self.context = Some(query.export.to_vec());
            self.replies.push(
                option,
                reply::META_CONTEXT,
                &[&allocation::ID.to_be_bytes(), allocation::NAME.as_bytes()],
            );
        } else if !set && query.lists() {
            // In a list the id is reserved and zero.
            self.replies.push(option, reply::META_CONTEXT, &[&[0; 4], allocation::NAME.as_bytes()]);
        }
        self.replies.acknowledge(option);
    }
}

/// The name and the wishes in the data of INFO and GO; None where its lengths do not fit.
fn parse_info(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let mut fields = Fields::new(data);
    let name = fields.string()?;
    let count = fields.u16()?;
    if fields.left() != usize::from(count) * 2 {
        return None;
    }
    let asked = std::iter::from_fn(|| fields.u16()).collect();
    Some((name, asked))
}
