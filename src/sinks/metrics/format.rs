//! How a page is written, and what a scraper asked for.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
/// The format of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text004,
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics100,
}

impl Format {
    /// The format that an `Accept` header asks for: OpenMetrics 1.0 where it is named and not ranked below
    /// plain text, else text, which every reader knows.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let (mut open, mut text) = (0.0, 0.0);
        for (range, quality) in accept.into_iter().flat_map(ranked) {
            let mut parts = range.split(';').map(str::trim);
            match parts.next() {
                Some(kind) if kind.eq_ignore_ascii_case("application/openmetrics-text") => {
                    let version = parts.find_map(|parameter| parameter.strip_prefix("version="));
                    if version.is_none_or(|version| version.trim_matches('"') == "1.0.0") {
                        open = quality.max(open);
                    }
                }
                Some(kind) if kind.eq_ignore_ascii_case("text/plain") => text = quality.max(text),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics100 } else { Self::Text004 }
    }

    /// The header `Content-Type` of a page.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text004 => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics100 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Whether an `Accept-Encoding` header allows gzip. `q=0` means no.
pub fn accepts_gzip(accept_encoding: Option<&str>) -> bool {
    let quality = |coding: &str| {
        let mut ranges = accept_encoding.into_iter().flat_map(ranked);
        ranges.find(|(range, _)| {
            range.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(coding))
        })
    };
    quality("gzip").or_else(|| quality("*")).is_some_and(|(_, quality)| quality > 0.0)
}

/// Compressed, for speed rather than size: a page is mostly repetition.
///
/// # Errors
/// None that memory can give; the compressor's interface has them.
pub fn gzip(page: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    encoder.write_all(page)?;
    encoder.finish()
}

/// The elements of a header that ranks alternatives, each with its quality: 1 unless given, 0 if unreadable.
fn ranked(header: &str) -> impl Iterator<Item = (&str, f64)> {
    header.split(',').map(|range| {
        let quality = range.split(';').skip(1).find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().unwrap_or(0.0))
        });
        (range.trim(), quality.unwrap_or(1.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_name_it() {
        use Format::{OpenMetrics100, Text004};
        let prometheus2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, want) in [
            (None, Text004),
            (Some(""), Text004),
            (Some("*/*"), Text004),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Text004),
            (Some("text/plain"), Text004),
            (Some(prometheus2), OpenMetrics100),
            (Some(prometheus3), OpenMetrics100),
            (Some("application/openmetrics-text"), OpenMetrics100),
            (
                Some("Application/OpenMetrics-Text; version=\"1.0.0\"; Q=0.9, text/plain; q=0.8"),
                OpenMetrics100,
            ),
            (Some("application/openmetrics-text;q=0.5,text/plain"), Text004),
            (Some("application/openmetrics-text;q=0"), Text004),
            (Some("application/openmetrics-text;q=rubbish"), Text004),
            (Some("application/openmetrics-text;version=2.0.0"), Text004),
        ] {
            assert_eq!(Format::negotiate(accept), want, "{accept:?}");
        }
    }

    #[test]
    fn gzip_only_when_it_is_wanted() {
        for (header, want) in [
            (None, false),
            (Some(""), false),
            (Some("gzip"), true),
            (Some("deflate, GZIP;q=0.5"), true),
            (Some("gzip;q=0"), false),
            (Some("gzip; q=0.000, *"), false),
            (Some("*"), true),
            (Some("*;q=0"), false),
            (Some("br"), false),
        ] {
            assert_eq!(accepts_gzip(header), want, "{header:?}");
        }
    }

    #[test]
    fn what_is_compressed_comes_out_again() {
        let page = b"streamgauge_series 1\n".repeat(1_000);
        let small = gzip(&page).unwrap();
        let mut again = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(small.as_slice()), &mut again).unwrap();
        assert_eq!(again, page);
        assert!(small.len() < page.len() / 50);
    }
}
