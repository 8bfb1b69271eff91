//! The first bytes of a connection: they tell HTTP/1 from HTTP/2, and must come in time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::pieces::poll_write_pieces;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose first bytes have been looked at; they are read again with what follows them.
#[derive(Debug)]
pub struct Opening<S> {
    socket: S,
    first: [u8; PREFACE.len()],
    /// How many of them have come and have not been read again.
    unread: usize,
    /// Whether they are HTTP/2's preface.
    pub is_http2: bool,
}

impl<S: AsyncRead + Unpin> Opening<S> {
    /// Reads the first bytes.
    ///
    /// # Errors
    /// The connection breaks, or they do not come within `limit`.
    pub async fn read(socket: S, limit: Duration) -> io::Result<Self> {
        let mut opening = Self { socket, first: [0; PREFACE.len()], unread: 0, is_http2: false };
        tokio::time::timeout(limit, opening.read_first()).await??;
        Ok(opening)
    }

    async fn read_first(&mut self) -> io::Result<()> {
        while let Some(room) = self.first.get_mut(self.unread..).filter(|room| !room.is_empty()) {
            let read = self.socket.read(room).await?;
            self.unread += read;
            let come = self.first.get(..self.unread).unwrap_or_default();
            if read == 0 || !PREFACE.starts_with(come) {
                return Ok(());
            }
        }
        self.is_http2 = true;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unread == 0 {
            return Pin::new(&mut this.socket).poll_read(cx, buffer);
        }
        let taken = this.unread.min(buffer.remaining());
        buffer.put_slice(this.first.get(..taken).unwrap_or_default());
        this.first.copy_within(taken.., 0);
        this.unread -= taken;
        if this.unread == 0 && buffer.remaining() > 0 {
            // What follows comes with them, or the reader would need a second, larger buffer. Its end or error
            // comes again.
            let _ = Pin::new(&mut this.socket).poll_read(cx, buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_pieces(Pin::new(&mut self.socket), cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn opened(pieces: &[&[u8]]) -> io::Result<(bool, Vec<u8>)> {
        let (mut client, server) = tokio::io::duplex(1024);
        let writes = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let reads = async {
            let mut opening = Opening::read(server, Duration::from_secs(1)).await?;
            let mut all = Vec::new();
            opening.read_to_end(&mut all).await?;
            Ok((opening.is_http2, all))
        };
        tokio::join!(writes, reads).1
    }

    #[tokio::test]
    async fn the_preface_is_told_however_it_is_cut_and_every_byte_is_read_again() {
        let preface_and_more = [PREFACE.as_slice(), b"and more"].concat();
        for at in 0..preface_and_more.len() {
            let (head, tail) = preface_and_more.split_at(at);
            let pieces = [head, tail];
            assert_eq!(opened(&pieces).await.unwrap(), (true, preface_and_more.clone()), "cut at {at}");
        }
        for text in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/1.1\r\n\r\n and more", "P", ""] {
            let (http2, all) = opened(&[text.as_bytes()]).await.unwrap();
            assert_eq!((http2, all.as_slice()), (false, text.as_bytes()));
        }
    }

    #[tokio::test]
    async fn a_reader_with_little_room_gets_them_piece_by_piece() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let mut opening = Opening::read(server, Duration::from_secs(1)).await.unwrap();
        let mut all = [0; 27];
        for byte in all.chunks_mut(1) {
            opening.read_exact(byte).await.unwrap();
        }
        assert_eq!(&all, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let (_client, server) = tokio::io::duplex(64);
        let error = Opening::read(server, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
