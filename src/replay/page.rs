//! The timeline as text: a line for each thing that came, in columns, at most 100 wide.

use std::time::Duration;

use crate::clock::Moment;
use crate::dialect::DeltaKind;
use crate::exchange::{Clocks, Ending, Exchange, Usage};
use crate::observe::Observation;

use super::numbers::{self, Origins};
use super::rows::{Asked, Row, Said, What};

const WHEN: usize = 11; // up to three hours in milliseconds with a decimal
const BYTES: usize = 8;
const SAYS: usize = 42;
const CLOCKS: usize = 33; // with two blanks between each of them: 100

/// What stands on a page so far.
#[derive(Debug)]
pub(super) struct Page {
    started: Moment,
    /// The clocks as the row before left them.
    clocks: Clocks,
    model: Option<String>,
    upstream_id: Option<String>,
    tier: Option<String>,
    several_choices: bool,
    /// Chunks without an event of which no line tells yet: how many, of how many bytes, until when.
    untold: Option<(usize, usize, Moment)>,
    /// The last line is of a chunk without an event.
    quiet: bool,
    origins: Origins,
}

impl Page {
    pub(super) fn new(started: Moment) -> Self {
        Self {
            started,
            clocks: Clocks { started, ..Clocks::default() },
            model: None,
            upstream_id: None,
            tier: None,
            several_choices: false,
            untold: None,
            quiet: false,
            origins: Origins::default(),
        }
    }

    /// The columns' names.
    pub(super) fn heading() -> String {
        let names = columns("ms", "bytes", "what came and what it says", "clocks");
        format!("{names}{}\n", "─".repeat(WHEN + BYTES + SAYS + CLOCKS + 6))
    }

    /// The lines of a row.
    pub(super) fn row(&mut self, row: Row) -> String {
        let clocks = self.clock_changes(&row);
        self.origins.note(&self.clocks, &row);
        self.clocks = row.clocks;
        if let What::Chunk { bytes, .. } = row.what
            && self.quiet
            && clocks.is_empty()
        {
            let (chunks, sum, _) = self.untold.unwrap_or((0, 0, row.at));
            self.untold = Some((chunks + 1, sum + bytes, row.at));
            return String::new();
        }
        let before = self.take_untold();
        self.quiet = matches!(row.what, What::Chunk { .. });
        let (bytes, says) = self.says(&row);
        before + &self.line(row.at, bytes, &says, &clocks)
    }

    /// The last lines: the end, and every number with where it came from.
    pub(super) fn end(&mut self, seen: &Observation, exchange: &Exchange, ending: Ending) -> String {
        let before = self.take_untold();
        let end = self.line(seen.clocks.ended, None, numbers::ending(ending), "te");
        format!("{before}{end}\n{}", numbers::table(seen, exchange, ending, &self.origins))
    }

    /// The line for the chunks of which none tells yet.
    fn take_untold(&mut self) -> String {
        let Some((chunks, bytes, until)) = self.untold.take() else { return String::new() };
        let says =
            if chunks == 1 { "one more".to_owned() } else { format!("{chunks} more, the last one now") };
        self.line(until, Some(bytes), &says, "")
    }

    fn line(&self, at: Moment, bytes: Option<usize>, says: &str, clocks: &str) -> String {
        let when = format!("{:.1}", at.since(self.started).as_secs_f64() * 1e3);
        columns(&when, &bytes.map_or_else(String::new, |bytes| bytes.to_string()), says, clocks)
    }

    /// What a row is and says.
    fn says(&mut self, row: &Row) -> (Option<usize>, String) {
        match &row.what {
            What::Sent { bytes, asked } => {
                self.several_choices = asked.as_ref().is_some_and(|asked| asked.choices > 1);
                (usize::try_from(*bytes).ok(), asked.as_ref().map_or_else(|| "request".to_owned(), request))
            }
            What::Head { status, media_type, encoding } => {
                let mut says = format!("head {status}");
                for part in [media_type, encoding].into_iter().flatten() {
                    says += ", ";
                    says += &escaped(part);
                }
                (None, says)
            }
            What::Event { name, bytes } => {
                let name = name.as_deref().map(|name| format!("{}: ", escaped(name))).unwrap_or_default();
                (Some(*bytes), name + &self.all_said(&row.said, "no token (a role, or empty)"))
            }
            What::Body => {
                (None, format!("whole body: {}", self.all_said(&row.said, "nothing is known of it")))
            }
            What::Broken => (None, "a broken piece of the stream".to_owned()),
            What::TooLarge => (None, "an event too long to be read".to_owned()),
            What::Chunk { bytes, streamed: true } => {
                (Some(*bytes), "no whole event (a comment, or a part)".to_owned())
            }
            What::Chunk { bytes, streamed: false } => (Some(*bytes), "a part of the body".to_owned()),
        }
    }

