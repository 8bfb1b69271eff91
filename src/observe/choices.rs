//! What is known of an answer's choices one by one: which there are, how much of its text each has sent where every
//! event says all of it again, and what each reports of tokens where no report is of the whole answer. Knows no
//! time and no dialect.

use crate::dialect::Fragment;
use crate::exchange::Usage;

/// A set of choices. A request asks for at most 128 of them (OpenAI's own limit); further ones are not told
/// apart.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Choices(u128);

impl Choices {
    /// Whether it was not in the set.
    pub(super) fn insert(&mut self, choice: u32) -> bool {
        let bit = 1 << choice.min(CHOICES - 1);
        let new = self.0 & bit == 0;
        self.0 |= bit;
        new
    }

    pub(super) fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// How many choices are told apart.
pub(super) const CHOICES: u32 = u128::BITS;

/// Each choice by itself; empty where the dialect tells of all at once.
#[derive(Debug, Default)]
pub(super) struct Each(Vec<One>);

#[derive(Debug, Default)]
struct One {
    choice: u32,
    usage: Usage,
    text: SoFar,
}

impl Each {
    fn one(&mut self, choice: u32) -> Option<&mut One> {
        let choice = choice.min(CHOICES - 1);
        let at = self.0.iter().position(|one| one.choice == choice).unwrap_or_else(|| {
            self.0.push(One { choice, ..One::default() });
            self.0.len() - 1
        });
        self.0.get_mut(at)
    }

    /// What is new in a text that is said again with every event; none where nothing is.
    pub(super) fn news<'a>(&mut self, choice: u32, text: Fragment<'a>) -> Option<Fragment<'a>> {
        self.one(choice)?.text.news(text)
    }

    /// Takes what one choice reports and gives what all have reported. So many choices `share` a prompt, one after
    /// another: it is input once.
    pub(super) fn report(&mut self, choice: u32, usage: Usage, share: u32) -> Usage {
        if let Some(one) = self.one(choice) {
            one.usage.update(usage);
        }
        let (mut all, mut prompts) = (Usage::default(), Choices::default());
        for one in &self.0 {
            let Usage { output, reasoning, audio_output, .. } = one.usage;
            let answer = Usage { output, reasoning, audio_output, ..Usage::default() };
            let is_first = one.usage.input.is_some() && prompts.insert(one.choice / share.max(1));
            all = plus(&all, &if is_first { one.usage } else { answer });
        }
        all
    }
}

fn plus(a: &Usage, b: &Usage) -> Usage {
    let sum =
        |of: fn(&Usage) -> Option<u64>| [of(a), of(b)].into_iter().flatten().reduce(u64::saturating_add);
    Usage {
        input: sum(|usage| usage.input),
        input_uncached: sum(|usage| usage.input_uncached),
        cache_read: sum(|usage| usage.cache_read),
        cache_write: sum(|usage| usage.cache_write),
        cache_write_1h: sum(|usage| usage.cache_write_1h),
        audio_input: sum(|usage| usage.audio_input),
        output: sum(|usage| usage.output),
        reasoning: sum(|usage| usage.reasoning),
        audio_output: sum(|usage| usage.audio_output),
    }
}

/// How much of a text has been said, and its last bytes: by them a text that goes on is told from one that is new.
#[derive(Debug, Default)]
struct SoFar {
    bytes: usize,
    tail: [u8; TAIL],
    /// Whether its events say it from the start, once that has shown.
    repeats: Option<bool>,
}

const TAIL: usize = 24; // longer than nearly every token, so that two deltas hardly pass for a text that goes on

impl SoFar {
    fn news<'a>(&mut self, text: Fragment<'a>) -> Option<Fragment<'a>> {
        if self.repeats == Some(false) {
            return Some(text);
        }
        let raw = text.raw().as_bytes();
        let goes_on = raw.get(..self.bytes).is_some_and(|said| said.ends_with(self.tail()));
        if self.bytes > 0 {
            match self.repeats {
                None if !goes_on => {
                    self.repeats = Some(false); // the server was told to send what is new only
                    return Some(text);
                }
                None if raw.len() > self.bytes => self.repeats = Some(true),
                _ => {}
            }
        }
        let news = text.after(self.bytes)?; // a stop word may have been taken off again: that is no news
        self.bytes = raw.len();
        let end = raw.get(raw.len().saturating_sub(TAIL)..).unwrap_or_default();
        for (kept, byte) in self.tail.iter_mut().zip(end) {
            *kept = *byte;
        }
        Some(news)
    }

    fn tail(&self) -> &[u8] {
        self.tail.get(..self.bytes.min(TAIL)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is new in each of the texts that one choice says.
    fn news(texts: &[&str]) -> Vec<Option<String>> {
        let mut each = Each::default();
        let json = texts.iter().map(|text| serde_json::to_string(text).unwrap()).collect::<Vec<_>>();
        json.iter()
            .map(|json| Fragment::of(json))
            .map(|text| each.news(0, text?).map(|news| news.decode().unwrap().into_owned()))
            .collect()
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned()).filter(|text| !text.is_empty())).collect()
    }

    #[test]
    fn of_a_text_that_is_said_again_only_what_is_new_counts() {
        assert_eq!(news(&["a", "a b", "a b\n\"c\"", "a b\n\"c\""]), some(&["a", " b", "\n\"c\"", ""]));
        assert_eq!(news(&["日", "日本", "日本語"]), some(&["日", "本", "語"]));
        let long = "x".repeat(1000);
        assert_eq!(news(&[&long, &format!("{long}y"), &format!("{long}yz")])[1..], some(&["y", "z"]));
    }

    #[test]
    fn a_text_that_is_not_said_again_counts_as_it_comes() {
        assert_eq!(news(&["a", " b", " c", " c"]), some(&["a", " b", " c", " c"]));
        assert_eq!(news(&[" long", " a", " longer"]), some(&[" long", " a", " longer"]));
    }

    #[test]
    fn a_stop_word_that_is_taken_off_again_is_no_news() {
        assert_eq!(news(&["a", "a\n", "a"]), some(&["a", "\n", ""]));
        assert_eq!(news(&["a", "a\n", "a\n", "a"]), some(&["a", "\n", "", ""]));
    }

    #[test]
    fn reports_of_choices_add_up_and_a_shared_prompt_counts_once() {
        let usage = |input, output| Usage { input: Some(input), output: Some(output), ..Usage::default() };
        let mut each = Each::default();
        assert_eq!(each.report(1, usage(5, 1), 2), usage(5, 1));
        assert_eq!(each.report(0, usage(5, 2), 2), usage(5, 3));
        assert_eq!(each.report(1, usage(5, 7), 2), usage(5, 9), "the last report of each counts");
        assert_eq!(each.report(2, usage(4, 1), 2), usage(9, 10), "another prompt");
        assert_eq!(each.report(1000, usage(1, 1), 0).output, Some(11));
        assert_eq!(each.report(2000, usage(1, 1), 0).output, Some(11), "not told apart");
    }
}
