//! Answers of our own: few, in the dialect's shape, and marked as ours (`Proxy-Status`, RFC 9209).

use super::connect::ConnectError;
use crate::dialect::{DIALECTS, Dialect, OwnError};
use crate::exchange::Ending;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Response, StatusCode};
use http_body_util::Full;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

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
