//! Tunnels: a connection that left HTTP for another protocol. Bytes pass both ways until one side closes; what is in
//! them is looked at after they have been written.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Proxy;
use super::session::Sitting;
use super::watch::Recording;
use crate::clock::{Clock, Moment};
use crate::exchange::Ending;
use crate::observe::Side;

const BUFFER: usize = 16 << 10; // a direction; a frame of a realtime API has a few KiB

/// Passes bytes between the two sides once both have switched; the recording ends with the tunnel, and so does the session
/// that may be in it.
pub(super) fn tunnel(
    proxy: &Arc<Proxy>,
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    recording: Recording,
    sitting: Option<Sitting>,
) {
    let (cut, clock) = (proxy.cut.clone(), proxy.clock);
    proxy.tasks.spawn(async move {
        let ending = tokio::select! {
            ending = run(clock, downstream, upstream, &recording, sitting.as_ref()) => ending,
            () = cut.cancelled() => Ending::Drained,
        };
        if sitting.is_some_and(|sitting| sitting.finish(ending)) {
            recording.understood();
        }
        recording.finish(ending);
    });
}

async fn run(
    clock: Clock,
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    recording: &Recording,
    sitting: Option<&Sitting>,
) -> Ending {
    let Ok(upstream) = upstream.await else { return Ending::UpstreamBroke };
    let Ok(downstream) = downstream.await else { return Ending::ClientGone };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(downstream));
    let (mut from_server, mut to_server) = tokio::io::split(TokioIo::new(upstream));
    let watch = recording.watch();
    let see = |side, bytes: &[u8], at| sitting.into_iter().for_each(|sitting| sitting.see(side, bytes, at));
    let ended = |side| sitting.into_iter().for_each(|sitting| sitting.ended(side));
    let up = pump(clock, &mut from_client, &mut to_server, |bytes, at| {
        watch.request_chunk(bytes);
        see(Side::Client, bytes, at);
    });
    let down = pump(clock, &mut from_server, &mut to_client, |bytes, at| {
        watch.response_chunk(bytes, at);
        see(Side::Server, bytes, at);
    });
    tokio::pin!(up, down);
    // One side's clean close is passed on; the tunnel lasts until the other has closed too. A break ends it.
    tokio::select! {
        end = &mut up => match end {
            Ok(()) => {
                ended(Side::Client);
                down.await.map_or_else(|end| end.of_server(), |()| Ending::Clean)
            }
            Err(end) => end.of_client(),
        },
        end = &mut down => match end {
            Ok(()) => {
                ended(Side::Server);
                up.await.map_or_else(|end| end.of_client(), |()| Ending::Clean)
            }
            Err(end) => end.of_server(),
        },
    }
}

/// Which end of a direction broke.
enum Broken {
    Source,
    Sink,
}

impl Broken {
    /// For the direction that comes from the client.
    fn of_client(self) -> Ending {
        match self {
            Self::Source => Ending::ClientGone,
            Self::Sink => Ending::UpstreamBroke,
        }
    }

    /// For the direction that comes from the server.
    fn of_server(self) -> Ending {
        match self {
            Self::Source => Ending::UpstreamBroke,
            Self::Sink => Ending::ClientGone,
        }
    }
}

async fn pump(
    clock: Clock,
    source: &mut (impl AsyncRead + Unpin),
    sink: &mut (impl AsyncWrite + Unpin),
    see: impl Fn(&[u8], Moment),
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = source.read(&mut buffer).await.map_err(|_| Broken::Source)?;
        let bytes = buffer.get(..n).unwrap_or_default();
        if bytes.is_empty() {
            return sink.shutdown().await.map_err(|_| Broken::Sink);
        }
        let at = clock.now();
        let mut writing = pin!(async {
            sink.write_all(bytes).await?;
            sink.flush().await
        });
        // First they are written, as far as that goes at once: the other side may answer to a part of them.
        let written = poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await;
        see(bytes, at);
        let written = match written {
            Poll::Ready(written) => written,
            Poll::Pending => writing.await,
        };
        written.map_err(|_| Broken::Sink)?;
    }
}
