//! Upstreams: the simulated server, and one that plays golden cases and does to them what is planned.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use streamgauge::clock::Clock;
use streamgauge::sim::{Profile, Settings, Sim};
use tokio::io::AsyncReadExt;

use super::plan::{Act, Framing, Golden, Plan, Plans};
use super::wire::{ALL, Peer, chunk, header};
use crate::encode::encode;
use crate::harness::{Sidecar, Upstream};

/// Answers every connection that the sidecar makes.
pub(super) fn play(sidecar: &Sidecar, mut upstream: Upstream, plans: Arc<Plans>) {
    let profile = Profile { ttft: Duration::from_millis(40), jitter: 0.5, ..Profile::new("sim") };
    let sim = Sim::new(Settings::with_models([profile]), Clock::start());
    let tasks = sidecar.proxy.tasks.clone();
    sidecar.beside(async move {
        while let Some(wire) = upstream.next().await {
            let (sim, plans) = (Arc::clone(&sim), Arc::clone(&plans));
            tasks.spawn(async move {
                let mut peer = Peer::new(wire.0);
                // A connection is one upstream's as long as it lives.
                let Some(first) = peer.peek().await else { return };
                if header(&first, "host") == Some("script") {
                    while script(&mut peer, &plans).await {}
                } else {
                    let (io, ahead) = peer.into_parts();
                    let (read, write) = tokio::io::split(io);
                    sim.serve_io(tokio::io::join(Cursor::new(ahead).chain(read), write)).await;
                }
            });
        }
    });
}

/// Answers one request; whether there may be another one on that connection.
async fn script(peer: &mut Peer, plans: &Plans) -> bool {
    let Some(head) = peer.head().await else { return false };
    let number = header(&head, "x-request-id").unwrap().parse().unwrap();
    let plan = plans.plan(number);
    if plan.act == Act::Early {
        peer.write("HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await;
        return false;
    }
    if peer.body(&head, false, ALL).await.1 != super::wire::End::Clean {
        return false;
    }
    tokio::time::sleep(plan.pause).await;
    let answer = Answer::of(&plan, plans.case(&plan));
    let instead: Option<&[u8]> = match plan.act {
        Act::NoHead | Act::HangBeforeHead => Some(b""),
        Act::Garbled => Some(b"220 mail.example ESMTP\r\n\r\n"),
        Act::HeadCut => answer.head.get(..answer.head.len() / 2),
        _ => None,
    };
    if let Some(instead) = instead {
        peer.write(instead).await;
        if plan.act == Act::HangBeforeHead {
            peer.rest().await;
        }
        return false;
    }
    if !peer.write(&answer.head).await {
        return false;
    }
    for piece in &answer.pieces {
        if !peer.write(piece).await {
            return false;
        }
        if !plan.pause.is_zero() {
            tokio::time::sleep(plan.pause).await;
        }
    }
    if plan.act == Act::Hang {
        peer.rest().await;
    }
    answer.is_whole
}

/// What goes over the wire.
struct Answer {
    head: Vec<u8>,
    /// With their transfer coding.
    pieces: Vec<Vec<u8>>,
    /// The connection can be used again.
    is_whole: bool,
}

impl Answer {
    fn of(plan: &Plan, golden: &Golden) -> Self {
        let response = golden.case.response.as_ref().unwrap();
        let mut headers: Vec<(String, Vec<u8>)> = response.headers.0.clone();
        let drops = |name: &str, headers: &mut Vec<(String, Vec<u8>)>| {
            headers.retain(|(there, _)| !there.eq_ignore_ascii_case(name));
        };
        for name in ["transfer-encoding", "connection", "keep-alive"] {
            drops(name, &mut headers);
        }
        let mut pieces: Vec<Vec<u8>> = response.body.iter().map(|(_, piece)| piece.clone()).collect();
        let mut status = response.status;
        let place = |length: usize| length * usize::try_from(plan.place).unwrap() / 1000;
        match plan.act {
            Act::Status(code) => status = code,
            Act::OtherType(kind) => {
                drops("content-type", &mut headers);
                headers.push(("Content-Type".to_owned(), kind.as_bytes().to_vec()));
            }
            Act::Encoded(name) | Act::BadlyEncoded(name) => {
                headers.push(("Content-Encoding".to_owned(), name.as_bytes().to_vec()));
                let plain: Vec<_> = pieces.iter().map(|piece| (Duration::ZERO, piece.as_slice())).collect();
                pieces = encode(name, &plain, true).into_iter().map(|(_, piece)| piece).collect();
                if matches!(plan.act, Act::BadlyEncoded(_)) {
                    spoil(&mut pieces, place);
                }
            }
            Act::Spoiled => spoil(&mut pieces, place),
            Act::Empty => pieces.clear(),
            Act::HeadOnly => pieces.truncate(0),
            Act::Cut | Act::Hang | Act::BadChunk => cut(&mut pieces, place),
            _ => {}
        }
        let length: usize = pieces.iter().map(Vec::len).sum();
        let framing = match plan.act {
            Act::Cut | Act::HeadOnly | Act::BadChunk => Framing::Chunked,
            Act::Hang if plan.framing == Framing::Length => Framing::Chunked,
            Act::Short => Framing::Length,
            _ => plan.framing,
        };
        if !golden.is_bodiless() {
            drops("content-length", &mut headers);
            match framing {
                Framing::Chunked => headers.push(("Transfer-Encoding".to_owned(), b"chunked".to_vec())),
                Framing::Length => {
                    let said = length + if plan.act == Act::Short { 7 } else { 0 };
                    headers.push(("Content-Length".to_owned(), said.to_string().into_bytes()));
                }
                Framing::Close => headers.push(("Connection".to_owned(), b"close".to_vec())),
            }
        }
        let breaks = matches!(plan.act, Act::Cut | Act::HeadOnly | Act::BadChunk | Act::Hang | Act::Short);
        if framing == Framing::Chunked && !golden.is_bodiless() {
            pieces = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| chunk(piece)).collect();
            if plan.act == Act::BadChunk {
                pieces.push(b"many\r\n".to_vec());
            } else if !breaks {
                pieces.push(b"0\r\n\r\n".to_vec());
            }
        }
        let mut head = format!("HTTP/1.1 {status} Fine\r\n").into_bytes();
        for (name, value) in headers {
            head.extend([name.as_bytes(), b": ", &value, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        if golden.is_bodiless() {
            pieces.clear();
        }
        Self { head, pieces, is_whole: !breaks && (framing != Framing::Close || golden.is_bodiless()) }
    }
}

/// Puts bytes between that belong nowhere.
fn spoil(pieces: &mut [Vec<u8>], place: impl Fn(usize) -> usize) {
    let at = place(pieces.len());
    if let Some(piece) = pieces.get_mut(at) {
        let at = place(piece.len());
        piece.splice(at..at, *b"\xFF\xFE\0]}\"{[");
    }
}

/// Takes the end away.
fn cut(pieces: &mut Vec<Vec<u8>>, place: impl Fn(usize) -> usize) {
    let keep = place(pieces.len());
    if let Some(piece) = pieces.get_mut(keep) {
        let at = place(piece.len());
        piece.truncate(at);
    }
    pieces.truncate(keep + 1);
}
