//! Turns what was seen of an exchange into what it means. The only maker of [`Exchange`]s.

use std::time::{Duration, SystemTime};

use crate::dialect::RequestFacts;
use crate::exchange::{
    Cost, Count, DialectId, Ending, Exchange, InputBand, Limited, ModelNames, Name, Outcome, Timing,
    ToldLimits, Unpriced, Verdict,
};
use crate::live::{Ask, Origin};
use crate::observe::Observation;

use super::learned::Learned;
use super::model::Models;
use super::price::Tokens;
use super::slo::{Course, Party, Slos};
use super::tokenize::Counted;

/// An exchange that has ended, as the data plane hands it over.
#[derive(Debug, Clone)]
pub struct Finished {
    /// What was known at its start.
    pub origin: Origin,
    /// What was seen.
    pub observation: Box<Observation>,
    /// How the transport says it ended.
    pub ending: Ending,
    /// Time spent in connecting, where a new connection was needed.
    pub connect: Option<Duration>,
    /// t0 until the request was handed to a connection, less connecting; none where it never was.
    pub overhead_request: Option<Duration>,
    /// Time spent inside the tap, all of the answer's chunks together.
    pub overhead_response: Duration,
    /// Exchanges open when this one began.
    pub in_flight_at_start: u64,
    /// What our own limits did to it.
    pub limited: Option<Box<Limited>>,
}

/// What was counted of an exchange's text, where it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Its prompt.
    pub input: Option<Counted>,
    /// What was generated.
    pub output: Option<Counted>,
    /// Of that, what came in the first event that had a token.
    pub first_event: Option<Counted>,
}

/// What an exchange means. `models` and `slos` are those of the configuration that it met, `config` is its hash; what was not
/// reported is what was counted, else it is estimated by what was `learned`.
pub fn settle(
    finished: Finished,
    counts: Counts,
    models: &Models,
    slos: &Slos,
    learned: &Learned,
    config: Name,
    ended_at: SystemTime,
) -> Exchange {
    let Finished { mut origin, observation: seen, ending, .. } = finished;
    let ask = ask(seen.request.as_ref(), seen.bytes_in);
    origin.dialect = ask.dialect.unwrap_or(origin.dialect);
    let outcome = seen.outcome(ending);
    let accepted = seen.closure.code.is_some_and(|code| (200..300).contains(&code));
    let requested = seen.request.as_ref().and_then(|facts| facts.model.as_ref());
    let asked = seen.request.as_ref().is_some_and(|facts| facts.stream);
    let text = seen.text();
    let model = models.names(requested, seen.served.as_ref());
    let label = model.label(accepted);
    let estimated_input = text.input.map(|bytes| learned.input(label, bytes).likely());
    let input = input(&seen, counts.input, estimated_input);
    let estimate =
        || learned.output(label, &origin.upstream, text).map(|estimate| Count::estimated(estimate.likely()));
    let output =
        output(&seen, outcome, origin.dialect, || counts.output.map(Counted::count).or_else(estimate));
    let (input, output) = (input.filter(|_| accepted), output.filter(|_| accepted));
    let is_generation = origin.dialect != DialectId::UNKNOWN;
    let wall = |at| ended_at.checked_sub(seen.clocks.ended.since(at)).unwrap_or(ended_at);
    let output_tokens = if origin.dialect.generates() { output.map(|count| count.value) } else { Some(0) };
    let tokens = input.zip(output_tokens);
    let tokens = tokens.map(|(input, output)| Tokens { input: input.value, output, usage: &seen.usage });
    let bill = bill(models, &model, wall(seen.clocks.started), tokens.as_ref(), seen.tier.as_ref());
    let streamed = seen.streamed && accepted && is_generation;
    let n1 = counts.first_event.filter(|counted| counted.exact).map(|counted| counted.tokens);
    let mut clocks = seen.clocks;
    clocks.first_event_tokens = clocks.first_event_tokens.or_else(|| n1.filter(|n| *n > 0));
    let timing = Timing {
        overhead_request: finished.overhead_request,
        overhead_response: finished.overhead_response,
        ..Timing::of(&clocks, streamed, output.and_then(Count::exact), seen.choices)
    };
    let slos = verdicts(slos, &origin, label, &seen, outcome, &timing);
    Exchange {
        number: origin.number,
        request_id: origin.request_id,
        upstream_request_id: seen.upstream_request_id,
        trace_id: origin.trace_id,
        ended_at,
        tenant: origin.tenant,
        model,
        upstream: origin.upstream,
        dialect: origin.dialect,
        unobserved: seen.unobserved,
        stream: if seen.clocks.head.is_some() { seen.streamed } else { asked },
        code: seen.closure.code,
        outcome,
        error_class: seen.error_class,
        finish_reasons: seen.finish_reasons,
        timing,
        slos,
        sent: clocks.sent,
        input_band: ask.input_band,
        reserved: reserved(ask, estimated_input).filter(|_| is_generation),
        input,
        output,
        usage: seen.usage,
        unpriced: bill.unpriced.filter(|_| accepted && is_generation),
        cost: bill.cost,
        alternatives: bill.alternatives,
        limits: clocks.head.zip(seen.limits).map(|(at, limits)| ToldLimits { at, wall: wall(at), limits }),
        limited: finished.limited,
        chunks: seen.chunks,
        undecodable: seen.undecodable,
        bytes_in: seen.bytes_in,
        bytes_out: seen.bytes_out,
        connect: finished.connect,
        in_flight_at_start: finished.in_flight_at_start,
        config,
    }
}

