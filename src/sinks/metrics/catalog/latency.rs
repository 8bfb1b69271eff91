//! Time.

use super::super::buckets::Buckets;
use super::super::id::Id;
use super::super::labels::Label;
use super::super::row::{Kind, Row, Section};
use Kind::Histogram;
use Section::Latency;

pub(super) static ROWS: &[Row] = &[
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
];
