//! The catalogue: every metric is a row of [`TABLE`]. The page, `docs/metrics.md`, the dashboards, the alert
//! rules and the tests read it. A new metric is one row and the line that records it.
//!
//! The standard `process_*` metrics are not here; their library has them.

use super::buckets::Buckets;
pub(super) use super::id::Id;
use super::labels::Label;
pub use super::row::{Kind, PREFIX, Row, Section};

use Kind::{Counter, Gauge, Histogram};
use Section::{Cost, Latency, Sidecar, Tokens, Traffic};

/// Every metric, in the order of the page.
pub static TABLE: &[Row] = &[
    Row::new(
        Id::RequestsStarted,
        "requests_started_total",
        Counter,
        Traffic,
        &[Label::Upstream],
        "Exchanges begun. In every scrape it is requests_ended_total plus requests_in_flight, exactly; it is never dropped as idle.",
    ),
    Row::new(
        Id::RequestsEnded,
        "requests_ended_total",
        Counter,
        Traffic,
        &[Label::Upstream],
        "Exchanges ended, however they ended; never dropped as idle.",
    ),
    Row::new(
        Id::Requests,
        "requests_total",
        Counter,
        Traffic,
        &[
            Label::Tenant,
            Label::Model,
            Label::Upstream,
            Label::Dialect,
            Label::Stream,
            Label::Code,
            Label::Outcome,
        ],
        "Exchanges ended, in full detail. Its sum is that of requests_ended_total less records_dropped_total{stage=\"channel\"}.",
    ),
    Row::new(
        Id::InFlight,
        "requests_in_flight",
        Gauge,
        Traffic,
        &[Label::Upstream],
        "Exchanges open at the scrape.",
    ),
    Row::new(
        Id::AwaitingFirstToken,
        "requests_awaiting_first_token",
        Gauge,
        Traffic,
        &[Label::Upstream],
        "Open streaming exchanges that have had no token yet. It rises before any latency histogram does when an upstream hangs or queues.",
    ),
    Row::new(
        Id::OldestAwaitingFirstToken,
        "oldest_awaiting_first_token_seconds",
        Gauge,
        Traffic,
        &[Label::Upstream],
        "Age of the oldest exchange that waits for its first token; 0 when none does. It shows hung requests, which no histogram can.",
    ),
    Row::new(
        Id::ClientDisconnects,
        "client_disconnects_total",
        Counter,
        Traffic,
        &[Label::Tenant, Label::Model, Label::Phase],
        "Clients that left before their answer was complete: before the first token (they gave up waiting) or while it streamed.",
    ),
    Row::new(
        Id::FinishReasons,
        "finish_reasons_total",
        Counter,
        Traffic,
        &[Label::Model, Label::Reason],
        "Why generation ended, one for each choice of an answer; \"none\" counts 2xx answers that gave no reason at all.",
    ),
    Row::new(
        Id::Unobserved,
        "unobserved_requests_total",
        Counter,
        Traffic,
        &[Label::Upstream, Label::Reason],
        "Exchanges passed through without their tokens being read.",
    ),
    Row::new(
        Id::TimeToFirstToken,
        "time_to_first_token_seconds",
        Histogram(Buckets::Wait),
        Latency,
        &[Label::Model, Label::Upstream, Label::Dialect, Label::InputBand],
        "TTFT: from the request's head to the first event with a generated token (reasoning and tool calls included). 2xx streams only, recorded when the token comes.",
    )
    .with_exemplars(),
    Row::new(
        Id::TimeToFirstByte,
        "time_to_first_byte_seconds",
        Histogram(Buckets::Wait),
        Latency,
        &[Label::Model, Label::Upstream],
        "From the request's head to the first byte of the answer's body. 2xx streams only. Far below TTFT: the upstream answers early and makes tokens late.",
    ),
    Row::new(
        Id::TimeToFirstAnswerToken,
        "time_to_first_answer_token_seconds",
        Histogram(Buckets::Wait),
        Latency,
        &[Label::Model, Label::Upstream],
        "From the request's head to the first event with answer content or a tool call, reasoning not counted: what a user of a reasoning model waits for. 2xx streams only.",
    ),
    Row::new(
        Id::TimePerOutputToken,
        "time_per_output_token_seconds",
        Histogram(Buckets::TokenTime),
        Latency,
        &[Label::Model, Label::Upstream],
        "TPOT: time between first and last token event divided by the tokens after the first event. 2xx streams of one choice only.",
    )
    .with_exemplars(),
    Row::new(
        Id::OutputTokensPerSecond,
        "output_tokens_per_second",
        Histogram(Buckets::TokensPerSecond),
        Latency,
        &[Label::Model, Label::Upstream],
        "TPS of one request while it decodes: the inverse of its TPOT. For throughput take rate(output_tokens_total).",
    ),
    Row::new(
        Id::LongestTokenGap,
        "longest_token_gap_seconds",
        Histogram(Buckets::Wait),
        Latency,
        &[Label::Model, Label::Upstream],
        "The worst stall of each stream: the longest time between two token events. 2xx streams with two or more.",
    ),
    Row::new(
        Id::RequestDuration,
        "request_duration_seconds",
        Histogram(Buckets::Duration),
        Latency,
        &[Label::Model, Label::Upstream, Label::Dialect, Label::Stream, Label::Outcome],
        "From the request's head to the end of the answer, of every exchange. Filter on outcome, or quick failures flatter the percentiles.",
    )
    .with_exemplars(),
    Row::new(
        Id::UpstreamConnect,
        "upstream_connect_seconds",
        Histogram(Buckets::Connect),
        Latency,
        &[Label::Upstream],
        "Time to make a connection to the upstream, TLS included; new connections only.",
    ),
    Row::new(
        Id::ProxyOverhead,
        "proxy_overhead_seconds",
        Histogram(Buckets::Overhead),
        Latency,
        &[Label::Phase],
        "What the sidecar itself cost an exchange: until the request was handed to a connection (connecting excluded), and all the time spent looking at its answer.",
    ),
    Row::new(
        Id::InputTokens,
        "input_tokens_total",
        Counter,
        Tokens,
        &[Label::Tenant, Label::Model, Label::Upstream],
        "Input tokens of accepted requests, cached ones included; of streams from their heads on, by estimate (unsettled_tokens), exact when they end. Unknown counts add nothing: see token_counts_total.",
    )
    .there_from_start(),
    Row::new(
        Id::OutputTokens,
        "output_tokens_total",
        Counter,
        Tokens,
        &[Label::Tenant, Label::Model, Label::Upstream],
        "Output tokens of accepted requests, reasoning included; of streams while they flow, by estimate (unsettled_tokens), exact when they end. Unknown counts add nothing: see token_counts_total.",
    )
    .there_from_start(),
    Row::new(
        Id::CacheReadInputTokens,
        "cache_read_input_tokens_total",
        Counter,
        Tokens,
        &[Label::Tenant, Label::Model, Label::Upstream],
        "Input tokens that the upstream read from its prompt cache: a part of input_tokens_total, never to be added to it.",
    )
    .there_from_start(),
    Row::new(
        Id::CacheWriteInputTokens,
        "cache_write_input_tokens_total",
        Counter,
        Tokens,
        &[Label::Tenant, Label::Model, Label::Upstream],
        "Input tokens that the upstream wrote to its prompt cache: a part of input_tokens_total, never to be added to it.",
    )
    .there_from_start(),
    Row::new(
        Id::ReasoningOutputTokens,
        "reasoning_output_tokens_total",
        Counter,
        Tokens,
        &[Label::Tenant, Label::Model, Label::Upstream],
        "Output tokens spent on reasoning: a part of output_tokens_total, never to be added to it.",
    )
    .there_from_start(),
    Row::new(
        Id::TokenCounts,
        "token_counts_total",
        Counter,
        Tokens,
        &[Label::Tenant, Label::Model, Label::Direction, Label::Source],
        "2xx generations by how their tokens were counted. A share of \"missing\" is the share of traffic that the token counters do not see.",
    )
    .there_from_start(),
    Row::new(
        Id::UnreportedTokens,
        "unreported_tokens_total",
        Counter,
        Tokens,
        &[Label::Tenant, Label::Model, Label::Direction, Label::Source],
        "Tokens that we counted or estimated because the upstream did not report them: a part of input_tokens_total and output_tokens_total, never to be added to them.",
    )
    .there_from_start(),
    Row::new(
        Id::TokenAuditRatio,
        "token_audit_ratio",
        Histogram(Buckets::Ratio),
        Tokens,
        &[Label::Model, Label::Direction],
        "Our tokenizer's count / the reported one, of a sample of exchanges that have both (metrics.token_audit). Not 1: another tokenizer serves, or the bill has tokens that no text shows.",
    ),
    Row::new(
        Id::UnsettledTokens,
        "unsettled_tokens",
        Gauge,
        Tokens,
        &[Label::Direction, Label::State],
        "live: tokens that running streams have added to the token counters by estimate, to be settled at their ends. owed: what was added too much, to be taken from what the same series grow by next.",
    ),
    Row::new(
        Id::OutputChunks,
        "output_chunks_total",
        Counter,
        Tokens,
        &[Label::Upstream],
        "Token events forwarded, counted as they pass. A chunk is not a token; its rate says whether streams are moving at all.",
    ),
    Row::new(
        Id::UsageInjections,
        "usage_injections_total",
        Counter,
        Tokens,
        &[Label::Upstream, Label::Action],
        "Streams of upstreams with inject_usage: asked for their usage, its event cut out again, refused and sent once more as they were written, or too_large to be read ahead and edited.",
    ),
    Row::new(
        Id::RequestInputTokens,
        "request_input_tokens",
        Histogram(Buckets::Tokens),
        Tokens,
        &[Label::Model],
        "Input tokens of each accepted request whose count is known.",
    ),
    Row::new(
        Id::RequestOutputTokens,
        "request_output_tokens",
        Histogram(Buckets::Tokens),
        Tokens,
        &[Label::Model],
        "Output tokens of each accepted request whose count is known.",
    ),
    Row::new(
        Id::ReservedTokens,
        "reserved_tokens_total",
        Counter,
        Tokens,
        &[Label::Tenant, Label::Model],
        "Input tokens (estimated) and the most output tokens that each request asked for: what a quota charges that reserves at admission, refused requests included.",
    )
    .there_from_start(),
    Row::new(
        Id::TokensPerMinute,
        "tokens_per_minute",
        Histogram(Buckets::TokensPerMinute),
        Tokens,
        &[Label::Tenant, Label::Model],
        "Input and output tokens of each minute of the wall clock that had any, once it is over.",
    ),
    Row::new(
        Id::TokensLastMinute,
        "tokens_last_minute",
        Gauge,
        Tokens,
        &[Label::Tenant, Label::Model],
        "Input and output tokens that flowed in the last 60 seconds.",
    )
    .there_from_start(),
    Row::new(
        Id::Cost,
        "cost_total",
        Counter,
        Cost,
        &[Label::Tenant, Label::Model, Label::Upstream, Label::Currency],
        "What exchanges cost, in the currency's unit, counted when they end; only where a price is known (unpriced_requests_total) and the tokens are. Exact in the request log, here to the nearest double.",
    )
    .of_money(),
    Row::new(
        Id::UnpricedRequests,
        "unpriced_requests_total",
        Counter,
        Cost,
        &[Label::Model],
        "Accepted requests for tokens without a cost though prices are configured: their model has none at that time, or nobody knows their tokens. cost_total lacks them.",
    ),
    Row::new(
        Id::PricePerMillionTokens,
        "price_per_million_tokens",
        Gauge,
        Cost,
        &[Label::Model, Label::Kind, Label::Currency],
        "What a million tokens cost at the scrape, of each model that is configured or was seen and has a price; in its ordinary tier and for prompts of ordinary length.",
    ),
    Row::new(
        Id::AlternativeCost,
        "alternative_cost_total",
        Counter,
        Cost,
        &[Label::Tenant, Label::Model, Label::Alternative, Label::Currency],
        "What the same tokens would have cost at another configured model (models[].alternatives). Another tokenizer would count them a little differently.",
    )
    .of_money(),
    Row::new(
        Id::BuildInfo,
        "build_info",
        Gauge,
        Sidecar,
        &[Label::Version],
        "Always 1; the labels say what is running.",
    ),
    Row::new(
        Id::ReloadSuccessful,
        "config_last_reload_successful",
        Gauge,
        Sidecar,
        &[],
        "1 if the configuration on disk is the one in force, 0 if the last reload was refused: the log says why.",
    ),
    Row::new(
        Id::ReloadSuccessTime,
        "config_last_reload_success_timestamp_seconds",
        Gauge,
        Sidecar,
        &[],
        "When the configuration in force was loaded, as Unix time.",
    ),
    Row::new(
        Id::UndecodableEvents,
        "undecodable_events_total",
        Counter,
        Sidecar,
        &[Label::Dialect],
        "Events of answers that could not be read as what their dialect says. They went through unchanged; tokens in them are unseen.",
    ),
    Row::new(
        Id::ObservationFailures,
        "observation_failures_total",
        Counter,
        Sidecar,
        &[Label::Reason],
        "Exchanges on which observation gave up while their traffic went on.",
    ),
    Row::new(
        Id::RecordsDropped,
        "records_dropped_total",
        Counter,
        Sidecar,
        &[Label::Stage],
        "Records of exchanges that were lost because a queue was full. Traffic is unharmed; numbers lack these exchanges.",
    ),
    Row::new(
        Id::LabelOverflow,
        "label_overflow_total",
        Counter,
        Sidecar,
        &[Label::Label],
        "Exchanges whose tenant or model had no series of its own left and went to \"other\". Sums are exact; raise the limit or list the names as known.",
    ),
    Row::new(
        Id::Series,
        "series",
        Gauge,
        Sidecar,
        &[],
        "Time series on this page, histogram buckets and this one included: what one scrape of this instance costs Prometheus.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_where_its_id_says() {
        for (place, row) in TABLE.iter().enumerate() {
            assert_eq!(row.id as usize, place, "{}", row.name);
        }
        assert_eq!(Id::Series as usize, TABLE.len() - 1);
    }

    #[test]
    fn names_follow_the_conventions() {
        for row in TABLE {
            assert_eq!(row.name.ends_with("_total"), row.kind == Counter, "{}", row.name);
            assert!(row.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", row.name);
            assert!(!row.help.contains('\n') && row.help.ends_with('.'), "{}", row.name);
            assert!(!row.exemplars || matches!(row.kind, Histogram(_)), "{}", row.name);
            let twin = |other: &&Row| other.name == row.name;
            assert_eq!(TABLE.iter().filter(twin).count(), 1, "{}", row.name);
        }
    }
}
