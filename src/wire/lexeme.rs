//! Where JSON's strings, numbers and words end.

/// Whether it stands between JSON's values.
pub fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The bytes of a string from here to its end or its next escape, and which of the two follows.
pub(super) fn run(chunk: &[u8], at: usize) -> (&[u8], Option<u8>) {
    let rest = chunk.get(at..).unwrap_or_default();
    let length = short_run(rest).or_else(|| memchr::memchr2(b'"', b'\\', rest)).unwrap_or(rest.len());
    let (text, end) = rest.split_at(length);
    (text, end.first().copied())
}

/// Where the text of a string that goes on here ends, and the byte that ends it: its quote, the backslash of an escape, or a
/// control character, which no string may have.
#[inline]
pub(super) fn text_end(text: &[u8], at: usize) -> Option<(usize, u8)> {
    const PRINTABLE: u64 = BYTES * b' ' as u64; // control characters are below it
    let rest = text.get(at..)?;
    let (words, tail) = rest.as_chunks::<{ size_of::<u64>() }>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The highest bit of each byte that is one of the three; of those after the first one, some others too.
        let below = (word ^ QUOTES).wrapping_sub(BYTES)
            | (word ^ BACKSLASHES).wrapping_sub(BYTES)
            | word.wrapping_sub(PRINTABLE);
        let ends = below & !word & (BYTES << 7);
        if ends != 0 {
            let bit = ends.trailing_zeros();
            let at = at + number * size_of::<u64>() + bit as usize / 8;
            return Some((at, (word >> (bit - 7)) as u8));
        }
    }
    let length = tail.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..b' '))?;
    Some((at + rest.len() - tail.len() + length, *tail.get(length)?))
}

/// The length of a run that ends within 32 bytes, as that of nearly every key does: finding it there costs less than a
/// call of memchr.
fn short_run(rest: &[u8]) -> Option<usize> {
    const WORD: usize = size_of::<u64>();
    for (number, word) in rest.as_chunks::<WORD>().0.iter().take(4).enumerate() {
        let word = u64::from_le_bytes(*word);
        let ends = zero_bytes(word ^ QUOTES) | zero_bytes(word ^ BACKSLASHES);
        if ends != 0 {
            return Some(number * WORD + ends.trailing_zeros() as usize / 8);
        }
    }
    None
}

const BYTES: u64 = 0x0101_0101_0101_0101; // a one in each byte
const QUOTES: u64 = BYTES * b'"' as u64;
const BACKSLASHES: u64 = BYTES * b'\\' as u64;

/// The highest bit of each byte that is zero; of those after the first one, some others too.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(BYTES) & !word & (BYTES << 7)
}

/// A string, a number or a word that a member has, and where it ends in the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) kind: ScalarKind,
    pub(super) end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalarKind {
    /// A string whose text has so many bytes.
    Text(usize),
    Number,
    Word,
}

/// The string, number or word behind a colon that stands here, if it ends within this chunk and there are no blanks or
/// escapes.
pub(super) fn scalar(chunk: &[u8], at: usize) -> Option<Scalar> {
    let &[b':', first, ..] = chunk.get(at..)? else { return None };
    let kind = match first {
        b'"' => {
            let (text, end) = run(chunk, at + 2);
            let whole = Scalar { kind: ScalarKind::Text(text.len()), end: at + 2 + text.len() + 1 };
            return (end == Some(b'"')).then_some(whole);
        }
        b'-' | b'0'..=b'9' => ScalarKind::Number,
        b't' | b'f' | b'n' => ScalarKind::Word,
        _ => return None,
    };
    Some(Scalar { kind, end: word_end(chunk, at + 2)? })
}

/// Where a number or a word ends that goes on here, behind its first byte, if it does within this chunk.
pub(super) fn word_end(chunk: &[u8], at: usize) -> Option<usize> {
    // Half of what servers send is null.
    if let Some([b'u', b'l', b'l', b',' | b'}']) = chunk.get(at..).and_then(<[u8]>::first_chunk) {
        return Some(at + 3);
    }
    let ends = |&byte: &u8| byte <= b',' && (byte == b',' || is_blank(byte)) || matches!(byte, b'}' | b']');
    chunk.get(at..)?.iter().position(ends).map(|length| at + length)
}

