//! How pieces of a message are written: small ones together. The system takes one buffer for less than it takes
//! several, and copying a few hundred bytes costs a hundredth of the call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::io::AsyncWrite;

/// Of pieces that have no more bytes than this together one is made: an event of a stream, most answers' head and body.
const SMALL: usize = 2 << 10;

/// Writes pieces, as far as they are taken; gives how many bytes were.
pub(super) fn poll_write_pieces(
    sink: Pin<&mut (impl AsyncWrite + ?Sized)>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return sink.poll_write(cx, piece);
    }
    if pieces.iter().map(|piece| piece.len()).sum::<usize>() > SMALL {
        return sink.poll_write_vectored(cx, pieces);
    }
    let mut together = SmallVec::<[u8; SMALL]>::new();
    pieces.iter().for_each(|piece| together.extend_from_slice(piece));
    sink.poll_write(cx, &together)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Takes so many bytes of a write, and keeps which call it was.
    #[derive(Default)]
    struct Sink {
        takes: usize,
        written: Vec<u8>,
        vectored: bool,
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.takes);
            self.written.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.vectored = true;
            self.poll_write(cx, &pieces.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<_>>())
        }
    }

    async fn write(sink: &mut Sink, pieces: &[&[u8]]) -> usize {
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        poll_fn(|cx| poll_write_pieces(Pin::new(&mut *sink), cx, &slices)).await.unwrap()
    }

    #[tokio::test]
    async fn small_pieces_are_one_write_and_large_ones_are_not_copied() {
        let large = vec![b'x'; SMALL];
        for (pieces, vectored) in [
            ([b"head".as_slice(), b"", b"body"].as_slice(), false),
            (&[b"alone"], false),
            (&[&large], false),
            (&[&large[2..], b"ab"], false),
            (&[&large, b"a"], true),
            (&[], false),
        ] {
            let all = pieces.concat();
            let mut sink = Sink { takes: usize::MAX, ..Sink::default() };
            assert_eq!(write(&mut sink, pieces).await, all.len());
            assert_eq!((sink.written, sink.vectored), (all, vectored));
        }
    }

    #[tokio::test]
    async fn what_is_taken_of_them_is_told() {
        let mut sink = Sink { takes: 6, ..Sink::default() };
        assert_eq!(write(&mut sink, &[b"head", b"body"]).await, 6);
        assert_eq!(sink.written, b"headbo");
    }
}
