//! Clients, and what they see.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::plan::{ASKED, Act, Behind, Plan, Plans, Role};
use super::wire::{ALL, End, Peer, Reading, chunk};
use crate::harness::Sidecar;

/// What the client of an exchange saw of it.
#[derive(Debug)]
pub(super) struct Saw {
    /// The status, where a head came.
    pub(super) code: Option<u16>,
    pub(super) body: Body,
    pub(super) end: End,
}

/// Bytes that are shown as text.
pub(super) struct Body(pub(super) Vec<u8>);

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl Saw {
    fn nothing(end: End) -> Self {
        Self { code: None, body: Body(Vec::new()), end }
    }
}

/// A request as it is sent.
struct Ask {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// No deadline is for who owes the rest of its request: only its own patience ends it.
const STALLS: Duration = Duration::from_secs(30);

/// One client's connections.
#[derive(Default)]
pub(super) struct Clients {
    http1: Option<Peer>,
    http2: Option<SendRequest<Full<Bytes>>>,
}

impl Clients {
    pub(super) async fn make(&mut self, sidecar: &Sidecar, plan: &Plan, plans: &Arc<Plans>) -> Saw {
        let ask = Ask::of(plan, plans);
        let kept = self.http1.take();
        if plan.behind == Behind::Nobody {
            return over_http1(Peer::new(sidecar.connect().0), plan, &ask).await.0;
        }
        if plan.over_http2 {
            return self.over_http2(sidecar, plan, ask).await;
        }
        let peer = kept.unwrap_or_else(|| Peer::new(sidecar.connect().0));
        let (saw, peer) = over_http1(peer, plan, &ask).await;
        self.http1 = peer;
        saw
    }

    async fn over_http2(&mut self, sidecar: &Sidecar, plan: &Plan, ask: Ask) -> Saw {
        let mut client = match self.http2.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let io = TokioIo::new(sidecar.connect().0);
                let Ok((client, connection)) = http2::handshake(TokioExecutor::new(), io).await else {
                    return Saw::nothing(End::Broken);
                };
                sidecar.beside(async { drop(connection.await) });
                client
            }
        };
        let mut request = Request::builder().method(ask.method.as_str()).uri(format!(
            "http://{}{}",
            host(plan),
            ask.target
        ));
        for (name, value) in &ask.headers {
            request = request.header(name, value.as_slice());
        }
        let sending = client.send_request(request.body(Full::from(ask.body)).unwrap());
        self.http2 = Some(client);
        let answered = match plan.role {
            Role::LeavesBeforeHead(after) => {
                let after = after + Duration::from_millis(1); // until it is sent
                let Ok(answered) = tokio::time::timeout(after, sending).await else {
                    return Saw::nothing(End::Left);
                };
                answered
            }
            _ => sending.await,
        };
        let Ok(response) = answered else { return Saw::nothing(End::Broken) };
        let (code, mut incoming) = (response.status().as_u16(), response.into_body());
        let (how, mut body) = (reading(plan), Vec::new());
        let end = loop {
            match incoming.frame().await {
                None => break End::Clean,
                Some(Err(_)) => break End::Broken,
                Some(Ok(frame)) => body.extend(frame.into_data().unwrap_or_default()),
            }
            if body.len() >= how.most {
                break End::Left;
            }
            if let Some((_, pause)) = how.slowly {
                tokio::time::sleep(pause).await;
            }
        };
        Saw { code: Some(code), body: Body(body), end }
    }
}

/// How the client of a plan reads.
fn reading(plan: &Plan) -> Reading {
    match plan.role {
        Role::LeavesAfter(most) => Reading { most, ..ALL },
        Role::ReadsSlowly => Reading { slowly: Some((200, Duration::from_millis(7))), ..ALL },
        _ => ALL,
    }
}

fn host(plan: &Plan) -> &'static str {
    match plan.behind {
        Behind::Sim(name) => name,
        Behind::Script => "script",
        Behind::Nobody => "api",
        Behind::Nowhere => "elsewhere",
    }
}

