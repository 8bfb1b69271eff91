//! What a line of the request log says, and how it is written.

use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::super::json::{Amount, Map, MemberWriter, Text};
use crate::exchange::{Blame, Exchange, FinishReason, Limited, Name, Reset, ToldLimits, Unobserved};

/// One exchange as it stands in the log. What is unknown is absent.
#[derive(Debug)]
pub struct Line<'a> {
    exchange: &'a Exchange,
    reproducible: bool,
}

impl<'a> Line<'a> {
    /// The line of an exchange.
    pub fn of(exchange: &'a Exchange) -> Self {
        Self { exchange, reproducible: false }
    }

    /// The same line without what differs from run to run: ids that we made, wall-clock time and what is
    /// reckoned from it, load, what the sidecar itself cost.
    pub fn reproducible(exchange: &'a Exchange) -> Self {
        Self { exchange, reproducible: true }
    }
}

impl Line<'_> {
    fn put<O: MemberWriter>(&self, out: &mut O) -> Result<(), O::Error> {
        let exchange = self.exchange;
        let varying = |there: bool| there && !self.reproducible;
        out.put_time("time", varying(true).then_some(exchange.ended_at))?;
        out.put("request_id", varying(true).then_some(exchange.request_id.as_str()))?;
        out.put("upstream_request_id", text(exchange.upstream_request_id.as_ref()))?;
        out.put("trace_id", text(exchange.trace_id.as_ref()))?;
        out.put("tenant", Some(exchange.tenant.as_str()))?;
        out.put("model", Some(text(exchange.model.label(exchange.accepted())).unwrap_or("unknown")))?;
        out.put("model_requested", text(exchange.model.requested.as_ref()))?;
        out.put("model_served", text(exchange.model.served.as_ref()))?;
        out.put("upstream", Some(exchange.upstream.as_str()))?;
        out.put_word("dialect", Some(exchange.dialect.0))?;
        out.put_word("unobserved", exchange.unobserved.map(Unobserved::label))?;
        out.put("stream", Some(exchange.stream))?;
        out.put("code", exchange.code)?;
        out.put_word("outcome", Some(exchange.outcome.label()))?;
        out.put_word("blame", exchange.outcome.blame(exchange.code).map(Blame::label))?;
        out.put("error_class", text(exchange.error_class.as_ref()))?;
        out.put_word("finish_reason", exchange.finish_reasons.first().copied().map(FinishReason::label))?;
        self.put_times(out)?;
        put_tokens(exchange, out)?;
        out.put("limit", exchange.limited.as_deref().and_then(LimitMember::of))?;
        out.put("slo", Some(Verdicts(exchange)).filter(|_| !exchange.slos.is_empty()))?;
        let told = exchange.limits.as_ref();
        out.put("ratelimit", told.map(|told| RateLimits { told, reproducible: self.reproducible }))?;
        out.put("chunks", Some(exchange.chunks))?;
        out.put("bytes_in", Some(exchange.bytes_in))?;
        out.put("bytes_out", Some(exchange.bytes_out))?;
        out.put("in_flight_at_start", varying(true).then_some(exchange.in_flight_at_start))?;
        out.put("config", varying(true).then_some(exchange.config.as_str()))
    }

    fn put_times<O: MemberWriter>(&self, out: &mut O) -> Result<(), O::Error> {
        let Self { exchange, reproducible } = *self;
        let timing = &exchange.timing;
        let overhead = timing.overhead_request.unwrap_or_default() + timing.overhead_response;
        out.put("ttfb_seconds", timing.ttfb.map(rounded))?;
        out.put("ttft_seconds", timing.ttft.map(rounded))?;
        out.put("first_answer_seconds", timing.first_answer.map(rounded))?;
        out.put("last_token_seconds", timing.last_token.map(rounded))?;
        out.put("duration_seconds", Some(rounded(timing.duration)))?;
        out.put("longest_gap_seconds", timing.longest_gap.map(rounded))?;
        out.put("tpot_seconds", timing.tpot.map(rounded))?;
        out.put("connect_seconds", exchange.connect.map(rounded).filter(|_| !reproducible))?;
        out.put("overhead_seconds", (!reproducible).then_some(rounded(overhead)))
    }

    /// Adds the line to a text, without a line feed. After an error a part of it may stand there.
    pub(super) fn write(&self, text: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let mut text = Text::begin(text);
        self.put(&mut text)?;
        text.end();
        Ok(())
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        self.put(&mut map)?;
        map.0.end()
    }
}

/// The tokens of an exchange, where each count came from, and the cost.
pub(in crate::sinks) fn put_tokens<O: MemberWriter>(
    exchange: &Exchange,
    out: &mut O,
) -> Result<(), O::Error> {
    let detail = |value: Option<u64>| value.filter(|_| exchange.accepted());
    out.put("input_tokens", exchange.input.map(|count| count.value))?;
    out.put_word("input_source", exchange.input.map(|count| count.source.label()))?;
    out.put("cache_read_input_tokens", detail(exchange.usage.cache_read))?;
    out.put("cache_write_input_tokens", detail(exchange.usage.cache_write))?;
    out.put("output_tokens", exchange.output.map(|count| count.value))?;
    out.put_word("output_source", exchange.output.map(|count| count.source.label()))?;
    out.put("reasoning_output_tokens", detail(exchange.usage.reasoning))?;
    let Some(cost) = &exchange.cost else { return Ok(()) };
    out.put("cost", Some(Amount(cost.pico)))?;
    out.put("currency", Some(cost.currency.as_str()))?;
    out.put("price_version", Some(cost.version.as_str()))
}

/// What an exchange was to the objectives that it falls under, by their names.
struct Verdicts<'a>(&'a Exchange);

impl Serialize for Verdicts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.slos.iter().map(|(_, slo, verdict)| (slo.as_str(), verdict.label())))
    }
}

/// What our own limits did to an exchange.
#[derive(Serialize)]
struct LimitMember<'a> {
    action: &'static str,
    /// As the limit has it.
    model: &'a str,
    /// Tokens that it needed.
    reserved: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_seconds: Option<f64>,
}

impl<'a> LimitMember<'a> {
    /// None where there was room.
    fn of(limited: &'a Limited) -> Option<Self> {
        let (model, action) = limited.gravest()?;
        Some(Self {
            action: action.label(),
            model: model.as_str(),
            reserved: limited.reserved,
            delay_seconds: limited.delay.map(rounded),
        })
    }
}

/// What the answer's head said of the upstream's limits, by what they are of.
struct RateLimits<'a> {
    told: &'a ToldLimits,
    reproducible: bool,
}

impl Serialize for RateLimits<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let each = self.told.limits.each().map(|(kind, limit)| {
            let reset = limit.reset.filter(|reset| !self.reproducible || matches!(reset, Reset::After(_)));
            let reset_seconds = reset.map(|reset| rounded(reset.after(self.told.wall)));
            (kind.label(), RateLimit { limit: limit.limit, remaining: limit.remaining, reset_seconds })
        });
        serializer.collect_map(each)
    }
}

#[derive(Serialize)]
struct RateLimit {
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    /// Seconds from the answer's head until it is whole again.
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_seconds: Option<f64>,
}

fn text(name: Option<&Name>) -> Option<&str> {
    name.map(Name::as_str)
}

/// Seconds to the microsecond: what clocks here can tell.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}
