//! HTTP/2 on either side or both: prior knowledge, trailers, resets, more streams than one connection takes.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use super::harness::{
    LAST_CHUNK, LAST_EVENTS, ONE_UPSTREAM, STREAM_HEAD, STREAM_REQUEST, Sidecar, Upstream, Wire, chunk, token,
};

const OVER_HTTP2: &str = "upstream: h2c://upstream:8000\n";

/// A client's HTTP/2 connection.
async fn client(sidecar: &Sidecar) -> SendRequest<Full<Bytes>> {
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(sidecar.connect().0))
            .await
            .unwrap();
    sidecar.beside(async { drop(connection.await) });
    client
}

fn request(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://api.example/v1/chat/completions")
        .header("te", "trailers")
        .body(Full::from(body))
        .unwrap()
}

type Frames = mpsc::UnboundedReceiver<Frame<Bytes>>;

/// Serves an HTTP/2 connection; every request is told, and answered with the frames that are sent for it.
fn serve(
    sidecar: &Sidecar,
    wire: Wire,
) -> mpsc::UnboundedReceiver<(Request<Incoming>, mpsc::UnboundedSender<Frame<Bytes>>)> {
    let (told, requests) = mpsc::unbounded_channel();
    let service = hyper::service::service_fn(move |request| {
        let (send, frames): (_, Frames) = mpsc::unbounded_channel();
        told.send((request, send)).unwrap();
        async move { Ok::<_, std::convert::Infallible>(streamed(frames)) }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.max_concurrent_streams(1000);
    let serving = server.serve_connection(TokioIo::new(wire.0), service);
    sidecar.beside(async { drop(serving.await) });
    requests
}

fn streamed(
    mut frames: Frames,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible>> {
    let body = StreamBody::new(futures_stream(move |cx| frames.poll_recv(cx)));
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

/// A stream of what a poll function gives.
fn futures_stream(
    mut poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Frame<Bytes>>> + Unpin,
) -> impl futures_core::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> {
    struct PollFn<F>(F);
    impl<F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Frame<Bytes>>> + Unpin>
        futures_core::Stream for PollFn<F>
    {
        type Item = Result<Frame<Bytes>, std::convert::Infallible>;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            (self.0)(cx).map(|frame| frame.map(Ok))
        }
    }
    PollFn(move |cx: &mut std::task::Context<'_>| poll(cx))
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_before_an_http1_upstream() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = client(&sidecar).await;
    let sending = client.send_request(request(STREAM_REQUEST));
    let serving = async {
        let mut server = upstream.accept().await;
        let head = server.read_to(STREAM_REQUEST).await;
        assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: api.example\r\n"), "{head}");
        server.write(STREAM_HEAD).await;
        server.write(chunk(&token("a"))).await;
        server.write(chunk(LAST_EVENTS)).await;
        server.write(LAST_CHUNK).await;
        server
    };
    let (response, _server) = tokio::join!(sending, serving);
    let response = response.unwrap();
    assert_eq!((response.status(), response.version()), (http::StatusCode::OK, Version::HTTP_2));
    assert!(!response.headers().contains_key("transfer-encoding"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, format!("{}{LAST_EVENTS}", token("a")));
    assert_eq!(sidecar.exchange().await["outcome"], "completed");
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_break_reaches_an_http2_client() {
    let (sidecar, mut upstream) = Sidecar::start(ONE_UPSTREAM);
    let mut client = client(&sidecar).await;
    let sending = client.send_request(request(STREAM_REQUEST));
    let serving = async {
        let mut server = upstream.accept().await;
        server.read_to(STREAM_REQUEST).await;
        server.write(format!("{STREAM_HEAD}{}", chunk(&token("a")))).await;
    };
    let (response, ()) = tokio::join!(sending, serving);
    let mut body = response.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), token("a"));
    assert!(body.frame().await.unwrap().is_err(), "the client must see the break");
    assert_eq!(sidecar.exchange().await["outcome"], "truncated");
}

/// The cut takes the connection away, which looks to a request that waits as if its client had hung up.
#[tokio::test(start_paused = true)]
async fn what_our_shutdown_cuts_of_an_http2_connection_is_drained() {
    let limited = format!("{ONE_UPSTREAM}limits: [{{tokens_per_minute: 1000, action: delay}}]\n");
    let (sidecar, mut upstream) = Sidecar::start(&limited);
    let mut client = client(&sidecar).await;
    let asking: Vec<_> = (0..2)
        .map(|_| {
            let body = r#"{"model":"m","max_tokens":900,"messages":[{"role":"user","content":"hi"}]}"#;
            sidecar.beside(client.send_request(request(body)))
        })
        .collect();
    let _server = upstream.accept().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    sidecar.cut();
    for asked in asking {
        assert!(asked.await.unwrap().is_err());
    }
    let outcomes: Vec<_> = sidecar.exchanges().await.iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["drained", "drained"]);
}

#[tokio::test(start_paused = true)]
async fn http2_on_both_sides_with_trailers_as_grpc_has_them() {
    let (sidecar, mut upstream) = Sidecar::start(OVER_HTTP2);
    let mut client = client(&sidecar).await;
    let sending = client.send_request(request("hello"));
    let serving = async {
        let mut requests = serve(&sidecar, upstream.accept().await);
        let (request, answer) = requests.recv().await.unwrap();
        assert_eq!(request.uri().authority().unwrap(), "api.example", "the client's host goes through");
        assert_eq!(request.headers()["te"], "trailers");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        answer.send(Frame::data(Bytes::from_static(b"frame"))).unwrap();
        answer.send(Frame::trailers(trailers)).unwrap();
        requests
    };
    let (response, _requests) = tokio::join!(sending, serving);
    let collected = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "frame");
    assert_eq!(sidecar.exchanges().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_resets_its_stream_releases_the_upstreams_at_once() {
    let (sidecar, mut upstream) = Sidecar::start(OVER_HTTP2);
    let mut client = client(&sidecar).await;
    let sending = client.send_request(request(STREAM_REQUEST));
    let serving = async {
        let mut requests = serve(&sidecar, upstream.accept().await);
        let (_, answer) = requests.recv().await.unwrap();
        answer.send(Frame::data(Bytes::from(token("a")))).unwrap();
        (requests, answer)
    };
    let (response, (_requests, answer)) = tokio::join!(sending, serving);
    let mut body = response.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    tokio::time::timeout(Duration::from_millis(100), answer.closed())
        .await
        .expect("the upstream's stream goes on");
    let line = sidecar.exchange().await;
    assert_eq!((&line["outcome"], &line["chunks"]), (&"client_gone".into(), &1.into()));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_resets_a_stream_has_truncated_it() {
    let (sidecar, mut upstream) = Sidecar::start(OVER_HTTP2);
    let mut client = client(&sidecar).await;
    let sending = client.send_request(request(STREAM_REQUEST));
    let serving = async {
        let wire = upstream.accept().await;
        let mut connection = h2::server::handshake(wire.0).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        sidecar.beside(async move { while connection.accept().await.is_some() {} });
        let head = Response::builder().header("content-type", "text/event-stream").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from(token("a")), false).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        stream.send_reset(h2::Reason::REFUSED_STREAM);
    };
    let (response, ()) = tokio::join!(sending, serving);
    let error = response.unwrap().into_body().collect().await.unwrap_err();
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    assert_eq!(
        source.and_then(h2::Error::reason),
        Some(h2::Reason::REFUSED_STREAM),
        "the reason goes through"
    );
    assert_eq!(sidecar.exchange().await["outcome"], "truncated");
}

#[tokio::test(start_paused = true)]
async fn more_streams_than_one_connection_takes_open_another() {
    let (sidecar, mut upstream) = Sidecar::start(OVER_HTTP2);
    let client = client(&sidecar).await;
    let mut bodies = Vec::new();
    let mut connections: Vec<(Upstream, ())> = Vec::new();
    let mut open = Vec::new();
    let mut requests = None;
    for _ in 0..150 {
        let mut client = client.clone();
        let sending =
            sidecar.beside(async move { client.send_request(request(STREAM_REQUEST)).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(1)).await;
        if upstream.has_more() {
            requests = Some(serve(&sidecar, upstream.accept().await));
            connections.push((Sidecar::start(ONE_UPSTREAM).1, ()));
        }
        open.push(requests.as_mut().unwrap().recv().await.unwrap());
        bodies.push(sending.await.unwrap());
    }
    assert_eq!(connections.len(), 2, "100 streams on the first");
    assert_eq!(sidecar.sample("streamgauge_requests_in_flight{upstream=\"default\"}"), Some(150.0));
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_before_an_http2_upstream() {
    let (sidecar, mut upstream) = Sidecar::start(OVER_HTTP2);
    let mut client = sidecar.connect();
    client.write("POST /v1/chat/completions HTTP/1.1\r\nHost: api.example\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n").await;
    let mut requests = serve(&sidecar, upstream.accept().await);
    let (request, answer) = requests.recv().await.unwrap();
    for name in ["transfer-encoding", "connection"] {
        assert!(!request.headers().contains_key(name), "{name}");
    }
    assert_eq!(request.uri().authority().unwrap(), "api.example");
    assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "{}");
    answer.send(Frame::data(Bytes::from(token("a")))).unwrap();
    drop(answer);
    let got = client.read_to(LAST_CHUNK).await;
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.contains(&token("a")), "{got}");
}

#[tokio::test(start_paused = true)]
async fn a_usage_event_is_taken_out_over_http2_too_wherever_the_stream_ends() {
    let config = "upstreams: [{name: default, url: 'h2c://upstream:8000', inject_usage: true}]";
    let asked = "{\"stream_options\":{\"include_usage\":true},";
    let (events, last) =
        LAST_EVENTS.rsplit_once("data: [DONE]").map(|(a, b)| (a, format!("data: [DONE]{b}"))).unwrap();
    let finish = events.split_once("\n\n").unwrap().0.to_owned() + "\n\n";
    let usage = events.strip_prefix(&finish).unwrap();
    for frames in [
        vec![token("a") + LAST_EVENTS],
        vec![token("a"), LAST_EVENTS.to_owned()],
        vec![token("a") + &finish, last.clone(), usage.to_owned()],
        vec![token("a") + &finish, last.clone(), usage.trim_end().to_owned()],
    ] {
        let (sidecar, mut upstream) = Sidecar::start(config);
        let mut client = client(&sidecar).await;
        let sending = client.send_request(request(STREAM_REQUEST));
        let serving = async {
            let mut requests = serve(&sidecar, upstream.accept().await);
            let (request, answer) = requests.recv().await.unwrap();
            assert_eq!(request.headers()["accept-encoding"], "identity");
            let length: usize = request.headers()["content-length"].to_str().unwrap().parse().unwrap();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), length);
            assert_eq!(body, STREAM_REQUEST.replacen('{', asked, 1));
            for frame in frames {
                answer.send(Frame::data(Bytes::from(frame))).unwrap();
            }
            requests
        };
        let (response, _requests) = tokio::join!(sending, serving);
        let body = response.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, token("a") + &finish + &last);
        let line = sidecar.exchange().await;
        assert_eq!((&line["outcome"], &line["output_tokens"]), (&"completed".into(), &3.into()));
        assert_eq!(line["bytes_out"], body.len());
    }
}
