//! How many tokens a text is. For what nobody reports, and to check what is reported: a server's own count always
//! wins.
//!
//! Text is counted as text: a user who writes `<|endoftext|>` has written thirteen characters, not a token that ends
//! a document.

mod encoding;
pub mod prompt;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use encoding::Encoding;
use tiktoken_rs::CoreBPE;

use crate::exchange::{Count, Source};

/// The longest text that is counted whole: the slowest ones take half a second for so much.
pub const TEXT_LIMIT: usize = 2 << 20;

/// How much of a longer text is counted, the rest being taken to be like it.
const SAMPLE: usize = 256 << 10;

/// The longest run of blanks that is handed to a tokenizer in one piece: the regular expressions of some give up on, or
/// panic at, runs of about a million.
const BLANKS_LIMIT: usize = 64 << 10;

/// What a token is worth where nothing better is known: OpenAI's rule of thumb for English.
pub const BYTES_A_TOKEN: u64 = 4;

/// How many tokens a text is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// So many.
    pub tokens: u64,
    /// Whether they were counted and not estimated, as those of very long texts are.
    pub exact: bool,
}

impl Counted {
    /// No tokens.
    pub const NONE: Self = Self { tokens: 0, exact: true };

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { tokens: self.tokens.saturating_add(other.tokens), exact: self.exact && other.exact }
    }

    /// As a count of an exchange.
    pub const fn count(self) -> Count {
        Count { value: self.tokens, source: if self.exact { Source::Tokenized } else { Source::Estimated } }
    }

    const fn estimated(tokens: u64) -> Self {
        Self { tokens, exact: false }
    }
}

/// One token of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its number in the vocabulary.
    pub id: u32,
    /// The bytes of the text that it stands for. A character of several tokens can belong to each of them.
    pub bytes: Range<usize>,
}

/// A tokenizer that is ready.
pub struct Tokenizer(Kind);

enum Kind {
    Encoding(&'static CoreBPE),
    #[cfg(feature = "tokenizers")]
    File(Box<tokenizers::Tokenizer>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").finish_non_exhaustive()
    }
}

/// A file that is no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The library cannot read it.
    #[error("is no tokenizer.json of Hugging Face's: {0}")]
    Refused(String),
    /// This build has no library for it.
    #[error("this build cannot read tokenizer files; build it with the feature `tokenizers`")]
    NotBuiltIn,
}

impl Tokenizer {
    /// The tokenizer of an encoding. The first one of each loads its tables, which takes about 0.1 s.
    pub fn of_encoding(encoding: Encoding) -> Self {
        Self(Kind::Encoding(encoding.tables()))
    }

    /// The tokenizer that a `tokenizer.json` of Hugging Face's describes.
    ///
    /// # Errors
    /// It is none, or this build cannot read it.
    #[cfg(feature = "tokenizers")]
    pub fn from_json(json: &[u8]) -> Result<Self, FileError> {
        let refused = |error: tokenizers::Error| FileError::Refused(error.to_string());
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(refused)?;
        // A file may ask for both; they are for models' inputs, and would be wrong counts.
        tokenizer.with_truncation(None).map_err(refused)?;
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        Ok(Self(Kind::File(Box::new(tokenizer))))
    }

    /// The tokenizer that a `tokenizer.json` of Hugging Face's describes.
    ///
    /// # Errors
    /// This build cannot read it.
    #[cfg(not(feature = "tokenizers"))]
    pub fn from_json(_: &[u8]) -> Result<Self, FileError> {
        Err(FileError::NotBuiltIn)
    }

    /// How many tokens a text is. Takes up to about half a second; never panics.
    pub fn count(&self, text: &str) -> Counted {
        if text.len() > TEXT_LIMIT {
            let sample = head(text, SAMPLE);
            let sampled = self.count_pieces(sample).tokens;
            let all = u128::from(sampled) * text.len() as u128 / sample.len().max(1) as u128;
            return Counted::estimated(u64::try_from(all).unwrap_or(u64::MAX));
        }
        self.count_pieces(text)
    }

    fn count_pieces(&self, text: &str) -> Counted {
        let (first, rest) = split_at_long_blanks(text);
        let mut all = self.count_piece(first);
        let mut rest = rest;
        while let Some(text) = rest {
            let (piece, more) = split_at_long_blanks(text);
            let Counted { tokens, .. } = self.count_piece(piece);
            all = all.plus(Counted::estimated(tokens));
            rest = more;
        }
        all
    }

    fn count_piece(&self, text: &str) -> Counted {
        match self.encode(text, |ids| ids.len() as u64) {
            Some(tokens) => Counted { tokens, exact: true },
            None => Counted::estimated((text.len() as u64).div_ceil(BYTES_A_TOKEN)),
        }
    }

    /// The tokens of a text; none where the tokenizer gives up on it.
    pub fn tokens(&self, text: &str) -> Option<Vec<Token>> {
        match &self.0 {
            Kind::Encoding(tables) => {
                let ids = self.encode(text, <[u32]>::to_vec)?;
                let mut at = 0;
                let token = |id| {
                    let length = tables.decode_bytes(&[id]).ok()?.len();
                    at += length;
                    Some(Token { id, bytes: at - length..at })
                };
                ids.into_iter().map(token).collect()
            }
            #[cfg(feature = "tokenizers")]
            Kind::File(tokenizer) => {
                let encoding = tokenizer.encode(text, false).ok()?;
                let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
                Some(tokens.map(|(&id, &(start, end))| Token { id, bytes: start..end }).collect())
            }
        }
    }

