//! HTTP/1 as little as both sides need of it, on bytes of their own.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::plan::Framing;

/// One end of a connection, with what was read of it and not used.
pub(super) struct Peer {
    io: DuplexStream,
    ahead: Vec<u8>,
}

/// How a body ended for who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As HTTP says it should.
    Clean,
    /// With the connection.
    Broken,
    /// The reader had enough.
    Left,
}

/// How a body is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// After so many bytes the reader has enough.
    pub(super) most: usize,
    /// So many at once, with a pause.
    pub(super) slowly: Option<(usize, Duration)>,
}

pub(super) const ALL: Reading = Reading { most: usize::MAX, slowly: None };

impl Peer {
    pub(super) fn new(io: DuplexStream) -> Self {
        Self { io, ahead: Vec::new() }
    }

    /// The connection, and what was read of it.
    pub(super) fn into_parts(self) -> (DuplexStream, Vec<u8>) {
        (self.io, self.ahead)
    }

    /// Whether it could be written.
    pub(super) async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.io.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Reads more; whether there was more.
    async fn fill(&mut self) -> bool {
        self.ahead.reserve(16 << 10);
        matches!(self.io.read_buf(&mut self.ahead).await, Ok(1..))
    }

    /// Up to and with `end`, which stays out; none where the connection ends before it.
    async fn read_to(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                let text = String::from_utf8_lossy(&self.ahead[..at]).into_owned();
                self.ahead.drain(..at + end.len());
                return Some(text);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// A head without its empty line.
    pub(super) async fn head(&mut self) -> Option<String> {
        self.read_to(b"\r\n\r\n").await
    }

    /// What comes first, without taking it: so many bytes, or a head.
    pub(super) async fn peek(&mut self) -> Option<String> {
        while !self.ahead.windows(4).any(|four| four == b"\r\n\r\n") {
            if !self.fill().await {
                return None;
            }
        }
        Some(String::from_utf8_lossy(&self.ahead).into_owned())
    }

    /// Everything until the other side closes.
    pub(super) async fn rest(&mut self) {
        while self.fill().await {
            self.ahead.clear();
        }
    }

    pub(super) async fn body(&mut self, head: &str, is_bodiless: bool, how: Reading) -> (Vec<u8>, End) {
        let mut body = Vec::new();
        let end = match framing(head) {
            _ if is_bodiless => End::Clean,
            (Framing::Length, length) => self.piece(length, how, &mut body).await,
            (Framing::Chunked, _) => self.chunks(how, &mut body).await,
            (Framing::Close, _) => match self.piece(usize::MAX, how, &mut body).await {
                End::Left => End::Left,
                _ => End::Clean,
            },
        };
        (body, end)
    }

    async fn chunks(&mut self, how: Reading, body: &mut Vec<u8>) -> End {
        loop {
            let Some(size) = self.read_to(b"\r\n").await else { return End::Broken };
            let size = usize::from_str_radix(size.split(';').next().unwrap(), 16)
                .unwrap_or_else(|_| panic!("a chunk of size {size:?}"));
            if size == 0 {
                // Trailers, and the empty line.
                loop {
                    match self.read_to(b"\r\n").await {
                        Some(line) if line.is_empty() => return End::Clean,
                        Some(_) => {}
                        None => return End::Broken,
                    }
                }
            }
            match self.piece(size, how, body).await {
                End::Clean if self.read_to(b"\r\n").await.is_some() => {}
                End::Left => return End::Left,
                _ => return End::Broken,
            }
        }
    }

    async fn piece(&mut self, mut size: usize, how: Reading, body: &mut Vec<u8>) -> End {
        while size > 0 {
            if self.ahead.is_empty() && !self.fill().await {
                return End::Broken;
            }
            let at_once = how.slowly.map_or(usize::MAX, |(at_once, _)| at_once);
            let n = self.ahead.len().min(size).min(at_once);
            body.extend(self.ahead.drain(..n));
            size -= n;
            if body.len() >= how.most {
                return End::Left;
            }
            if let Some((_, pause)) = how.slowly {
                tokio::time::sleep(pause).await;
            }
        }
        End::Clean
    }
}

/// A header's first value.
pub(super) fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(there, _)| there.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn framing(head: &str) -> (Framing, usize) {
    let is_request = !head.starts_with("HTTP/");
    match header(head, "content-length") {
        _ if header(head, "transfer-encoding").is_some() => (Framing::Chunked, 0),
        Some(length) => (Framing::Length, length.parse().unwrap()),
        None if is_request => (Framing::Length, 0),
        None => (Framing::Close, 0),
    }
}

/// A chunk of the transfer coding.
pub(super) fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:X}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
