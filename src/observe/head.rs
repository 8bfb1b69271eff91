//! What an answer's head tells an observer.

use super::{ID_LIMIT, Observer, error_class};
use crate::exchange::{Name, UpstreamLimits, Usage};

/// Where upstreams put their id of an answer, in the order of asking.
const REQUEST_ID_HEADERS: [&str; 4] = ["x-request-id", "request-id", "apim-request-id", "x-amzn-requestid"];

const COUNT_LIMIT: u64 = 1 << 32; // no exchange has more tokens: what says so is no count

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
    /// The class of the error that it is: Bedrock's `x-amzn-errortype`, whose body has none.
    pub error_class: Option<&'a str>,
    /// What it reports of tokens: Bedrock's `x-amzn-bedrock-input-token-count` and the like, beside bodies of any form.
    pub usage: Usage,
    /// The service tier that it was answered in.
    pub tier: Option<&'a str>,
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
            } else if is("x-amzn-errortype") {
                head.error_class = value.split(':').next(); // an address may follow
            } else if is("x-amzn-bedrock-service-tier") {
                head.tier = Some(value);
            } else if let Some(count) = count_of(name) {
                *count(&mut head.usage) = value.parse().ok().filter(|count| *count <= COUNT_LIMIT);
            } else if let Some(rank) = REQUEST_ID_HEADERS.into_iter().take(id_rank).position(is) {
                (id_rank, head.request_id) = (rank, Some(value));
            } else {
                head.limits.take(name, value);
            }
        }
        if head.usage.cache_read.or(head.usage.cache_write).is_some() {
            head.usage.input_uncached = head.usage.input.take(); // cached input is counted apart
        }
        head
    }
}

impl Observer {
    /// Takes what a head tells of tokens, of an error and of the tier.
    pub(super) fn head_tells(&mut self, head: &Head<'_>) {
        self.seen.usage.update(head.usage);
        self.seen.error_class = head.error_class.filter(|_| head.status >= 400).map(error_class);
        self.seen.tier = head.tier.map(|tier| Name::bounded(tier, ID_LIMIT));
    }
}

/// Where a header's number of tokens belongs.
fn count_of(name: &str) -> Option<fn(&mut Usage) -> &mut Option<u64>> {
    const PREFIX: &str = "x-amzn-bedrock-";
    let (prefix, kind) = name.split_at_checked(PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    match kind.to_ascii_lowercase().strip_suffix("-token-count")? {
        "input" => Some(|usage| &mut usage.input),
        "cache-read-input" => Some(|usage| &mut usage.cache_read),
        "cache-write-input" => Some(|usage| &mut usage.cache_write),
        "output" => Some(|usage| &mut usage.output),
        _ => None,
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
    fn bedrock_tells_tokens_and_errors_in_the_head() {
        let head = of(&[
            ("X-Amzn-Bedrock-Input-Token-Count", "12"),
            ("x-amzn-bedrock-output-token-count", "3"),
            ("x-amzn-bedrock-cache-read-input-token-count", "-1"),
            ("x-amzn-bedrock-invocation-latency", "400"),
            ("x-amzn-errortype", "ThrottlingException:http://internal.amazon.com/coral/"),
        ]);
        let usage = Usage { input: Some(12), output: Some(3), ..Usage::default() };
        assert_eq!((head.usage, head.error_class), (usage, Some("ThrottlingException")));
    }

    #[test]
    fn no_body_belongs_to_an_answer_to_head_and_to_some_statuses() {
        let bodiless = |to_head, status| Head::of(to_head, status, std::iter::empty()).bodiless;
        assert!(bodiless(true, 200) && bodiless(false, 204) && bodiless(false, 304));
        assert!(!bodiless(false, 200));
    }
}
