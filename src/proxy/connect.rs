//! Connections to an upstream: TCP or unix socket, with TLS where the URL says so. Each keeps the moment of
//! its last read, so that a slow reader downstream makes no gap of the upstream's, and how long it took.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::pieces::poll_write_pieces;
use super::tls;
use crate::clock::{Clock, Moment};
use crate::config::{Target, Transport};

/// What a connection tells the answers that come over it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    last_read: Arc<AtomicU64>,
    took: Duration,
    told: Arc<AtomicBool>,
}

impl Line {
    fn new(took: Duration) -> Self {
        Self { last_read: Arc::default(), took, told: Arc::default() }
    }

    /// The moment of the last read that brought bytes.
    pub(super) fn last_read(&self) -> Moment {
        Moment::from_nanos(self.last_read.load(Ordering::Acquire))
    }

    /// How long connecting took; told once, to the first answer.
    pub(super) fn take_connect_time(&self) -> Option<Duration> {
        (!self.told.swap(true, Ordering::AcqRel)).then_some(self.took)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// It took too long.
    #[error("connecting took longer than connect_timeout")]
    TimedOut,
    /// The name does not resolve.
    #[error("the name does not resolve")]
    Name(#[source] io::Error),
    /// Nobody listens, or the way there is broken.
    #[error("the connection was refused or broke")]
    Refused(#[source] io::Error),
    /// TLS does not come about.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
}

/// How upstreams are reached.
#[derive(Debug, Clone)]
pub enum Dial {
    /// Over the network, as their URLs say.
    Network,
    /// Through pipes in memory, whatever their URLs say: the other end of each connection goes here. For
    /// tests under paused time, which sockets do not follow.
    Memory(mpsc::UnboundedSender<DuplexStream>),
}

const PIPE: usize = 64 << 10; // about what a socket's buffer holds

/// Makes connections to one upstream, whatever host a request's URI names.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    dial: Dial,
    target: Arc<Target>,
    timeout: Duration,
    tls: Option<tls::Client>,
    clock: Clock,
}

const KEEPALIVE: Duration = Duration::from_secs(60); // below the 350 s after which cloud load balancers forget a flow

impl Connector {
    /// A connector to the target.
    ///
    /// # Errors
    /// A file named for TLS cannot be read or used.
    pub(crate) fn new(
        dial: Dial,
        target: &Target,
        timeout: Duration,
        clock: Clock,
    ) -> Result<Self, tls::Error> {
        let tls = target.tls.as_ref().map(|tls| tls::Client::new(tls, &target.authority)).transpose()?;
        Ok(Self { dial, target: Arc::new(target.clone()), timeout, tls, clock })
    }

    /// A new connection, and what it will tell.
    pub(super) async fn connect(&self) -> Result<(TokioIo<Stamped>, Line), ConnectError> {
        let began = self.clock.now();
        let stream =
            tokio::time::timeout(self.timeout, self.open()).await.map_err(|_| ConnectError::TimedOut)??;
        let line = Line::new(self.clock.now().since(began));
        Ok((TokioIo::new(Stamped { stream, line: line.clone(), clock: self.clock }), line))
    }

    async fn open(&self) -> Result<Stream, ConnectError> {
        if let Dial::Memory(pipes) = &self.dial {
            let (ours, theirs) = tokio::io::duplex(PIPE);
            let refused = |_| ConnectError::Refused(io::ErrorKind::ConnectionRefused.into());
            return pipes.send(theirs).map(|()| Stream::Memory(ours)).map_err(refused);
        }
        let (host, port) = match &self.target.transport {
            Transport::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(ConnectError::Refused)?;
                return Ok(Stream::Unix(stream));
            }
            Transport::Tcp { host, port } => (host.as_str(), *port),
        };
        let addresses = tokio::net::lookup_host((host, port)).await.map_err(ConnectError::Name)?;
        let addresses: Vec<_> = addresses.collect();
        let tcp = TcpStream::connect(addresses.as_slice()).await.map_err(ConnectError::Refused)?;
        prepare_socket(&tcp);
        match &self.tls {
            None => Ok(Stream::Tcp(tcp)),
            Some(tls) => {
                let (connector, name): (TlsConnector, ServerName<'static>) = tls.connector();
                let stream = connector.connect(name, tcp).await.map_err(ConnectError::Tls)?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }
}

/// Chunks must not wait for each other, and a peer that vanished must be noticed.
pub(super) fn prepare_socket(socket: &TcpStream) {
    // Either fails only on a socket that is already dead, which its next use will tell.
    let _ = socket.set_nodelay(true);
    let _ = socket2::SockRef::from(socket)
        .set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE));
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stamped>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stamped>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(|(io, _)| io) })
    }
}

/// A connection that keeps the moment of its last read.
#[derive(Debug)]
pub(crate) struct Stamped {
    stream: Stream,
    line: Line,
    clock: Clock,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Memory(DuplexStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    fn reader(&mut self) -> Pin<&mut (dyn AsyncRead + Unpin)> {
        match self {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
            Self::Memory(stream) => Pin::new(stream),
            Self::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }

    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
            Self::Memory(stream) => Pin::new(stream),
            Self::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

impl Connection for Stamped {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.line.clone());
        match &self.stream {
            Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl AsyncRead for Stamped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.stream.reader().poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.line.last_read.store(self.clock.now().as_nanos(), Ordering::Release);
        }
        polled
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.writer().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.writer().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.writer().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Memory(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_pieces(self.stream.writer(), cx, slices)
    }
}
