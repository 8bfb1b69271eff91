//! What upstreams say of their own rate limits: the newest word of each, by upstream and model.

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::Metrics;
use super::catalog::Id;
use super::labels::{Key, Label, Labels};
use crate::clock::Moment;
use crate::exchange::{Exchange, LimitKind, Name, ToldLimits, UpstreamLimit};

const SERIES: [Label; 2] = [Label::Upstream, Label::Model];

/// What was last told.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<(Key, LimitKind), Word>>);

#[derive(Debug, Clone, Copy)]
struct Word {
    limit: UpstreamLimit,
    /// When the answer's head came.
    at: Moment,
    /// When the limit is whole again.
    resets: Option<Moment>,
}

impl Metrics {
    /// Keeps what an answer's head told, unless a later one has told already.
    pub(super) fn upstream_limits(&self, exchange: &Exchange, labels: &Labels<'_>) {
        let Some(ToldLimits { at, wall, limits }) = &exchange.limits else { return };
        let mut told = self.limits.0.lock();
        for (kind, limit) in limits.each() {
            let resets = limit.reset.map(|reset| *at + reset.after(*wall));
            let word = Word { limit, at: *at, resets };
            let known = told.entry((labels.pick(&SERIES), kind)).or_insert(word);
            if known.at <= *at {
                *known = word;
            }
        }
    }

    /// The values of one of the gauges: of limits, of what remains, of seconds until they are whole again.
    pub(super) fn told_limits(&self, id: Id, now: Moment) -> Vec<(Key, f64)> {
        let told = self.limits.0.lock();
        let value = |word: &Word| match id {
            Id::UpstreamLimit => word.limit.limit.map(|n| n as f64),
            Id::UpstreamLimitRemaining => word.limit.remaining.map(|n| n as f64),
            _ => word.resets.map(|resets| resets.since(now).as_secs_f64()),
        };
        let each = told.iter().filter_map(|((series, kind), word)| {
            let kind = Name::from(kind.label());
            let key: Key = series.iter().cloned().chain([kind]).collect();
            Some((key, value(word)?))
        });
        let mut all: Vec<_> = each.collect();
        drop(told);
        all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        all
    }

    /// Forgets what was told so long ago that it is idle.
    pub(super) fn sweep_limits(&self, is_old: impl Fn(Moment) -> bool) {
        self.limits.0.lock().retain(|_, word| !is_old(word.at));
    }
}
