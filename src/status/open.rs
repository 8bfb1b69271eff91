//! Open exchanges: how far each has come, and which are the oldest.

use std::sync::Arc;

use serde::Serialize;

use super::{OPEN_SHOWN, seconds, shown};
use crate::account::model::Models;
use crate::clock::Moment;
use crate::exchange::Name;
use crate::live::{Live, Stage};

/// How far an exchange has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its request is read to the end before it is sent.
    Receiving,
    /// A limit of ours holds it, or counts it.
    Held,
    /// It waits for a connection to the upstream.
    Connecting,
    /// The upstream takes the request, as fast as it and the client can.
    Sending,
    /// The upstream has all of it, and owes the first token.
    AwaitingFirstToken,
    /// The upstream has all of it, and owes an answer that is no stream.
    AwaitingAnswer,
    /// Tokens come.
    Streaming,
    /// An answer that is no stream, or is not understood, comes.
    Answering,
}

impl State {
    fn of(live: &Live) -> Self {
        match (live.code(), live.stage()) {
            _ if live.first_token().is_some() => Self::Streaming,
            _ if live.awaiting_since().is_some() => Self::AwaitingFirstToken,
            (Some(_), _) => Self::Answering,
            (None, Stage::Sent) => Self::AwaitingAnswer,
            (None, Stage::Sending) => Self::Sending,
            (None, Stage::Connecting) => Self::Connecting,
            (None, Stage::Held) => Self::Held,
            (None, Stage::Receiving) => Self::Receiving,
        }
    }

    /// Its place among those that are shown: who may hang before who is served.
    const fn rank(self) -> u8 {
        match self {
            Self::AwaitingFirstToken => 0,
            Self::Receiving | Self::Held | Self::Connecting | Self::Sending => 1,
            Self::Streaming => 2,
            Self::AwaitingAnswer | Self::Answering => 3,
        }
    }

    /// In words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Held => "held by a limit",
            Self::Connecting => "connecting",
            Self::Sending => "sending",
            Self::AwaitingFirstToken => "awaiting first token",
            Self::AwaitingAnswer => "awaiting answer",
            Self::Streaming => "streaming",
            Self::Answering => "answering",
        }
    }
}

/// An open exchange. What is unknown is absent.
#[derive(Debug, Serialize)]
pub struct OpenExchange {
    /// As in the request log, once it has ended.
    pub request_id: String,
    /// The trace that the client's `traceparent` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Who asks.
    pub tenant: String,
    /// The configured model that the requested one matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// As the client wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_requested: Option<String>,
    /// The upstream's name.
    pub upstream: String,
    /// The API.
    pub dialect: &'static str,
    /// Whether a stream is asked for, or comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// How far it has come.
    pub state: State,
    /// The answer's status, once its head has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Since its request's head.
    pub age_seconds: f64,
    /// How long the first token took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_seconds: Option<f64>,
    /// Since tokens came last; up to a quarter of a second too small.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_last_token_seconds: Option<f64>,
    /// Token events so far.
    pub chunks: u64,
}

/// The oldest, those first that wait for their first token.
pub(super) fn oldest(open: &[Arc<Live>], models: &Models, now: Moment) -> Vec<OpenExchange> {
    let place = |live: &Arc<Live>| (State::of(live).rank(), live.origin.started, live.origin.number);
    // Kept, for it may change while they are sorted.
    let mut all: Vec<_> = open.iter().map(|live| (place(live), live)).collect();
    if all.len() > OPEN_SHOWN {
        all.select_nth_unstable_by_key(OPEN_SHOWN - 1, |(place, _)| *place);
        all.truncate(OPEN_SHOWN);
    }
    all.sort_unstable_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, live)| OpenExchange::of(live, models, now)).collect()
}

impl OpenExchange {
    fn of(live: &Live, models: &Models, now: Moment) -> Self {
        let origin = &live.origin;
        let requested = live.requested();
        Self {
            request_id: shown(&origin.request_id),
            trace_id: origin.trace_id.as_ref().map(Name::to_string),
            tenant: shown(&origin.tenant),
            model: models.names(requested, None).configured.as_ref().map(shown),
            model_requested: requested.map(shown),
            upstream: shown(&origin.upstream),
            dialect: origin.dialect.0,
            stream: live.is_stream(),
            state: State::of(live),
            code: live.code(),
            age_seconds: seconds(now.since(origin.started)),
            ttft_seconds: live.first_token().map(|(at, _)| seconds(at.since(origin.started))),
            since_last_token_seconds: live.last_token(now).map(|at| seconds(now.since(at))),
            chunks: live.events(),
        }
    }
}
