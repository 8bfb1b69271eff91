//! Which headers go on. Hop-by-hop ones end here (RFC 9110, section 7.6.1); everything else passes as it came:
//! duplicates, their order, and the case of names where HTTP/1 has one.

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, request, response};

use crate::config::HostHeader;

const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    UPGRADE,
    TE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Whether a request asks to leave HTTP for another protocol.
pub(super) fn is_upgrade(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11 && headers.contains_key(UPGRADE) && connection_lists(headers, "upgrade")
}

/// The encoding of a body; of what stands in several headers or is no text it is one that nobody knows.
pub(super) fn content_encoding(headers: &HeaderMap) -> &str {
    let mut all = headers.get_all(CONTENT_ENCODING).iter();
    match (all.next(), all.next()) {
        (None, _) => "",
        (Some(one), None) => one.to_str().unwrap_or("unknown"),
        _ => "unknown",
    }
}

/// Whether a body is in no encoding.
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Makes a client's head one for the upstream. `upgrade`: see [`is_upgrade`]. `to_http2`: the upstream speaks
/// HTTP/2, which has no transfer codings.
pub(super) fn prepare_request(head: &mut request::Parts, upgrade: bool, to_http2: bool) {
    let takes_trailers = lists(head.headers.get_all(TE).iter(), "trailers");
    let framed_by_chunks = head.headers.contains_key(TRANSFER_ENCODING);
    let protocol = head.headers.get(UPGRADE).cloned().filter(|_| upgrade);
    strip(&mut head.headers, !to_http2 && head.version == Version::HTTP_11);
    if framed_by_chunks {
        // Of the two only one may go on, or the next hop may cut the message elsewhere (RFC 9112, 6.1).
        head.headers.remove(CONTENT_LENGTH);
    }
    if takes_trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        if !to_http2 {
            head.headers.insert(CONNECTION, HeaderValue::from_static("TE"));
        }
    }
    if let Some(protocol) = protocol {
        head.headers.insert(UPGRADE, protocol);
        head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    // A pooled connection speaks its own version whatever the client's was.
    head.version = Version::HTTP_11;
}

/// Makes an upstream's head one for the client.
pub(super) fn prepare_response(head: &mut response::Parts, from: Version, to: Version) {
    if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        head.headers.remove(CONTENT_LENGTH);
    }
    strip(&mut head.headers, from == Version::HTTP_11 && to == Version::HTTP_11);
    head.version = Version::HTTP_11; // the server's side writes the one of its connection
}

/// Takes out what belongs to one hop. `keep_coding`: both hops are HTTP/1.1, where `Transfer-Encoding` stays
/// as it is written (a coding besides chunked is passed through undecoded).
fn strip(headers: &mut HeaderMap, keep_coding: bool) {
    if !keep_coding {
        headers.remove(TRANSFER_ENCODING);
    }
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return; // most heads
    }
    let listed: Vec<HeaderName> = tokens(headers.get_all(CONNECTION).iter())
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect();
    for name in listed.iter().filter(|name| !matches!(**name, TRANSFER_ENCODING | CONTENT_LENGTH | HOST)) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The host that a client addressed: of an absolute or HTTP/2 target, else of `Host`.
pub(super) fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    uri.authority().map(without_user).or_else(|| headers.get(HOST)?.to_str().ok())
}

/// Whether a request says once whom it addresses, as HTTP/1.1 demands (RFC 9112, 3.2): a second `Host` could lead
/// the upstream elsewhere than us.
pub(super) fn has_one_host(version: Version, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(HOST).iter().count();
    hosts == 1 || (hosts == 0 && version != Version::HTTP_11)
}

fn without_user(authority: &http::uri::Authority) -> &str {
    authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host)
}

