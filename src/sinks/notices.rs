//! What a person wants to read once: the first exchange that was understood, and which models leave their
//! tokens unreported, with what would help.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::{Fact, Sink};
use crate::exchange::{Exchange, Outcome};

const MODELS: usize = 100; // that are told of; a client can make up names

/// The sink.
#[derive(Debug, Default)]
pub struct Notices(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    first: bool,
    unreported: HashSet<String>,
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
        if exchange.output.is_some() || exchange.unobserved.is_some() || told.unreported.len() >= MODELS {
            return;
        }
        let model = model(exchange);
        if told.unreported.insert(model.clone()) {
            tracing::warn!(
                "{model} at upstream {} reports no usage in its streams, so their tokens are counted as missing: \
                 let clients send \"stream_options\": {{\"include_usage\": true}}, set inject_usage for the upstream, \
                 or let the server report it unasked (vLLM: --enable-force-include-usage)",
                exchange.upstream
            );
        }
    }
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