    /// What a dialect says; model and id only where they change.
    fn all_said(&mut self, said: &[Said], nothing: &str) -> String {
        let mut deltas = Vec::new();
        let mut parts = Vec::new();
        let mut names = Vec::new();
        for said in said {
            match said {
                Said::Model(model) if self.model.as_ref() != Some(model) => {
                    names.push(format!("model {}", escaped(model)));
                    self.model = Some(model.clone());
                }
                Said::UpstreamId(id) if self.upstream_id.as_ref() != Some(id) => {
                    names.push(format!("id {}", escaped(id)));
                    self.upstream_id = Some(id.clone());
                }
                Said::Tier(tier) if self.tier.as_ref() != Some(tier) => {
                    names.push(format!("tier {}", escaped(tier)));
                    self.tier = Some(tier.clone());
                }
                Said::Model(_) | Said::UpstreamId(_) | Said::Tier(_) => {}
                Said::Delta { choice, kind, tokens, bytes, text } => {
                    let mut part = kind_name(*kind).to_owned();
                    part += &bytes.map_or_else(|| ", half a character".to_owned(), |n| format!(" {n} B"));
                    part += &tokens.map(|n| format!(" = {n} tok")).unwrap_or_default();
                    part += &text.as_ref().map(|text| format!(" \"{}\"", escaped(text))).unwrap_or_default();
                    deltas.push(self.of_choice(*choice, part));
                }
                Said::Text(bytes) => parts.push(format!("text of {bytes} bytes")),
                Said::Usage(usage) => parts.push(usage_text(usage)),
                Said::Finish { choice, reason } => {
                    parts.push(self.of_choice(*choice, format!("finish {}", reason.label())));
                }
                Said::Failed(class) => parts.push(format!("error {class}")),
                Said::Done => parts.push("terminal mark".to_owned()),
                Said::ChoiceDone => parts.push("terminal mark of a choice".to_owned()),
                Said::Undecodable => parts.push("cannot be read".to_owned()),
            }
        }
        if deltas.is_empty() && parts.is_empty() {
            parts.push(nothing.to_owned());
        }
        [deltas, parts, names].concat().join("; ")
    }

    fn of_choice(&mut self, choice: u32, part: String) -> String {
        self.several_choices |= choice > 0;
        if self.several_choices { format!("[{choice}] {part}") } else { part }
    }

    /// Which clocks a row started or stopped.
    fn clock_changes(&self, row: &Row) -> String {
        let (before, after) = (&self.clocks, &row.clocks);
        let streamed = !matches!(row.what, What::Chunk { streamed: false, .. } | What::Body);
        let mut stopped = Vec::new();
        let mut note = |name, before: Option<Moment>, after: Option<Moment>| {
            if before.is_none() && after.is_some() {
                stopped.push(name);
            }
        };
        note("request sent (tu)", before.sent, after.sent);
        note("head (th)", before.head, after.head);
        note(if streamed { "TTFB" } else { "first byte (tb)" }, before.first_byte, after.first_byte);
        note("TTFT", before.first_token, after.first_token);
        note("first answer", before.first_answer, after.first_answer);
        let mut parts = Vec::new();
        if !stopped.is_empty() {
            parts.push(format!("{} {}", stopped.join(", "), ms(row.at.since(self.started))));
        }
        let told = after.first_event_tokens.filter(|n| *n > 1 && before.first_event_tokens.is_none());
        parts.extend(told.map(|n| format!("n1 = {n}")));
        let is_token = matches!(row.what, What::Event { .. })
            && row.said.iter().any(|said| matches!(said, Said::Delta { .. }));
        if let Some(last) = before.last_token.filter(|_| is_token) {
            let gap = ms(row.at.since(last));
            let longest = before.longest_gap.is_some() && before.longest_gap < after.longest_gap;
            parts.push(if longest { format!("gap {gap}, longest so far") } else { format!("gap {gap}") });
        }
        parts.join("; ")
    }
}