/// Writes the `Host` that the upstream is to see.
pub(super) fn set_host(head: &mut request::Parts, which: HostHeader, own: &http::uri::Authority) {
    let value = match which {
        HostHeader::Upstream => HeaderValue::from_str(own.as_str()).ok(),
        // An absolute target's host counts before a Host header that says otherwise (RFC 9112, 3.2.2).
        HostHeader::Preserve => {
            head.uri.authority().and_then(|at| HeaderValue::from_str(without_user(at)).ok())
        }
    };
    if let Some(value) = value {
        head.headers.insert(HOST, value);
    }
}

fn connection_lists(headers: &HeaderMap, token: &str) -> bool {
    lists(headers.get_all(CONNECTION).iter(), token)
}

fn lists<'v>(values: impl Iterator<Item = &'v HeaderValue>, token: &str) -> bool {
    tokens(values)
        .any(|listed| listed.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case(token)))
}

fn tokens<'v>(values: impl Iterator<Item = &'v HeaderValue>) -> impl Iterator<Item = &'v str> {
    values.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, headers: &[(&'static str, &'static str)]) -> request::Parts {
        let mut builder = http::Request::builder().version(version).uri("/v1/chat/completions");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn prepared(
        version: Version,
        upgrade: bool,
        to_http2: bool,
        headers: &[(&'static str, &'static str)],
    ) -> Vec<String> {
        let mut head = request(version, headers);
        prepare_request(&mut head, upgrade, to_http2);
        let mut got: Vec<_> =
            head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        got.sort();
        got
    }

    #[test]
    fn what_belongs_to_one_hop_ends_here() {
        let got = prepared(
            Version::HTTP_11,
            false,
            false,
            &[
                ("connection", "keep-alive, X-Hop"),
                ("keep-alive", "timeout=5"),
                ("x-hop", "1"),
                ("proxy-connection", "keep-alive"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAM"),
                ("te", "gzip"),
                ("x-end", "1"),
                ("proxy-authorization", "Basic x"),
            ],
        );
        assert_eq!(got, ["proxy-authorization: Basic x", "x-end: 1"]);
    }

    #[test]
    fn a_client_that_takes_trailers_still_does() {
        let got = prepared(Version::HTTP_2, false, true, &[("te", "trailers")]);
        assert_eq!(got, ["te: trailers"]);
        let got =
            prepared(Version::HTTP_11, false, false, &[("te", "trailers;q=1, gzip"), ("connection", "te")]);
        assert_eq!(got, ["connection: TE", "te: trailers"]);
    }

    #[test]
    fn a_length_and_chunks_never_go_on_together() {
        let both = [("transfer-encoding", "chunked"), ("content-length", "5")];
        assert_eq!(prepared(Version::HTTP_11, false, false, &both), ["transfer-encoding: chunked"]);
        assert_eq!(prepared(Version::HTTP_11, false, true, &both), [] as [&str; 0]);
    }

    #[test]
    fn a_connection_header_cannot_strip_what_frames_or_routes_a_message() {
        let got = prepared(
            Version::HTTP_11,
            false,
            false,
            &[("connection", "content-length, host"), ("content-length", "5"), ("host", "h")],
        );
        assert_eq!(got, ["content-length: 5", "host: h"]);
    }

    #[test]
    fn an_upgrade_keeps_what_it_needs() {
        let websocket =
            [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "x")];
        assert!(is_upgrade(Version::HTTP_11, &request(Version::HTTP_11, &websocket).headers));
        assert_eq!(
            prepared(Version::HTTP_11, true, false, &websocket),
            ["connection: Upgrade", "sec-websocket-key: x", "upgrade: websocket"]
        );
        assert!(!is_upgrade(Version::HTTP_11, &request(Version::HTTP_11, &[("upgrade", "h2c")]).headers));
    }

    #[test]
    fn duplicates_stay_in_their_order() {
        let mut head =
            request(Version::HTTP_11, &[("x-a", "1"), ("connection", "close"), ("x-a", "2"), ("x-a", "3")]);
        prepare_request(&mut head, false, false);
        let values: Vec<_> =
            head.headers.get_all("x-a").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values, ["1", "2", "3"]);
    }
}
