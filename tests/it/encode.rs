//! Plays a server that compresses: each piece of a body encoded and flushed at its own time.

use std::cell::RefCell;
use std::io::{Result, Write};
use std::rc::Rc;
use std::time::Duration;

/// The content encodings that are read.
pub(crate) const ENCODINGS: &[&str] = &[
    "gzip",
    "deflate",
    #[cfg(feature = "brotli")]
    "br",
    #[cfg(feature = "zstd")]
    "zstd",
];

#[derive(Clone, Default)]
struct Encoded(Rc<RefCell<Vec<u8>>>);

impl Write for Encoded {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// An encoder that finishes when it is dropped.
fn encoder(name: &str, to: Encoded) -> Box<dyn Write> {
    let level = flate2::Compression::fast();
    match name {
        "gzip" => Box::new(flate2::write::GzEncoder::new(to, level)),
        "deflate" => Box::new(flate2::write::ZlibEncoder::new(to, level)),
        "br" => Box::new(brotli::CompressorWriter::new(to, 4096, 2, 18)),
        "zstd" => Box::new(zstd::stream::write::Encoder::new(to, 1).unwrap().auto_finish()),
        other => panic!("no encoder for {other}"),
    }
}

/// The pieces in an encoding; its end comes with the last one, where it comes at all.
pub(crate) fn encode(name: &str, pieces: &[(Duration, &[u8])], ends: bool) -> Vec<(Duration, Vec<u8>)> {
    let to = Encoded::default();
    let mut encoder = encoder(name, to.clone());
    let mut encoded = Vec::with_capacity(pieces.len());
    for (at, piece) in pieces {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
        encoded.push((*at, std::mem::take(&mut *to.0.borrow_mut())));
    }
    drop(encoder);
    if let Some((_, last)) = encoded.last_mut().filter(|_| ends) {
        last.append(&mut to.0.borrow_mut());
    }
    encoded
}