fn request(asked: &Asked) -> String {
    let mut says = "request".to_owned();
    if let Some(model) = &asked.model {
        says += &format!(" for {}", escaped(model));
    }
    says += if asked.stream { ", a stream" } else { ", no stream" };
    if asked.choices > 1 {
        says += &format!(", {} choices", asked.choices);
    }
    says
}

fn kind_name(kind: DeltaKind) -> &'static str {
    match kind {
        DeltaKind::Content => "content",
        DeltaKind::Reasoning => "reasoning",
        DeltaKind::ToolCall => "tool call",
        DeltaKind::Refusal => "refusal",
        DeltaKind::Audio => "audio",
    }
}

fn usage_text(usage: &Usage) -> String {
    let Usage { input, input_uncached, cache_read, cache_write, output, reasoning, .. } = usage;
    let told = [
        (input, "in"),
        (input_uncached, "in beside the cache"),
        (cache_read, "from cache"),
        (cache_write, "into cache"),
        (&usage.cache_write_1h, "of them for an hour"),
        (&usage.audio_input, "sound in"),
        (output, "out"),
        (reasoning, "reasoning"),
        (&usage.audio_output, "sound out"),
    ];
    let told = told.iter().filter_map(|(value, name)| value.map(|value| format!("{value} {name}")));
    format!("usage {}", told.collect::<Vec<_>>().join(", "))
}

/// A time in milliseconds, to the microsecond, without zeros at its end.
pub(super) fn ms(time: Duration) -> String {
    let number = format!("{:.3}", time.as_secs_f64() * 1e3);
    format!("{} ms", number.trim_end_matches('0').trim_end_matches('.'))
}

/// Text of others, such as it may be shown on a terminal.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// One row of columns, on as many lines as it takes.
fn columns(when: &str, bytes: &str, says: &str, clocks: &str) -> String {
    let (says, clocks) = (wrapped(says, SAYS), wrapped(clocks, CLOCKS));
    let mut text = String::new();
    for n in 0..says.len().max(clocks.len()).max(1) {
        let (when, bytes) = if n == 0 { (when, bytes) } else { ("", "") };
        let cell = |column: &[String]| column.get(n).cloned().unwrap_or_default();
        let line = format!("{when:>WHEN$}  {bytes:>BYTES$}  {:<SAYS$}  {}", cell(&says), cell(&clocks));
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Lines of at most so many characters, broken between words where that goes.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > width {
        let blank = rest.iter().take(width + 1).rposition(|c| *c == ' ').filter(|at| *at > 0);
        let after = rest.split_off(blank.unwrap_or(width));
        lines.push(rest.into_iter().collect::<String>());
        rest = after.into_iter().skip(usize::from(blank.is_some())).collect();
    }
    if !rest.is_empty() {
        lines.push(rest.into_iter().collect());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_wrap_and_stay_within_the_page() {
        let text = columns("1.0", "20", &"word ".repeat(20), &"x".repeat(40));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert_eq!(text.lines().count(), 3);
        assert_eq!(wrapped("ab cd", 3), ["ab", "cd"]);
        assert_eq!(wrapped("abcdef", 3), ["abc", "def"]);
        assert_eq!(wrapped("", 3), [""; 0]);
    }

    #[test]
    fn times_are_told_as_exactly_as_they_are_known() {
        assert_eq!(ms(Duration::from_millis(450)), "450 ms");
        assert_eq!(ms(Duration::from_micros(99_820)), "99.82 ms");
        assert_eq!(ms(Duration::ZERO), "0 ms");
    }

    #[test]
    fn text_of_others_cannot_steer_a_terminal() {
        assert_eq!(escaped("a\x1b[31m\nö"), "a\\u{1b}[31m\\nö");
    }
}
