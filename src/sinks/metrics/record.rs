//! From facts to series. Each line of the table is recorded here, or read at the scrape.

use std::time::Duration;

use super::catalog::Id;
use super::family::Trail;
use super::labels::{Label, Labels, OTHER, UNKNOWN, cut};
use super::{INPUT, MISSING, Metrics, OUTPUT};
use crate::account::settle::Counts;
use crate::clock::Moment;
use crate::exchange::{Count, Exchange, Name, Outcome, Source};
use crate::live::{Accepted, Origin};
use crate::sinks::{Fact, Sink};

impl Sink for Metrics {
    fn record(&self, fact: &Fact<'_>) {
        let now = self.clock.now();
        match fact {
            Fact::FirstToken { origin, accepted, ttft } => self.first_token(origin, accepted, *ttft, now),
            Fact::Flow { origin, accepted, so_far, reserved } => {
                self.flow(origin, accepted, *so_far, *reserved, now);
            }
            Fact::Limited { origin, limited } => self.limited(origin, limited, now),
            Fact::Judged { origin, model, accepted, slo, is_bad } => {
                self.judged(origin, model, *accepted, slo, *is_bad, now);
            }
            Fact::Ended(exchange) => {
                let names = self.names(exchange, now);
                let labels = names.labels(exchange);
                self.ended(exchange, &names, labels, now);
                self.counted(&labels, now);
            }
            Fact::Settled(exchange) => {
                self.settled(exchange, self.names(exchange, now).labels(exchange), now)
            }
            Fact::Audited { exchange, counts } => self.audited(exchange, counts, now),
        }
    }

    // Both facts under the same names, which are looked for once.
    fn record_end(&self, exchange: &Exchange) {
        let now = self.clock.now();
        let names = self.names(exchange, now);
        let labels = names.labels(exchange);
        self.ended(exchange, &names, labels, now);
        self.settled(exchange, labels, now);
        self.counted(&labels, now);
    }
}

/// What an exchange's labels are made of. None: no series of its own.
struct Names {
    tenant: Option<Name>,
    model: Option<Name>,
    code: Option<Code>,
}

/// A status as text, which has three digits.
struct Code([u8; 3]);

