//! Bytes out of base64 (RFC 4648, section 4), without a memory of its own.

/// Decodes a text into as much of `out` as it takes; gives what was written. None where it is no base64, or `out` is
/// too short.
pub(super) fn decode<'o>(text: &str, out: &'o mut [u8]) -> Option<&'o [u8]> {
    let text = text.as_bytes();
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let (quads, rest) = text.as_chunks::<4>();
    let length = quads.len() * 3 + rest.len() * 3 / 4;
    let whole = out.get_mut(..length)?;
    let (triples, tail) = whole.as_chunks_mut::<3>();
    for (quad, triple) in quads.iter().zip(triples) {
        let bits = quad.iter().try_fold(0, |bits: u32, letter| Some(bits << 6 | value(*letter)?))?;
        let [_, bytes @ ..] = bits.to_be_bytes();
        *triple = bytes;
    }
    if !rest.is_empty() {
        let bits = rest.iter().try_fold(0, |bits: u32, letter| Some(bits << 6 | value(*letter)?))?;
        let bits = bits.checked_shl(32 - 6 * u32::try_from(rest.len()).ok()?)?;
        (rest.len() > 1).then_some(())?;
        tail.iter_mut().zip(bits.to_be_bytes()).for_each(|(to, byte)| *to = byte);
    }
    Some(whole)
}

fn value(letter: u8) -> Option<u32> {
    let value = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_own_examples() {
        let of = |text| decode(text, &mut [0; 16]).map(<[u8]>::to_vec);
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm8", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(of(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for none in ["Z", "Zg=a", "Zm9v!", "Zm9\u{e9}", "Zm9vYmFyZm9vYmFyZm9vYmFyZm9v"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(of("+/+/"), Some(vec![0xFB, 0xFF, 0xBF]));
    }
}
