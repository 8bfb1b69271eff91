//! Tokens, and tokens per minute.

use super::super::buckets::Buckets;
use super::super::id::Id;
use super::super::labels::Label;
use super::super::row::{Kind, Row, Section};
use Kind::{Counter, Gauge, Histogram};
use Section::Tokens;

pub(super) static ROWS: &[Row] = &[
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
        "Streams of upstreams with inject_usage: asked for their usage, its event cut out again, refused and sent once more as they were written, or too_large or too_slow to be read ahead and edited.",
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
        Id::TpmLimit,
        "tpm_limit",
        Gauge,
        Tokens,
        &[Label::Tenant, Label::Model],
        "Tokens that a limit of ours lets a tenant use in any 60 seconds; model \"*\": of all models together. The lowest, where several limit the same.",
    ),
    Row::new(
        Id::TpmUsed,
        "tpm_used",
        Gauge,
        Tokens,
        &[Label::Tenant, Label::Model],
        "Tokens that count against tpm_limit now: what requests of the last minute came to or may come to yet, and what is owed from before. Divide the two; the labels match.",
    ),
    Row::new(
        Id::TpmLimitHits,
        "tpm_limit_hits_total",
        Counter,
        Tokens,
        &[Label::Tenant, Label::Model, Label::Action],
        "Requests for which a limit of ours had no room: observed (it is only counted), delayed or rejected. The upstream's own 429 are requests_total{code=\"429\",outcome=\"upstream_refused\"}.",
    )
    .there_from_start(),
    Row::new(
        Id::TpmDelay,
        "tpm_delay_seconds",
        Histogram(Buckets::Wait),
        Tokens,
        &[Label::Tenant, Label::Model],
        "How long requests were held until a limit of ours had room, or they were refused after all.",
    ),
    Row::new(
        Id::LimitStoreUp,
        "limit_store_up",
        Gauge,
        Tokens,
        &[],
        "1 while limit_store answers, 0 while each replica holds its tenants to its own share of their limits. Not there where limits are kept in memory.",
    ),
    Row::new(
        Id::LimitStoreFallbacks,
        "limit_store_fallbacks_total",
        Counter,
        Tokens,
        &[],
        "Decisions on limits that were made by this replica's share of them, because limit_store did not answer.",
    ),
    Row::new(
        Id::UpstreamLimit,
        "upstream_ratelimit_limit",
        Gauge,
        Tokens,
        &[Label::Upstream, Label::Model, Label::Kind],
        "What the upstream says its rate limit is (x-ratelimit-limit-*, anthropic-ratelimit-*-limit), as of the newest answer that has ended.",
    ),
    Row::new(
        Id::UpstreamLimitRemaining,
        "upstream_ratelimit_remaining",
        Gauge,
        Tokens,
        &[Label::Upstream, Label::Model, Label::Kind],
        "What the upstream says is left of its rate limit, as of the newest answer that has ended. Its refusals are requests_total{code=\"429\",outcome=\"upstream_refused\"}.",
    ),
    Row::new(
        Id::UpstreamLimitReset,
        "upstream_ratelimit_reset_seconds",
        Gauge,
        Tokens,
        &[Label::Upstream, Label::Model, Label::Kind],
        "Until what the upstream says is left is whole again, counted down to the scrape; 0 once that time is over.",
    ),
];
