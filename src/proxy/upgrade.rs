//! Tunnels: a connection that left HTTP for another protocol. Bytes pass both ways until one side closes.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Proxy;
use super::watch::Recording;
use crate::exchange::Ending;

const BUFFER: usize = 16 << 10; // a direction; a frame of a realtime API has a few KiB

/// Passes bytes between the two sides once both have switched; the recording ends with the tunnel.
pub(super) fn tunnel(proxy: &Arc<Proxy>, downstream: OnUpgrade, upstream: OnUpgrade, recording: Recording) {
    let cut = proxy.cut.clone();
    proxy.tasks.spawn(async move {
        tokio::select! {
            ending = run(downstream, upstream, &recording) => recording.finish(ending),
            () = cut.cancelled() => recording.finish(Ending::Drained),
        }
    });
}

async fn run(downstream: OnUpgrade, upstream: OnUpgrade, recording: &Recording) -> Ending {
    let Ok(upstream) = upstream.await else { return Ending::UpstreamBroke };
    let Ok(downstream) = downstream.await else { return Ending::ClientGone };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(downstream));
    let (mut from_server, mut to_server) = tokio::io::split(TokioIo::new(upstream));
    let watch = recording.watch();
    let up = pump(&mut from_client, &mut to_server, |bytes| watch.request_chunk(bytes));
    let down = pump(&mut from_server, &mut to_client, |bytes| watch.response_chunk(bytes, watch.now()));
    tokio::pin!(up, down);
    // One side's clean close is passed on; the tunnel lasts until the other has closed too. A break ends it.
    tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => down.await.map_or_else(|end| end.of_server(), |()| Ending::Clean),
            Err(end) => end.of_client(),
        },
        ended = &mut down => match ended {
            Ok(()) => up.await.map_or_else(|end| end.of_client(), |()| Ending::Clean),
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
    source: &mut (impl AsyncRead + Unpin),
    sink: &mut (impl AsyncWrite + Unpin),
    see: impl Fn(&[u8]),
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = source.read(&mut buffer).await.map_err(|_| Broken::Source)?;
        let bytes = buffer.get(..n).unwrap_or_default();
        if bytes.is_empty() {
            return sink.shutdown().await.map_err(|_| Broken::Sink);
        }
        see(bytes);
        sink.write_all(bytes).await.map_err(|_| Broken::Sink)?;
        sink.flush().await.map_err(|_| Broken::Sink)?;
    }
}