impl Code {
    fn of(code: u16) -> Self {
        Self([code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + (digit % 10) as u8))
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Names {
    fn labels<'a>(&'a self, exchange: &'a Exchange) -> Labels<'a> {
        let mut labels = Labels::default();
        labels.set(Label::Tenant, self.tenant.as_ref().map_or(OTHER, Name::as_str));
        labels.set(Label::Model, self.model.as_ref().map_or(OTHER, Name::as_str));
        labels.set(Label::Upstream, exchange.upstream.as_str());
        labels.set(Label::Dialect, exchange.dialect.0);
        labels.set(Label::Stream, if exchange.stream { "true" } else { "false" });
        labels.set(Label::Outcome, exchange.outcome.label());
        labels.set(Label::Code, self.code.as_ref().map_or("none", Code::as_str));
        labels
    }
}

impl Metrics {
    fn first_token(&self, origin: &Origin, accepted: &Accepted, ttft: Duration, now: Moment) {
        let model = accepted.model.label(true).map(cut);
        let model =
            model.map_or_else(|| Some(Name::from(UNKNOWN)), |name| self.models.place(&name, true, now));
        let tenant = self.tenants.place(&origin.tenant, true, now);
        let labels = Labels::default()
            .with(Label::Tenant, tenant.as_ref().map_or(OTHER, Name::as_str))
            .with(Label::Model, model.as_ref().map_or(OTHER, Name::as_str))
            .with(Label::Upstream, origin.upstream.as_str())
            .with(Label::Dialect, accepted.ask.dialect.unwrap_or(origin.dialect).0)
            .with(Label::InputBand, accepted.ask.input_band.label());
        let trail = Trail {
            trace_id: origin.trace_id.as_ref(),
            request_id: &origin.request_id,
            at: self.clock.wall(now),
        };
        self.observe(Id::TimeToFirstToken, &labels, ttft.as_secs_f64(), Some(trail), now);
    }

    fn ended(&self, exchange: &Exchange, names: &Names, mut labels: Labels<'_>, now: Moment) {
        if names.tenant.is_none() {
            self.tenants.overflow().add_one();
        }
        if names.model.is_none() {
            self.models.overflow().add_one();
        }
        self.reserve(exchange, &labels, now);
        self.upstream_limits(exchange, &labels);
        self.ended_times(exchange, &mut labels, now);
        for reason in &exchange.finish_reasons {
            labels.set(Label::Reason, reason.label());
            self.add(Id::FinishReasons, &labels, 1, now);
        }
        if exchange.finish_reasons.is_empty() && generates_text(exchange) && exchange.unobserved.is_none() {
            labels.set(Label::Reason, "none");
            self.add(Id::FinishReasons, &labels, 1, now);
        }
        if let Some(reason) = exchange.unobserved {
            labels.set(Label::Reason, reason.label());
            self.add(Id::Unobserved, &labels, 1, now);
        }
        if exchange.undecodable > 0 {
            self.add(Id::UndecodableEvents, &labels, exchange.undecodable, now);
        }
        if exchange.outcome == Outcome::ClientGone {
            let streamed = exchange.timing.ttft.is_some();
            labels.set(Label::Phase, if streamed { "streaming" } else { "before_first_token" });
            let model = self.model_accepted_earlier(exchange);
            let labels = model.as_ref().map_or(labels, |model| labels.with(Label::Model, model.as_str()));
            self.add(Id::ClientDisconnects, &labels, 1, now);
        }
    }

    /// After everything else that is known of the request: a page tells it before the rest, so whoever finds it there has
    /// the rest on that page too.
    fn counted(&self, labels: &Labels<'_>, now: Moment) {
        self.add(Id::Requests, labels, 1, now);
    }

    fn ended_times(&self, exchange: &Exchange, labels: &mut Labels<'_>, now: Moment) {
        let timing = &exchange.timing;
        let overhead = [("request", timing.overhead_request), ("response", Some(timing.overhead_response))];
        for (phase, time) in overhead {
            labels.set(Label::Phase, phase);
            self.time(Id::ProxyOverhead, labels, time, exchange, now);
        }
        self.time(Id::RequestDuration, labels, Some(timing.duration), exchange, now);
        self.time(Id::TimeToFirstByte, labels, timing.ttfb, exchange, now);
        self.time(Id::TimeToFirstAnswerToken, labels, timing.first_answer, exchange, now);
        self.time(Id::LongestTokenGap, labels, timing.longest_gap, exchange, now);
        self.time(Id::UpstreamConnect, labels, exchange.connect, exchange, now);
    }

    fn settled(&self, exchange: &Exchange, mut labels: Labels<'_>, now: Moment) {
        if !exchange.accepted() {
            return; // refused and failed requests have no tokens
        }
        self.settle(exchange, &labels, now);
        let usage = &exchange.usage;
        for (id, tokens) in [
            (Id::CacheReadInputTokens, usage.cache_read),
            (Id::CacheWriteInputTokens, usage.cache_write),
            (Id::ReasoningOutputTokens, usage.reasoning),
        ] {
            if let Some(tokens) = tokens {
                self.add(id, &labels, tokens, now);
            }
        }
        for (id, count) in
            [(Id::RequestInputTokens, exchange.input), (Id::RequestOutputTokens, exchange.output)]
        {
            if let Some(count) = count {
                self.observe(id, &labels, count.value as f64, trail(exchange), now);
            }
        }
        self.priced(exchange, &labels, now);
        self.worked(exchange, &labels, now);
        self.time(Id::TimePerOutputToken, &labels, exchange.timing.tpot, exchange, now);
        if let Some(tps) = exchange.timing.tps {
            self.observe(Id::OutputTokensPerSecond, &labels, tps, trail(exchange), now);
        }
        if exchange.is_generation() {
            self.count_source(&mut labels, INPUT, exchange.input, now);
        }
        if generates_text(exchange) {
            self.count_source(&mut labels, OUTPUT, exchange.output, now);
        }
    }

    /// Compares what was counted with what was reported.
    fn audited(&self, exchange: &Exchange, counts: &Counts, now: Moment) {
        let names = self.names(exchange, now);
        let mut labels = names.labels(exchange);
        let both = [(INPUT, counts.input, exchange.input), (OUTPUT, counts.output, exchange.output)];
        for (direction, counted, reported) in both {
            let reported = reported.filter(|count| count.source == Source::Reported && count.value > 0);
            let Some((counted, reported)) = counted.filter(|counted| counted.exact).zip(reported) else {
                continue;
            };
            labels.set(Label::Direction, direction);
            let ratio = counted.tokens as f64 / reported.value as f64;
            self.observe(Id::TokenAuditRatio, &labels, ratio, None, now);
        }
    }

    /// What it cost, and would have cost elsewhere.
    fn priced(&self, exchange: &Exchange, labels: &Labels<'_>, now: Moment) {
        if exchange.unpriced.is_some() {
            self.add(Id::UnpricedRequests, labels, 1, now);
        }
        if let Some(cost) = &exchange.cost {
            self.price_names.keep(labels, &exchange.model);
            let labels = labels.with(Label::Currency, cost.currency.as_str());
            self.add_wide(Id::Cost, &labels, cost.pico, now);
        }
        for (alternative, cost) in &exchange.alternatives {
            let labels = labels.with(Label::Alternative, alternative.as_str());
            let labels = labels.with(Label::Currency, cost.currency.as_str());
            self.add_wide(Id::AlternativeCost, &labels, cost.pico, now);
        }
    }

    fn count_source(
        &self,
        labels: &mut Labels<'_>,
        direction: &'static str,
        count: Option<Count>,
        now: Moment,
    ) {
        labels.set(Label::Direction, direction);
        labels.set(Label::Source, count.map_or(MISSING, |count| count.source.label()));
        self.add(Id::TokenCounts, labels, 1, now);
        if let Some(count) = count.filter(|count| count.source != Source::Reported) {
            self.add(Id::UnreportedTokens, labels, count.value, now);
        }
    }

    fn time(&self, id: Id, labels: &Labels<'_>, time: Option<Duration>, exchange: &Exchange, now: Moment) {
        if let Some(time) = time {
            self.observe(id, labels, time.as_secs_f64(), trail(exchange), now);
        }
    }

    /// The names of an exchange, through the budget.
    fn names(&self, exchange: &Exchange, now: Moment) -> Names {
        let accepted = exchange.accepted();
        let model = exchange.model.label(accepted).map(cut).unwrap_or_else(|| Name::from(UNKNOWN));
        Names {
            tenant: self.tenants.place(&exchange.tenant, accepted, now),
            model: self.models.place(&model, accepted, now),
            code: exchange.code.map(Code::of),
        }
    }

    /// Of a client that left before the upstream said yes: its model, where the upstream has said yes to that
    /// name before.
    fn model_accepted_earlier(&self, exchange: &Exchange) -> Option<Name> {
        if exchange.accepted() || exchange.model.configured.is_some() {
            return None;
        }
        let requested = exchange.model.requested.as_ref().map(cut);
        requested.filter(|name| self.models.was_accepted(name))
    }
}

/// Whether this was an accepted request for output tokens.
fn generates_text(exchange: &Exchange) -> bool {
    exchange.accepted() && exchange.dialect.generates()
}

fn trail(exchange: &Exchange) -> Option<Trail<'_>> {
    let Exchange { trace_id, request_id, ended_at, .. } = exchange;
    Some(Trail { trace_id: trace_id.as_ref(), request_id, at: *ended_at })
}