/// Input tokens: as reported, else as counted, else by estimate.
fn input(seen: &Observation, counted: Option<Counted>, estimated: Option<u64>) -> Option<Count> {
    let reported = seen.usage.input.map(Count::reported);
    reported.or_else(|| counted.map(Counted::count)).or_else(|| estimated.map(Count::estimated))
}

/// What a quota that reserves would charge.
fn reserved(ask: Ask, estimated_input: Option<u64>) -> Option<u64> {
    estimated_input.map(|tokens| tokens.saturating_add(ask.max_output.unwrap_or(0)))
}

/// What an exchange is to the objectives that it falls under.
fn verdicts(
    slos: &Slos,
    origin: &Origin,
    model: Option<&Name>,
    seen: &Observation,
    outcome: Outcome,
    timing: &Timing,
) -> Vec<(u8, Name, Verdict)> {
    let course = Course {
        started: seen.clocks.started,
        asked_stream: seen.request.as_ref().is_some_and(|facts| facts.stream),
        streamed: seen.streamed && seen.closure.code.is_some_and(|code| (200..300).contains(&code)),
        observed: seen.closure.observed,
        head: seen.clocks.head,
        first_token: seen.clocks.first_token,
        tpot: timing.tpot,
        ended: seen.clocks.ended,
        code: seen.closure.code,
        outcome,
    };
    let Origin { dialect, tenant, upstream, .. } = origin;
    slos.verdicts(Party { dialect: *dialect, tenant, model, upstream }, &course)
}

/// What an exchange costs.
struct Bill {
    cost: Option<Cost>,
    unpriced: Option<Unpriced>,
    alternatives: Vec<(Name, Cost)>,
}

/// What these tokens of a model cost at this time, and would have cost at its alternatives.
fn bill(
    models: &Models,
    names: &ModelNames,
    at: SystemTime,
    tokens: Option<&Tokens<'_>>,
    tier: Option<&Name>,
) -> Bill {
    let cost = |names: &ModelNames| Some(models.price(names, at)?.cost(tokens?, tier));
    let own = cost(names);
    let why = if tokens.is_some() { Unpriced::Price } else { Unpriced::Tokens };
    let configured = names.configured.as_ref().and_then(|name| models.named(name));
    let others = configured.map(|model| model.alternatives.as_slice()).unwrap_or_default();
    let other = |name: &Name| {
        let names = ModelNames { configured: Some(name.clone()), ..ModelNames::default() };
        Some((name.clone(), cost(&names)?))
    };
    Bill {
        unpriced: Some(why).filter(|_| own.is_none() && models.has_prices()),
        alternatives: others.iter().filter_map(other).collect(),
        cost: own,
    }
}

/// Output tokens. A report that text has outrun says at least how many: of an answer that was cut it is not the last.
fn output(
    seen: &Observation,
    outcome: Outcome,
    dialect: DialectId,
    counted: impl FnOnce() -> Option<Count>,
) -> Option<Count> {
    let reported = seen.usage.output;
    let is_last = outcome == Outcome::Completed || !seen.outran_usage;
    match reported {
        Some(value) if is_last => Some(Count::reported(value)),
        _ if dialect.generates() => match counted() {
            Some(count) => Some(Count { value: count.value.max(reported.unwrap_or(0)), ..count }),
            None => reported.map(Count::reported),
        },
        _ => None,
    }
}

impl Finished {
    /// Whether all that was reported of its tokens is text that was read to its end.
    pub fn is_whole(&self) -> bool {
        let seen = &self.observation;
        let is_completed = seen.outcome(self.ending) == Outcome::Completed && !seen.outran_usage;
        is_completed && seen.text().hidden_tokens == Some(0)
    }

    /// What was not reported, and its text can tell.
    pub fn lacks(&self) -> Lacks {
        let seen = &self.observation;
        if !seen.closure.code.is_some_and(|code| (200..300).contains(&code)) {
            return Lacks::default();
        }
        let is_last = !seen.outran_usage || seen.outcome(self.ending) == Outcome::Completed;
        Lacks {
            input: seen.usage.input.is_none(),
            output: self.origin.dialect.generates() && !(seen.usage.output.is_some() && is_last),
        }
    }

    /// Whether how many tokens its first event had is not known.
    pub fn lacks_first_event(&self) -> bool {
        let clocks = &self.observation.clocks;
        clocks.first_token.is_some() && clocks.first_event_tokens.is_none()
    }
}

/// Which counts are missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lacks {
    /// That of the prompt.
    pub input: bool,
    /// That of what was generated.
    pub output: bool,
}

impl Lacks {
    /// Whether one is.
    pub const fn any(self) -> bool {
        self.input || self.output
    }
}

/// How much a request asks for. The band is by its prompt's text, or by the whole body where that is not known.
pub fn ask(facts: Option<&RequestFacts>, bytes_in: u64) -> Ask {
    let text_bytes = facts.and_then(|facts| facts.prompt_text_bytes);
    Ask {
        dialect: facts.and_then(|facts| facts.dialect),
        input_band: InputBand::of_text_bytes(text_bytes.unwrap_or(bytes_in)),
        text_bytes,
        max_output: facts.and_then(|facts| facts.max_output),
    }
}
