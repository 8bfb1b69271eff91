//! Tokens as they flow: from running streams and settled exchanges into the token counters, and with every token that
//! these grow by into tokens per minute. What counters and minutes say is the same, token by token.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use super::catalog::Id;
use super::labels::{Key, Label, Labels, OTHER, UNKNOWN, cut};
use super::{Busy, INPUT, Metrics, OUTPUT};
use crate::account::meter::{Meter, Minutes, Tokens, Window};
use crate::clock::Moment;
use crate::exchange::{Exchange, Name};
use crate::live::{Accepted, Origin};

/// The labels of a token counter's series.
const SERIES: [Label; 3] = [Label::Tenant, Label::Model, Label::Upstream];

/// The labels of what is told by the minute.
const BY_MINUTE: [Label; 2] = [Label::Tenant, Label::Model];

/// What flows now, and flowed in the last minute. Who holds it takes the lock of a family after it, and never that of
/// the settings.
#[derive(Debug, Default)]
pub(super) struct Flows(Mutex<State>);

const SLIDING: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct State {
    meter: Meter<Key>,
    /// Running exchanges of which was told what they asked for.
    reserved: HashSet<u64>,
    minutes: Minutes<Key>,
    windows: HashMap<Key, (Window, Moment)>, // with the moment of the last token
    last: Option<Key>,                       // whose tokens were told last: often the next ones are too
}

impl Metrics {
    /// A running stream has had so many tokens so far.
    pub(super) fn flow(
        &self,
        origin: &Origin,
        accepted: &Accepted,
        so_far: Tokens,
        reserved: Option<u64>,
        now: Moment,
    ) {
        let mut flows = self.flows.0.lock();
        let growth = flows.meter.flow(origin.number, so_far, || self.series(origin, accepted, now));
        if let Some(tokens) = reserved
            && flows.reserved.insert(origin.number)
        {
            self.add(Id::ReservedTokens, &Labels::of(&SERIES, &growth.series), tokens, now);
        }
        let has = [so_far.input > 0, so_far.output > 0];
        self.grow(&mut flows, &Labels::of(&SERIES, &growth.series), growth.tokens, has, accepted.sent, now);
    }

    /// The series of a stream whose tokens are told for the first time.
    fn series(&self, origin: &Origin, accepted: &Accepted, now: Moment) -> Key {
        let model = accepted.model.label(true).map_or_else(|| Name::from(UNKNOWN), cut);
        let place = |placed: Option<Name>| placed.unwrap_or_else(|| Name::from(OTHER));
        let tenant = place(self.tenants.place(&origin.tenant, true, now));
        Key::from([tenant, place(self.models.place(&model, true, now)), origin.upstream.clone()])
    }

    /// What an exchange asked for, unless that was told while it ran.
    pub(super) fn reserve(&self, exchange: &Exchange, labels: &Labels<'_>, now: Moment) {
        let was_told = self.flows.0.lock().reserved.remove(&exchange.number);
        if let Some(tokens) = exchange.reserved.filter(|_| !was_told) {
            self.add(Id::ReservedTokens, labels, tokens, now);
        }
    }

    /// An exchange's tokens are known.
    pub(super) fn settle(&self, exchange: &Exchange, labels: &Labels<'_>, now: Moment) {
        let (input, output) =
            (exchange.input.map(|count| count.value), exchange.output.map(|count| count.value));
        let mut flows = self.flows.0.lock();
        let tokens = flows.meter.settle(exchange.number, input, output, || labels.pick(&SERIES));
        let has = [input.is_some(), output.is_some()];
        self.grow(&mut flows, labels, tokens, has, exchange.sent, now);
    }

    /// Adds to the counters and to the minutes: input in the second in which it was sent, output now. What is not
    /// known (`has`: input, output) makes no series.
    fn grow(
        &self,
        flows: &mut State,
        labels: &Labels<'_>,
        tokens: Tokens,
        has: [bool; 2],
        sent: Option<Moment>,
        now: Moment,
    ) {
        self.close_minute_of(flows, now);
        let parts = [(Id::InputTokens, tokens.input), (Id::OutputTokens, tokens.output)];
        for ((id, tokens), _) in parts.into_iter().zip(has).filter(|((_, tokens), has)| *has || *tokens > 0) {
            self.add(id, labels, tokens, now);
        }
        if tokens == Tokens::NONE {
            return;
        }
        let last = flows.last.take().filter(|last| labels.are(&BY_MINUTE, last));
        let minute = last.unwrap_or_else(|| labels.pick(&BY_MINUTE));
        let all = tokens.input.saturating_add(tokens.output);
        let sent = flows.minutes.add(&minute, sent.unwrap_or(now), now, all);
        let (window, touched) = flows.windows.entry_ref(&minute).or_default();
        *touched = now;
        for (at, tokens) in [(sent, tokens.input), (now, tokens.output)] {
            if tokens > 0 {
                window.add(at, tokens);
            }
        }
        flows.last = Some(minute);
    }

    /// Tells of the wall clock's minute if it is over.
    pub(super) fn close_minute(&self, now: Moment) {
        self.close_minute_of(&mut self.flows.0.lock(), now);
    }

    fn close_minute_of(&self, flows: &mut State, now: Moment) {
        for (series, tokens) in flows.minutes.close(now, || self.clock.wall(now)) {
            let labels = Labels::of(&BY_MINUTE, &series);
            self.observe(Id::TokensPerMinute, &labels, tokens as f64, None, now);
        }
    }

    /// What flowed in the last sixty seconds: of every tenant and model that is known from the start or had tokens.
    pub(super) fn tokens_last_minute(&self, now: Moment) -> Vec<(Key, f64)> {
        let presets = self.settings.read().presets.get(Id::TokensLastMinute as usize).cloned();
        let mut all: HashMap<Key, u64> = presets.into_iter().flatten().map(|key| (key, 0)).collect();
        for (key, (window, _)) in &mut self.flows.0.lock().windows {
            all.insert(key.clone(), window.sum(now));
        }
        let mut all: Vec<_> = all.into_iter().map(|(key, tokens)| (key, tokens as f64)).collect();
        all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        all
    }

    /// Tokens that are not settled: direction, state, how many.
    pub(super) fn unsettled(&self) -> [(&'static str, &'static str, u64); 4] {
        let flows = self.flows.0.lock();
        let (live, owed) = (flows.meter.live(), flows.meter.owed());
        [
            (INPUT, "live", live.input),
            (INPUT, "owed", owed.input),
            (OUTPUT, "live", live.output),
            (OUTPUT, "owed", owed.output),
        ]
    }

    /// Whose exchanges are open here: one may still be counted when it is no longer in flight.
    pub(super) fn flowing(&self, busy: &mut Busy) {
        for series in self.flows.0.lock().meter.open() {
            if let [tenant, model, _] = &**series {
                busy.tenants.insert(tenant.clone());
                busy.models.insert(model.clone());
            }
        }
    }

    /// Forgets what is idle, as the series of the page are; what a series owes goes with it.
    pub(super) fn sweep_flows(&self, is_idle: impl Fn(&[Label], &Key, Moment) -> bool, now: Moment) {
        let mut flows = self.flows.0.lock();
        let is_over = |touched: Moment| now.since(touched) >= SLIDING;
        flows.windows.retain(|key, (_, touched)| !is_over(*touched) || !is_idle(&BY_MINUTE, key, *touched));
        let gone =
            |series: &Key| [Id::InputTokens, Id::OutputTokens].iter().all(|id| !self.has_series(*id, series));
        flows.meter.forget(gone);
    }
}
