//! What an answer's head tells an observer.

use crate::exchange::UpstreamLimits;

/// Where upstreams put their id of an answer, in the order of asking.
const REQUEST_ID_HEADERS: [&str; 4] = ["x-request-id", "request-id", "apim-request-id", "x-amzn-requestid"];

/// What an answer's head tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head<'a> {
    /// The status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
    /// `Content-Encoding`.
    pub content_encoding: Option<&'a str>,
    /// The upstream's id of the answer: `x-request-id`, `request-id` and the like.
    pub request_id: Option<&'a str>,
    /// What it says of the upstream's rate limits.
    pub limits: UpstreamLimits,
    /// No body belongs to it: an answer to HEAD, 204, 304.
    pub bodiless: bool,
    /// Its body comes in messages that are whole: it is one of a session over WebSocket.
    pub in_messages: bool,
}

impl<'a> Head<'a> {
    /// What an answer's status and headers tell; of a header that comes twice, the first one. `to_head`: it answers
    /// a HEAD request.
    pub fn of(to_head: bool, status: u16, headers: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let bodiless = to_head || matches!(status, 204 | 304);
        let mut head = Self { status, bodiless, ..Self::default() };
        let mut id_rank = REQUEST_ID_HEADERS.len();
        for (name, value) in headers.filter(|(_, value)| !value.is_empty()) {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("content-type") {
                head.content_type.get_or_insert(value);
            } else if is("content-encoding") {
                head.content_encoding.get_or_insert(value);
            } else if let Some(rank) = REQUEST_ID_HEADERS.into_iter().take(id_rank).position(is) {
                (id_rank, head.request_id) = (rank, Some(value));
            } else {
                head.limits.take(name, value);
            }
        }
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Head<'static> {
        Head::of(false, 200, headers.iter().copied())
    }

    #[test]
    fn the_first_of_a_header_counts_and_an_empty_one_is_none() {
        let head = of(&[("Content-Type", ""), ("CONTENT-TYPE", "a/b"), ("content-type", "c/d")]);
        assert_eq!((head.content_type, head.content_encoding), (Some("a/b"), None));
    }

    #[test]
    fn of_several_ids_the_one_that_is_asked_for_first_counts_wherever_it_stands() {
        let ids = [("x-amzn-requestid", "amazon"), ("request-id", "own"), ("x-request-id", "first")];
        assert_eq!(of(&ids).request_id, Some("first"));
        assert_eq!(of(&ids[..2]).request_id, Some("own"));
        assert_eq!(of(&[("request-id", "own"), ids[0]]).request_id, Some("own"));
        assert_eq!(of(&[]).request_id, None);
    }

    #[test]
    fn no_body_belongs_to_an_answer_to_head_and_to_some_statuses() {
        let bodiless = |to_head, status| Head::of(to_head, status, std::iter::empty()).bodiless;
        assert!(bodiless(true, 200) && bodiless(false, 204) && bodiless(false, 304));
        assert!(!bodiless(false, 200));
    }
}