/// How many bytes of UTF-8 a string's text is that stands between the quotes of JSON.
pub fn text_bytes(inner: &str) -> u64 {
    let (mut rest, mut bytes) = (inner.as_bytes(), 0_u64);
    while let Some(at) = memchr::memchr(b'\\', rest) {
        bytes += at as u64;
        let escape = rest.get(at + 1..).unwrap_or_default();
        let digits = escape.strip_prefix(b"u").and_then(|hex| hex.first_chunk::<4>());
        let mut unicode = Unicode::default();
        let digits = digits.map(|digits| digits.iter().filter_map(|&digit| char::from(digit).to_digit(16)));
        let (of_escape, length) =
            match digits.and_then(|mut digits| digits.find_map(|digit| unicode.add(digit))) {
                Some(of_character) => (of_character, 5),
                None => (1, 1),
            };
        bytes += of_escape;
        rest = escape.get(length..).unwrap_or_default();
    }
    bytes + rest.len() as u64
}

/// The `\uXXXX` that is being read.
#[derive(Debug, Default)]
pub(super) struct Unicode {
    digits: u8,
    value: u32,
}

impl Unicode {
    /// Takes a digit; after the last one, how many bytes of UTF-8 the character has.
    pub(super) fn add(&mut self, digit: u32) -> Option<u64> {
        self.value = self.value << 4 | digit;
        self.digits += 1;
        (self.digits == 4).then_some(match self.value {
            0..=0x7F => 1,
            // Half of a pair that takes four bytes together, or a letter of two.
            0x80..=0x7FF | 0xD800..=0xDFFF => 2,
            _ => 3,
        })
    }
}

/// A key as servers read it, where it has an escape: `"mod\u0065l"` is a model to them, and must not pass unseen.
pub(super) fn plain(key: &[u8]) -> Option<String> {
    let quoted = || [b"\"", key, b"\""].concat();
    key.contains(&b'\\').then(|| serde_json::from_slice(&quoted()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_strings_text_ends_at_the_first_byte_that_is_none_of_it(
            text in prop::collection::vec(prop::sample::select(b"\"\\!# ]\xA2\xDC\x01\x1F\x00a\x7F\xFF".to_vec()), 0..40),
            at in 0_usize..8,
        ) {
            let ends = |byte: &&u8| b"\"\\".contains(byte) || **byte < b' ';
            let end = (at..).zip(text.get(at..).unwrap_or_default()).find(|(_, byte)| ends(byte));
            prop_assert_eq!(text_end(&text, at), end.map(|(at, byte)| (at, *byte)));
        }

        #[test]
        fn a_run_ends_at_the_first_quote_or_backslash(
            rest in prop::collection::vec(prop::sample::select(b"\"\\!#]\xA2\xDC\x01\x00a\xFF".to_vec()), 0..40),
            at in 0_usize..8,
        ) {
            let tail = rest.get(at..).unwrap_or_default();
            let length = tail.iter().position(|byte| b"\"\\".contains(byte)).unwrap_or(tail.len());
            prop_assert_eq!(run(&rest, at), (&tail[..length], tail.get(length).copied()));
        }
    }

    #[test]
    fn text_is_measured_without_decoding_it() {
        for (inner, bytes) in [
            ("", 0),
            ("abc", 3),
            ("né", 3),
            (r"a\nb", 3),
            (r#"\"\\"#, 2),
            (r"\u0041\u00e9\u4e2d\ud83c\udf0a", 1 + 2 + 3 + 4),
            (r"\u12", 3),
            ("\\", 1),
        ] {
            assert_eq!(text_bytes(inner), bytes, "{inner}");
        }
    }

    #[test]
    fn a_scalar_ends_where_its_member_does_if_all_of_it_is_here() {
        use ScalarKind::{Number, Text, Word};
        for (text, scalar_of) in [
            (r#":"a","#, Some((Text(1), 4))),
            (r#":"","#, Some((Text(0), 3))),
            (r#":"a\"b","#, None),
            (r#":"a"#, None),
            (":null,", Some((Word, 5))),
            (":-1.5e+3}", Some((Number, 8))),
            (":0]", Some((Number, 2))),
            (":true ", Some((Word, 5))),
            (":tru", None),
            (": null,", None),
            (" :null,", None),
            (":{}", None),
            (":", None),
            ("", None),
        ] {
            let scalar_of = scalar_of.map(|(kind, end)| Scalar { kind, end });
            assert_eq!(scalar(text.as_bytes(), 0), scalar_of, "{text}");
        }
    }
}