/// Gives the connection back where it can be used again.
async fn over_http1(mut peer: Peer, plan: &Plan, ask: &Ask) -> (Saw, Option<Peer>) {
    if plan.role == Role::Garbled {
        peer.write("all is well\r\n\r\n").await;
        peer.rest().await;
        return (Saw::nothing(End::Broken), None);
    }
    if !ask.send(&mut peer, plan).await {
        return (Saw::nothing(End::Left), None);
    }
    let patience = match plan.role {
        Role::LeavesBeforeHead(after) => Some(after),
        Role::Stalls(_) => Some(STALLS),
        _ => None,
    };
    let head = match patience {
        Some(after) => match tokio::time::timeout(after, peer.head()).await {
            Ok(head) => head,
            Err(_) => return (Saw::nothing(End::Left), None),
        },
        None => peer.head().await,
    };
    let Some(head) = head else { return (Saw::nothing(End::Broken), None) };
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let is_bodiless = ask.method == "HEAD" || matches!(code, 204 | 304);
    let (body, end) = peer.body(&head, is_bodiless, reading(plan)).await;
    // Who has answered a request before its end may close.
    let has_sent_all =
        matches!(plan.role, Role::Reads | Role::ReadsSlowly | Role::LeavesAfter(_)) && plan.act != Act::Early;
    let is_kept =
        end == End::Clean && has_sent_all && !head.to_ascii_lowercase().contains("connection: close");
    (Saw { code: Some(code), body: Body(body), end }, Some(peer).filter(|_| is_kept))
}

impl Ask {
    fn of(plan: &Plan, plans: &Plans) -> Self {
        let mut ask = if plan.behind == Behind::Script {
            let request = &plans.case(plan).case.request;
            let (method, target, body) =
                (request.method.clone(), request.target.clone(), request.body.clone());
            let of_a_hop = [
                "host",
                "content-length",
                "transfer-encoding",
                "connection",
                "upgrade",
                "te",
                "x-request-id",
                "x-tenant-id",
            ];
            let mut headers = request.headers.0.clone();
            headers.retain(|(name, _)| !of_a_hop.contains(&name.to_ascii_lowercase().as_str()));
            Self { method, target, headers, body }
        } else {
            let (path, body, _) = ASKED[plan.which % ASKED.len()];
            let mut headers = vec![("x-sim-tokens".to_owned(), plan.tokens.to_string().into_bytes())];
            headers.extend(plan.fault.map(|fault| ("x-sim-fault".to_owned(), fault.as_bytes().to_vec())));
            Self {
                method: "POST".to_owned(),
                target: path.to_owned(),
                headers,
                body: body.as_bytes().to_vec(),
            }
        };
        ask.headers.push(("x-request-id".to_owned(), plan.number.to_string().into_bytes()));
        if !plan.tenant.is_empty() {
            ask.headers.push(("x-tenant-id".to_owned(), plan.tenant.as_bytes().to_vec()));
        }
        ask
    }

    /// Sends it as far as is planned; whether the client is still there then.
    async fn send(&self, peer: &mut Peer, plan: &Plan) -> bool {
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, host(plan)).into_bytes();
        if plan.role == Role::Doubtful {
            head.extend(b"Host: other\r\n");
        }
        for (name, value) in &self.headers {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        if plan.role == Role::BreaksChunk {
            head.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            head.extend(chunk(if self.body.is_empty() { b"{" } else { &self.body }));
            peer.write(head).await;
            peer.write("many\r\n").await;
            return true;
        }
        if !self.body.is_empty() {
            head.extend(format!("Content-Length: {}\r\n", self.body.len()).into_bytes());
        }
        head.extend(b"\r\n");
        let part = |percent| self.body.split_at(self.body.len() * usize::try_from(percent).unwrap() / 100);
        match plan.role {
            Role::HalfSends(percent, later) => {
                head.extend(part(percent).0);
                peer.write(head).await;
                tokio::time::sleep(later).await;
                return false;
            }
            Role::Stalls(percent) => head.extend(part(percent).0),
            Role::Pauses(percent, pause) => {
                head.extend(part(percent).0);
                peer.write(&head).await;
                tokio::time::sleep(pause).await;
                head = part(percent).1.to_vec();
            }
            _ => head.extend(&self.body),
        }
        // A server that has answered and closed reads no more: its answer is there all the same.
        peer.write(head).await;
        true
    }
}
