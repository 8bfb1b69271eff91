//! Answers of our own: few, in the dialect's shape, and marked as ours (`Proxy-Status`, RFC 9209).

use super::connect::ConnectError;
use crate::admission::Refusal;
use crate::dialect::{DIALECTS, Dialect, OwnError};
use crate::exchange::Ending;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderName, Response, StatusCode};
use http_body_util::Full;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");

/// Read by OpenAI's and Anthropic's clients, which try again otherwise.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why we answer ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    NoUpstream,
    /// No `Host`, or more than one.
    BadHost,
    ConnectTimedOut,
    ConnectFailed,
    NameUnknown,
    TlsFailed,
    /// The connection ended before a head came.
    ClosedEarly,
    /// What came is not HTTP.
    Garbled,
    FirstByteTimedOut,
}

impl Trouble {
    /// What stands behind the error of a request that got no answer.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut source = Some(error);
        while let Some(at) = source {
            match at.downcast_ref::<ConnectError>() {
                Some(ConnectError::TimedOut) => return Self::ConnectTimedOut,
                Some(ConnectError::Name(_)) => return Self::NameUnknown,
                Some(ConnectError::Refused(_)) => return Self::ConnectFailed,
                Some(ConnectError::Tls(_)) => return Self::TlsFailed,
                None => {}
            }
            if at.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
                return Self::Garbled;
            }
            source = at.source();
        }
        Self::ClosedEarly
    }

    /// Status, error type of RFC 9209, and a text for humans.
    fn words(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NoUpstream => (
                StatusCode::NOT_FOUND,
                "destination_not_found",
                "no upstream is configured for this host and path",
            ),
            Self::BadHost => {
                (StatusCode::BAD_REQUEST, "http_request_error", "a request must have one Host header")
            }
            Self::ConnectTimedOut => (
                StatusCode::GATEWAY_TIMEOUT,
                "connection_timeout",
                "connecting to the upstream took longer than connect_timeout",
            ),
            Self::ConnectFailed => {
                (StatusCode::BAD_GATEWAY, "connection_refused", "the upstream could not be connected to")
            }
            Self::NameUnknown => {
                (StatusCode::BAD_GATEWAY, "dns_error", "the upstream's name does not resolve")
            }
            Self::TlsFailed => {
                (StatusCode::BAD_GATEWAY, "tls_protocol_error", "the TLS handshake with the upstream failed")
            }
            Self::ClosedEarly => (
                StatusCode::BAD_GATEWAY,
                "connection_terminated",
                "the upstream closed the connection before it answered",
            ),
            Self::Garbled => {
                (StatusCode::BAD_GATEWAY, "http_protocol_error", "the upstream's answer is not valid HTTP")
            }
            Self::FirstByteTimedOut => (
                StatusCode::GATEWAY_TIMEOUT,
                "http_response_timeout",
                "the upstream did not answer within first_byte_timeout",
            ),
        }
    }

    /// The error type of RFC 9209; also the class in the request log.
    pub(super) fn class(self) -> &'static str {
        self.words().1
    }

    pub(super) fn status(self) -> u16 {
        self.words().0.as_u16()
    }

    pub(super) fn ending(self) -> Ending {
        match self {
            Self::NoUpstream | Self::BadHost => Ending::Rejected,
            Self::ConnectTimedOut | Self::FirstByteTimedOut => Ending::TimedOut,
            Self::ConnectFailed | Self::NameUnknown | Self::TlsFailed | Self::ClosedEarly | Self::Garbled => {
                Ending::NoAnswer
            }
        }
    }

    /// The answer. Where no dialect is known, the first one's shape is what most clients read.
    pub(super) fn answer(self, dialect: Option<&dyn Dialect>, request_id: &str) -> Response<Full<Bytes>> {
        let (status, kind, message) = self.words();
        own_answer(status, kind, message, dialect, request_id)
    }
}

/// The error type of RFC 9209 of a request that we refuse; also the class in the request log.
pub(super) const DENIED: &str = "http_request_denied";

/// The answer to a request that a limit has no room for, with what clients of OpenAI's API know of when to come again.
pub(super) fn too_many_tokens(
    refusal: &Refusal,
    dialect: Option<&dyn Dialect>,
    request_id: &str,
) -> Response<Full<Bytes>> {
    let status = StatusCode::TOO_MANY_REQUESTS;
    let mut response = own_answer(status, DENIED, &refusal.to_string(), dialect, request_id);
    let headers = response.headers_mut();
    headers.insert(X_RATELIMIT_LIMIT, refusal.limit.into());
    headers.insert(X_RATELIMIT_REMAINING, refusal.limit.saturating_sub(refusal.used).into());
    match refusal.wait {
        Some(wait) => {
            headers.insert(RETRY_AFTER, (wait.as_millis().div_ceil(1000).max(1) as u64).into());
            if let Ok(value) = HeaderValue::from_str(&format!("{}s", wait.as_millis() as f64 / 1e3)) {
                headers.insert(X_RATELIMIT_RESET, value);
            }
        }
        None => drop(headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"))),
    }
    response
}

fn own_answer(
    status: StatusCode,
    kind: &str,
    message: &str,
    dialect: Option<&dyn Dialect>,
    request_id: &str,
) -> Response<Full<Bytes>> {
    let message = format!("streamgauge: {message}");
    let error = OwnError { status: status.as_u16(), message: &message, request_id };
    let body = dialect.or(DIALECTS.first().copied()).map(|dialect| dialect.error_body(&error));
    let mut response = Response::new(Full::from(body.unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(value) = HeaderValue::from_str(&format!("streamgauge; error={kind}")) {
        response.headers_mut().insert(PROXY_STATUS, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn our_own_answers_say_that_they_are_ours_and_why() {
        let response = Trouble::ConnectFailed.answer(None, "r-1");
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()["proxy-status"], "streamgauge; error=connection_refused");
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["message"], "streamgauge: the upstream could not be connected to");
        assert_eq!(body["error"]["request_id"], "r-1");
        assert_eq!(Trouble::FirstByteTimedOut.status(), 504);
        assert_eq!(Trouble::NoUpstream.ending(), Ending::Rejected);
    }
}
