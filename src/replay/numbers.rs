//! The end of an explanation: each number, and where it came from with its formula filled in.

use std::time::Duration;

use crate::clock::Moment;
use crate::exchange::{Blame, Clocks, Count, Ending, Exchange, Outcome, Source, Unobserved};
use crate::observe::Observation;

use super::page::{escaped, ms, wrapped};
use super::rows::{Row, Said, What};

/// When things were said that numbers come from.
#[derive(Debug, Default)]
pub(super) struct Origins {
    input: Option<Place>,
    output: Option<Place>,
    done: Option<Place>,
    failed: Option<Place>,
    finished: Option<Place>,
    /// Between which tokens the longest gap was.
    gap: Option<(Moment, Moment)>,
}

/// Where in an answer something was said.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: Moment,
    in_body: bool,
}

impl Origins {
    /// Keeps what a row tells; `before` are the clocks as they stood before it.
    pub(super) fn note(&mut self, before: &Clocks, row: &Row) {
        let place = Place { at: row.at, in_body: matches!(row.what, What::Body) };
        for said in &row.said {
            match said {
                Said::Usage(usage) => {
                    self.input = usage.input.map(|_| place).or(self.input);
                    self.output = usage.output.map(|_| place).or(self.output);
                }
                Said::Finish { .. } => self.finished = Some(place),
                Said::Done | Said::ChoiceDone => _ = self.done.get_or_insert(place),
                Said::Failed(_) => _ = self.failed.get_or_insert(place),
                _ => {}
            }
        }
        if row.clocks.longest_gap > before.longest_gap
            && let Some(last) = before.last_token
        {
            self.gap = Some((last, row.at));
        }
    }
}

/// What the transport saw.
pub(super) fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Clean => "end of the body",
        Ending::ClientGone => "the client left",
        Ending::NoAnswer => "no answer from the upstream",
        Ending::UpstreamBroke => "the upstream broke off",
        Ending::TimedOut => "a deadline passed",
        Ending::Rejected => "refused by the proxy",
        Ending::Drained => "cut by the proxy's shutdown",
        Ending::SidecarFailed => "the proxy failed",
    }
}

const NAME: usize = 15;
const VALUE: usize = 16;
const WHY: usize = 63; // with two blanks before each of them: 100

/// All numbers.
pub(super) fn table(seen: &Observation, exchange: &Exchange, ending: Ending, origins: &Origins) -> String {
    let facts = Facts { seen, exchange, ending, origins };
    let mut text = String::new();
    for (name, value, why) in facts.rows() {
        let (value, why) = (wrapped(&value, VALUE), wrapped(&why, WHY));
        for n in 0..value.len().max(why.len()).max(1) {
            let cell = |column: &[String]| column.get(n).cloned().unwrap_or_default();
            let name = if n == 0 { name } else { "" };
            let line = format!("  {name:<NAME$}  {:<VALUE$}  {}", cell(&value), cell(&why));
            text += line.trim_end();
            text.push('\n');
        }
    }
    text
}

const NONE: &str = "–";

struct Facts<'a> {
    seen: &'a Observation,
    exchange: &'a Exchange,
    ending: Ending,
    origins: &'a Origins,
}

