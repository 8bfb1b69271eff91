//! What is wrong now, in words: each with the runbook that says what to do. The bounds are those of the alerts where there
//! is one, without their waiting: an alert wakes somebody, this is looked at.

use serde::Serialize;

use super::{State, Status, Tenant};

/// Somebody who waits so long for a first token is worth a line. The alert waits until a minute.
pub(super) const LONG_WAIT: f64 = 10.0;

/// A stream that stands still for so long.
pub(super) const LONG_STALL: f64 = 10.0;

/// The share of a limit, or of a budget, from which on it is nearly used up.
const NEARLY: f64 = 0.9;

/// How grave it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gravity {
    /// Users suffer.
    Bad,
    /// They may soon, or somebody should know.
    Warning,
}

impl Gravity {
    /// As the page's style has it.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warning => "warning",
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// How grave it is.
    pub gravity: Gravity,
    /// What.
    pub text: String,
    /// The page in docs/runbooks that says what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbook: Option<&'static str>,
}

fn bad(text: String, runbook: &'static str) -> Trouble {
    Trouble { gravity: Gravity::Bad, text, runbook: Some(runbook) }
}

fn warning(text: String, runbook: &'static str) -> Trouble {
    Trouble { gravity: Gravity::Warning, text, runbook: Some(runbook) }
}

/// The gravest first.
pub(super) fn all(status: &Status, limit_store_is_up: Option<bool>) -> Vec<Trouble> {
    let mut all = waiting(status);
    if !status.ready {
        let text = "draining: running streams end, no new connection is taken".to_owned();
        all.push(Trouble { gravity: Gravity::Warning, text, runbook: None });
    }
    all.extend(failing(status));
    if !status.reload.successful {
        let text = "the last reload was refused; the configuration of before is in force, the log says why";
        all.push(warning(text.to_owned(), "StreamgaugeReloadFailed"));
    }
    if limit_store_is_up == Some(false) {
        let text = "limit_store does not answer: each replica has only its share of the limits";
        all.push(warning(text.to_owned(), "StreamgaugeLimitStoreDown"));
    }
    all.extend(status.tenants.iter().flat_map(exhausted));
    all.sort_by_key(|trouble| trouble.gravity);
    all
}

/// Who waits, and which streams stand still.
fn waiting(status: &Status) -> Vec<Trouble> {
    let mut all = Vec::new();
    for upstream in &status.upstreams {
        let oldest = upstream.load.oldest_awaiting_first_token_seconds.unwrap_or(0.0);
        if oldest >= LONG_WAIT {
            let whose = status
                .open
                .iter()
                .find(|open| open.upstream == upstream.name && open.state == State::AwaitingFirstToken);
            let whose = whose.map_or_else(String::new, |open| {
                let model = open.model.as_ref().or(open.model_requested.as_ref());
                let model = model.map(|model| format!(", {model}")).unwrap_or_default();
                format!(" ({}{model})", open.tenant)
            });
            let (name, waiting) = (&upstream.name, upstream.load.awaiting_first_token);
            let others = if waiting > 1 { format!("; {waiting} are waiting") } else { String::new() };
            let text =
                format!("{name}: a client has waited {oldest:.0} s for its first token{whose}{others}");
            all.push(bad(text, "StreamgaugeHung"));
        }
    }
    let stalled = |since: Option<f64>| since.is_some_and(|since| since >= LONG_STALL);
    let stalls = status.open.iter().filter(|open| stalled(open.since_last_token_seconds)).count();
    if stalls > 0 {
        let text = format!("{stalls} of the streams below have had no token for {LONG_STALL:.0} s");
        all.push(warning(text, "StreamgaugeStalls"));
    }
    all
}

/// What failed in the last minute.
fn failing(status: &Status) -> Vec<Trouble> {
    let failing = status.models.iter().filter(|model| model.failed > 0);
    failing
        .map(|model| {
            let (name, failed, requests) = (&model.model, model.failed, model.requests);
            let text = format!("{name}: {failed} of {requests} requests failed in the last minute");
            bad(text, "StreamgaugeUpstreamErrors")
        })
        .collect()
}

/// Limits and budgets that are nearly used up.
fn exhausted(tenant: &Tenant) -> Vec<Trouble> {
    let mut all = Vec::new();
    for window in tenant.limits.iter().filter(|window| window.share_used() >= NEARLY) {
        let (name, share) = (&tenant.tenant, window.share_used() * 100.0);
        let models = if window.model == "*" { "all models" } else { &window.model };
        let text = format!("{name} has used {share:.0} % of its tokens per minute ({models})");
        all.push(warning(text, "StreamgaugeLimitNearExhaustion"));
    }
    for budget in
        tenant.budgets.iter().filter(|budget| budget.amount > 0.0 && budget.spent >= budget.amount * NEARLY)
    {
        let (name, share) = (&tenant.tenant, budget.spent / budget.amount * 100.0);
        let text = format!("{name} has spent {share:.0} % of its budget for the {}", budget.period);
        all.push(warning(text, "StreamgaugeBudgetBurn"));
    }
    all
}