    /// Encodes a text; none where the tokenizer panics or refuses.
    fn encode<T>(&self, text: &str, read: impl FnOnce(&[u32]) -> T) -> Option<T> {
        let encode = || match &self.0 {
            Kind::Encoding(tables) => Some(read(&tables.encode_ordinary(text))),
            #[cfg(feature = "tokenizers")]
            Kind::File(tokenizer) => {
                tokenizer.encode_fast(text, false).ok().map(|encoding| read(encoding.get_ids()))
            }
        };
        // Nothing outlives the panic but the tables, which are only read.
        catch_unwind(AssertUnwindSafe(encode)).ok().flatten()
    }
}

/// The longest beginning of a text that has at most so many bytes.
fn head(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text)
}

/// Splits a text inside its first run of blanks that is too long, so that neither piece has a part of it that is; the
/// second piece may have further ones.
fn split_at_long_blanks(text: &str) -> (&str, Option<&str>) {
    let mut run = 0;
    for (at, char) in text.char_indices() {
        run = if char.is_whitespace() { run + char.len_utf8() } else { 0 };
        if run >= BLANKS_LIMIT {
            let (first, rest) = text.split_at(at + char.len_utf8());
            return (first, Some(rest).filter(|rest| !rest.is_empty()));
        }
    }
    (text, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(tokens: u64) -> Counted {
        Counted { tokens, exact: true }
    }

    #[test]
    fn what_four_independent_tokenizers_say() {
        for (encoding, text, tokens) in [
            (Encoding::Cl100kBase, "Learning AI is fun!", 5),
            (Encoding::O200kBase, "Learning AI is fun!", 5),
            (Encoding::Cl100kBase, "", 0),
        ] {
            assert_eq!(Tokenizer::of_encoding(encoding).count(text), exact(tokens), "{text}");
        }
    }

    #[test]
    fn a_special_token_that_a_user_types_is_text() {
        let tokenizer = Tokenizer::of_encoding(Encoding::Cl100kBase);
        let tokens = tokenizer.tokens("<|endoftext|>").unwrap();
        assert!(tokens.len() > 1, "{tokens:?}");
    }

    #[test]
    fn a_token_knows_its_bytes() {
        let text = "naïve 水\n🌊";
        let tokens = Tokenizer::of_encoding(Encoding::O200kBase).tokens(text).unwrap();
        assert_eq!(tokens.first().map(|token| token.bytes.start), Some(0));
        assert!(tokens.windows(2).all(|two| two[0].bytes.end == two[1].bytes.start));
        assert_eq!(tokens.last().map(|token| token.bytes.end), Some(text.len()));
    }

    #[test]
    fn a_million_blanks_are_estimated_and_do_no_harm() {
        let tokenizer = Tokenizer::of_encoding(Encoding::O200kBase);
        for text in [
            " ".repeat(1_000_000) + "x",
            "\n".repeat(1_000_000),
            "a".to_owned() + &"\u{3000}".repeat(300_000),
        ] {
            let counted = tokenizer.count(&text);
            assert!(!counted.exact && counted.tokens > 0, "{counted:?}");
        }
        let short = " ".repeat(BLANKS_LIMIT - 1) + "x";
        assert!(tokenizer.count(&short).exact);
    }

    #[test]
    fn a_text_beyond_the_limit_is_taken_to_be_like_its_beginning() {
        let tokenizer = Tokenizer::of_encoding(Encoding::Cl100kBase);
        let counted = tokenizer.count(&"Learning AI is fun! ".repeat(200_000));
        assert!(!counted.exact);
        assert!((999_000..=1_001_000).contains(&counted.tokens), "{counted:?}");
    }

    #[test]
    fn a_long_run_of_blanks_is_cut_so_that_no_piece_holds_a_longer_one() {
        let text = "a".to_owned() + &" ".repeat(2 * BLANKS_LIMIT + 5) + "b";
        let (mut pieces, mut rest) = (Vec::new(), Some(text.as_str()));
        while let Some(text) = rest {
            let (piece, more) = split_at_long_blanks(text);
            pieces.push(piece);
            rest = more;
        }
        assert_eq!(pieces.concat(), text);
        assert_eq!(
            pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(),
            [BLANKS_LIMIT + 1, BLANKS_LIMIT, 6]
        );
    }

    #[cfg(feature = "tokenizers")]
    #[test]
    fn a_file_is_read_without_its_truncation_and_its_special_tokens() {
        let json = r###"{"version":"1.0","truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
            "padding":{"strategy":{"Fixed":9},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"<s>"},
            "added_tokens":[{"id":3,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
            "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
            "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
            "fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"vocab":{"a":0,"b":1,"ab":2,"<":4,"s":5,">":6},"merges":[["a","b"]]}}"###;
        let tokenizer = Tokenizer::from_json(json.as_bytes()).unwrap();
        assert_eq!(tokenizer.count("abaabb"), exact(4));
        assert_eq!(tokenizer.count("<s>"), exact(3));
        assert!(Tokenizer::from_json(b"{}").is_err());
    }
}