type Explained = (&'static str, String, String);

impl Facts<'_> {
    fn rows(&self) -> Vec<Explained> {
        let exchange = self.exchange;
        let model = exchange.model.label(exchange.accepted()).map(|name| escaped(name.as_str()));
        let blame = exchange.outcome.blame(exchange.code).map(|blame| match blame {
            Blame::Downstream => " (the client's doing)",
            Blame::Upstream => " (the upstream's doing)",
            Blame::Sidecar => " (the proxy's doing)",
        });
        let mut rows = vec![
            ("outcome", exchange.outcome.label().to_owned(), self.why() + blame.unwrap_or_default()),
            ("code", exchange.code.map_or_else(|| NONE.to_owned(), |code| code.to_string()), String::new()),
            ("model", model.unwrap_or_else(|| NONE.to_owned()), self.model_names()),
        ];
        rows.extend(self.stream());
        rows.push((
            "duration",
            ms(exchange.timing.duration),
            format!("te − t0 = {} − 0", self.at(self.seen.clocks.ended)),
        ));
        rows.push((
            "input tokens",
            count(exchange.input.map(|n| n.value)),
            self.source(exchange.input, self.origins.input, self.seen.text().input),
        ));
        rows.push((
            "output tokens N",
            count(exchange.output.map(|n| n.value)),
            self.source(exchange.output, self.origins.output, self.seen.text().output),
        ));
        rows.extend(self.speed());
        if self.seen.undecodable + self.seen.too_large > 0 {
            let why = format!("{} not readable, {} too long", self.seen.undecodable, self.seen.too_large);
            rows.push(("lost events", (self.seen.undecodable + self.seen.too_large).to_string(), why));
        }
        rows
    }

    fn model_names(&self) -> String {
        let names = &self.exchange.model;
        let told = [("asked for", &names.requested), ("served", &names.served)];
        let told = told.iter().filter_map(|(what, name)| {
            let name = name.as_ref()?;
            Some(format!("{what}: {}", escaped(name.as_str())))
        });
        told.collect::<Vec<_>>().join(", ")
    }

    fn since_start(&self, at: Moment) -> Duration {
        at.since(self.seen.clocks.started)
    }

    fn at(&self, at: Moment) -> String {
        ms(self.since_start(at))
    }

    /// The measures that only a stream has.
    fn stream(&self) -> Vec<Explained> {
        let (timing, clocks) = (&self.exchange.timing, &self.seen.clocks);
        if timing.ttfb.is_none() {
            let why = match (self.exchange.unobserved, self.seen.streamed) {
                (Some(why), _) => format!("not observed: {}", why.label()),
                _ if self.seen.clocks.head.is_none() => "no answer came".to_owned(),
                (None, false) => "the answer was no stream: it has a duration and tokens only".to_owned(),
                (None, true) => "measured of accepted streams that bring bytes only".to_owned(),
            };
            return vec![("TTFB … TPOT", NONE.to_owned(), why)];
        }
        let since = |name, value: Option<Duration>, formula: &str, at: Option<Moment>, missing: &str| {
            let why = at.map_or_else(|| missing.to_owned(), |at| format!("{formula} = {} − 0", self.at(at)));
            (name, value.map_or_else(|| NONE.to_owned(), ms), why)
        };
        let gap = self.origins.gap.map_or_else(
            || "it takes two token events".to_owned(),
            |(from, to)| format!("no token between {} and {}", self.at(from), self.at(to)),
        );
        let answer = "no answer came, or reasoning only";
        vec![
            since("TTFB", timing.ttfb, "tb − t0", clocks.first_byte, "no byte came"),
            since("TTFT", timing.ttft, "tf − t0", clocks.first_token, "no token came"),
            since("first answer", timing.first_answer, "ta − t0", clocks.first_answer, answer),
            since("last token", timing.last_token, "tl − t0", clocks.last_token, "no token came"),
            ("longest gap", timing.longest_gap.map_or_else(|| NONE.to_owned(), ms), gap),
            (
                "token events",
                self.exchange.chunks.to_string(),
                "events with a token; no count of tokens".to_owned(),
            ),
        ]
    }

    /// Where a count came from; `place` is where it was reported, `bytes` how much text it is.
    fn source(&self, count: Option<Count>, place: Option<Place>, bytes: Option<u64>) -> String {
        let text = || format!("{} bytes of text", bytes.unwrap_or_default());
        match count.map(|count| count.source) {
            _ if !self.exchange.accepted() => return "counted of accepted requests only".to_owned(),
            Some(Source::Tokenized) => return format!("counted: {}", text()),
            Some(Source::Estimated) if place.is_some() => {
                return format!("estimated: {}; the last report was before the last token", text());
            }
            Some(Source::Estimated) => return format!("estimated: {}, and nobody reported it", text()),
            Some(Source::Reported) | None => {}
        }
        match place {
            None => "nobody reported it".to_owned(),
            Some(Place { in_body: true, .. }) => "reported by the usage in the body".to_owned(),
            Some(Place { at, .. }) => format!("reported by the usage at {}", self.at(at)),
        }
    }

    fn speed(&self) -> Vec<Explained> {
        let (timing, clocks) = (&self.exchange.timing, &self.seen.clocks);
        if timing.ttft.is_none() {
            return Vec::new();
        }
        let told = clocks.first_event_tokens;
        let n1 = told.unwrap_or(1);
        let n1_why =
            if told.is_some() { "the event at tf tells" } else { "the event at tf does not tell: 1" };
        let mut rows = vec![("n1", n1.to_string(), n1_why.to_owned())];
        let output = self.exchange.output.and_then(Count::exact);
        let span = clocks.first_token.zip(clocks.last_token);
        let why = match (timing.tpot, output, span) {
            (Some(_), Some(n), Some((first, last))) => {
                let rest = n.saturating_sub(n1);
                let span = ms(last.since(first));
                let tpot = format!(
                    "(tl − tf) / (N − n1) = ({} − {}) ms / ({n} − {n1}) = {span} / {rest}",
                    self.at(last).trim_end_matches(" ms"),
                    self.at(first).trim_end_matches(" ms"),
                );
                rows.push(("TPOT", timing.tpot.map(ms).unwrap_or_default(), tpot));
                let tps = timing.tps.map(|tps| format!("{tps:.3}")).unwrap_or_default();
                let tps = tps.trim_end_matches('0').trim_end_matches('.').to_owned();
                rows.push(("tokens/s", tps, format!("(N − n1) / (tl − tf) = {rest} / {span}")));
                return rows;
            }
            (_, None, _) if self.exchange.output.is_some() => "N is an estimate".to_owned(),
            (_, None, _) => "N is not known".to_owned(),
            _ if self.seen.choices > 1 => {
                format!("{} choices: speed is told of one alone", self.seen.choices)
            }
            (_, Some(n), _) if n <= n1 => format!("N = {n} is not more than n1 = {n1}"),
            _ => "tl = tf: no time passed between the first token event and the last".to_owned(),
        };
        rows.push(("TPOT, tokens/s", NONE.to_owned(), why));
        rows
    }

    /// Why the outcome is what it is.
    fn why(&self) -> String {
        let closure = &self.seen.closure;
        let code = closure.code.map(|code| code.to_string()).unwrap_or_default();
        let told = |place: Option<Place>| match place {
            Some(Place { in_body: false, at }) => format!(" at {}", self.at(at)),
            Some(_) => " in the body".to_owned(),
            None => String::new(),
        };
        let done = self.origins.done;
        let later =
            if self.ending == Ending::Clean { "" } else { "; how the connection ended no longer matters" };
        match self.exchange.outcome {
            Outcome::Completed if closure.terminal && done.is_some_and(|place| place.in_body) => {
                format!("a {code}, and the whole JSON body came{later}")
            }
            Outcome::Completed if closure.terminal => {
                format!("a {code} with the terminal mark{}{later}", told(done))
            }
            Outcome::Completed if closure.finished => format!(
                "a {code}, every choice gave its finish reason (the last{}), and the body ended cleanly",
                told(self.origins.finished)
            ),
            Outcome::Completed => match self.exchange.unobserved {
                Some(Unobserved::Upgrade) => "the tunnel was closed cleanly".to_owned(),
                _ => format!("a {code} that ended cleanly; nothing more is asked of it"),
            },
            Outcome::ClientGone => {
                let clocks = &self.seen.clocks;
                let when = match (clocks.head, clocks.last_token) {
                    (None, _) => "before the answer's head",
                    (_, None) => "before a token",
                    _ => "in mid-stream, before the terminal mark",
                };
                format!("the client left {when}")
            }
            Outcome::UpstreamRefused => format!("the upstream answered {code}"),
            Outcome::UpstreamFailed if self.seen.clocks.head.is_none() => {
                "no connection, or it was closed before a head".to_owned()
            }
            Outcome::UpstreamFailed => format!("the upstream answered {code}"),
            Outcome::StreamFailed => {
                let class = self.exchange.error_class.as_ref().map(|class| format!(" ({class})"));
                format!("an error{} inside a {code}{}", class.unwrap_or_default(), told(self.origins.failed))
            }
            Outcome::Truncated if self.ending == Ending::Clean => {
                format!("a {code} whose body ended without a terminal mark or all finish reasons")
            }
            Outcome::Truncated => format!("a {code} whose body broke off before its end"),
            Outcome::TimedOut | Outcome::Rejected | Outcome::Drained | Outcome::SidecarFailed => {
                ending(self.ending).to_owned()
            }
        }
    }
}

fn count(value: Option<u64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}
