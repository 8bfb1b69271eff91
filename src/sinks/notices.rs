//! What a person wants to read once: the first exchange that was understood, and which models leave their
//! tokens unreported, with what would help.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::{Fact, Sink};
use crate::exchange::{Exchange, Outcome, Source, Unpriced};

const MODELS: usize = 100; // that are told of; a client can make up names

/// The sink.
#[derive(Debug, Default)]
pub struct Notices(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    first: bool,
    unreported: HashSet<String>,
    unpriced: HashSet<String>,
}

impl Sink for Notices {
    fn record(&self, fact: &Fact<'_>) {
        let Fact::Settled(exchange) = fact else { return };
        if !exchange.is_generation() || exchange.outcome != Outcome::Completed || !exchange.accepted() {
            return;
        }
        let mut told = self.0.lock();
        if !std::mem::replace(&mut told.first, true) {
            tracing::info!("first exchange: {}", summary(exchange));
        }
        if exchange.unpriced == Some(Unpriced::Price) && told.unpriced.len() < MODELS {
            let model = model(exchange);
            if told.unpriced.insert(model.clone()) {
                tracing::warn!(
                    "{model} has no price, so its requests cost nothing in cost_total: give it one \
                     (models[].price, or a list in prices)"
                );
            }
        }
        let is_known = exchange.output.is_some_and(|count| count.source != Source::Estimated);
        let is_read = exchange.dialect.generates() && exchange.unobserved.is_none();
        if is_known || !is_read || told.unreported.len() >= MODELS {
            return;
        }
        let model = model(exchange);
        if told.unreported.insert(model.clone()) {
            tracing::warn!("{}", advice(&model, exchange.upstream.as_str()));
        }
    }
}

/// What would help where a model's tokens are not reported.
fn advice(model: &str, upstream: &str) -> String {
    format!(
        "{model} at upstream {upstream} reports no output tokens, so they are estimated: give the model its tokenizer \
         (models[].tokenizer), or ask for usage (upstreams[].inject_usage, or clients that send \
         \"stream_options\": {{\"include_usage\": true}})"
    )
}

/// `openai_chat llama-3.1-8b: TTFT 212 ms, 30 in / 24 out (reported)`
fn summary(exchange: &Exchange) -> String {
    let ttft = exchange.timing.ttft.map(|ttft| format!("TTFT {} ms, ", ttft.as_millis())).unwrap_or_default();
    let count = |count: Option<crate::exchange::Count>| {
        count.map_or_else(|| "unknown".to_owned(), |count| count.value.to_string())
    };
    let source = exchange.output.or(exchange.input).map_or("missing", |count| count.source.label());
    format!(
        "{} {}: {ttft}{} in / {} out ({source})",
        exchange.dialect.0,
        model(exchange),
        count(exchange.input),
        count(exchange.output)
    )
}

/// The model's name, fit for a line of the log: clients choose it.
fn model(exchange: &Exchange) -> String {
    exchange
        .model
        .label(true)
        .map_or_else(|| "unknown".to_owned(), |name| name.as_str().escape_debug().to_string())
}
