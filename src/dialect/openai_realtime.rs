//! OpenAI Realtime: the responses of a session over WebSocket, `GET …/realtime`. Which of a session's events belong to
//! which response is [`super::conversation`]'s to say; here is what they tell of it.
//!
//! Format: <https://platform.openai.com/docs/api-reference/realtime-server-events>, in the names of today and those of
//! the beta. The mark is `response.done`. Absent: sessions that only transcribe or translate, for nothing in them is a
//! response, and what a response was asked with before its `response.create`, for the session holds that.

use std::sync::LazyLock;

use super::lenient::{Few, Fragment, Number, Word, member};
use super::openai_responses::{self, Item, is_call};
use super::{DeltaKind, Dialect, RequestFacts, Signal, openai};
use crate::exchange::{DialectId, FinishReason, Usage};
use crate::wire::json::{self, object};
use crate::wire::{Event, Members, Wanted};

static REQUEST: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&["response.max_output_tokens"], &[]));
static BODY: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&["error"], &[]));

/// The API.
#[derive(Debug)]
pub(super) struct OpenaiRealtime;

impl Dialect for OpenaiRealtime {
    fn id(&self) -> DialectId {
        DialectId("openai_realtime")
    }

    /// No request by itself is a response: see [`super::conversation`].
    fn matches(&self, _: &str, _: &str) -> bool {
        false
    }

    fn request_members(&self) -> &'static Wanted {
        &REQUEST
    }

    fn request(&self, members: &Members) -> RequestFacts {
        let max_output = openai::most(members, "response.max_output_tokens");
        RequestFacts { stream: true, choices: 1, max_output, ..RequestFacts::default() }
    }

    fn body_members(&self) -> &'static Wanted {
        &BODY
    }

    /// A response that was refused has an error and nothing else.
    fn body(&self, members: &Members, emit: &mut dyn FnMut(Signal<'_>)) {
        if let Some(error) = members.last("error") {
            emit(Signal::Failed(&openai::error_class(error)));
        }
    }

    fn event(&self, event: &Event<'_>, emit: &mut dyn FnMut(Signal<'_>)) {
        match json::read_bytes::<Envelope<'_>>(event.data) {
            Some(envelope) => envelope.tell(emit),
            None => emit(Signal::Undecodable),
        }
    }

    fn knows_prompts(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct Envelope<'a> {
    kind: Word<'a>,
    delta: Option<&'a str>,
    item: Option<&'a str>,
    response: Option<&'a str>,
}

object!(Envelope<'a> { kind = "type", delta, item, response });

impl Envelope<'_> {
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        let kind = self.kind.as_str().unwrap_or_default();
        if let Some(channel) = kind.strip_suffix(".delta").and_then(channel) {
            if let Some(text) = self.delta.and_then(Fragment::of) {
                emit(Signal::Delta { choice: 0, text, tokens: None, kind: channel });
            }
            return;
        }
        match kind {
            "response.created" => {
                if let Some(id) = member::<Answer<'_>>(self.response).id.as_str() {
                    emit(Signal::UpstreamId(id));
                }
            }
            "response.output_item.added" => {
                if let Some(name) = member::<Item<'_>>(self.item).name.and_then(Fragment::of) {
                    emit(Signal::Delta { choice: 0, text: name, tokens: None, kind: DeltaKind::ToolCall });
                }
            }
            "response.done" => member::<Answer<'_>>(self.response).tell(emit),
            _ => {}
        }
    }
}

/// The channel of a delta, by its event's name without its end. A transcript is what the sound says.
fn channel(of: &str) -> Option<DeltaKind> {
    match of {
        "response.text" | "response.audio_transcript" | "response.output_audio_transcript" => {
            Some(DeltaKind::Content)
        }
        _ => openai_responses::channel(of),
    }
}

#[derive(Default)]
struct Answer<'a> {
    id: Word<'a>,
    status: Word<'a>,
    status_details: Option<Details<'a>>,
    usage: Option<&'a str>,
    output: Few<Item<'a>>,
}

object!(Answer<'a> { id, status, status_details, usage, output });

#[derive(Default)]
struct Details<'a> {
    reason: Word<'a>,
    error: Option<&'a str>,
}

object!(Details<'a> { reason, error });

impl Answer<'_> {
    /// Says what a response tells that is over. One that was cancelled has no mark: it is not complete, and that is
    /// nobody's failure.
    fn tell(&self, emit: &mut dyn FnMut(Signal<'_>)) {
        tell_usage(self.usage, emit);
        let details = self.status_details.as_ref();
        let calls = self.output.iter().any(|item| item.kind.as_str().is_some_and(is_call));
        let reason = match self.status.as_str() {
            Some("failed") => {
                let error = details.and_then(|details| details.error);
                let class = error.map(openai::error_class);
                return emit(Signal::Failed(class.as_deref().unwrap_or("error")));
            }
            Some("cancelled") => return emit(Signal::Finish { choice: 0, reason: FinishReason::Other }),
            Some("incomplete") => match details.and_then(|details| details.reason.as_str()) {
                Some("max_output_tokens") => FinishReason::Length,
                Some("content_filter") => FinishReason::ContentFilter,
                _ => FinishReason::Other,
            },
            _ if calls => FinishReason::ToolCalls,
            _ => FinishReason::Stop,
        };
        emit(Signal::Finish { choice: 0, reason });
        emit(Signal::Done);
    }
}

#[derive(Default)]
struct UsageBody {
    input_tokens: Number,
    output_tokens: Number,
    input_token_details: Option<InputDetails>,
    output_token_details: Option<Sound>,
}

object!(UsageBody { input_tokens, output_tokens, input_token_details, output_token_details });

#[derive(Default)]
struct InputDetails {
    cached_tokens: Number,
    audio_tokens: Number,
    cached_tokens_details: Option<Sound>,
}

object!(InputDetails { cached_tokens, audio_tokens, cached_tokens_details });

#[derive(Default)]
struct Sound {
    audio_tokens: Number,
}

object!(Sound { audio_tokens });

/// Of the sound that was sent, what came from the cache is told with the cache and not with the sound: it has the cache's
/// price, and every token is priced once.
fn tell_usage(usage: Option<&str>, emit: &mut dyn FnMut(Signal<'_>)) {
    let body = usage.and_then(json::read::<UsageBody>);
    let Some(body) = body else { return };
    let input = body.input_token_details.unwrap_or_default();
    let cached_sound = input.cached_tokens_details.and_then(|cached| cached.audio_tokens.0).unwrap_or(0);
    let usage = Usage {
        input: body.input_tokens.0,
        cache_read: input.cached_tokens.0,
        audio_input: input.audio_tokens.0.map(|sound| sound.saturating_sub(cached_sound)),
        output: body.output_tokens.0,
        audio_output: body.output_token_details.unwrap_or_default().audio_tokens.0,
        ..Usage::default()
    };
    if !usage.is_empty() {
        emit(Signal::Usage(usage));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(json: &str) -> Vec<String> {
        let mut said = Vec::new();
        OpenaiRealtime.event(&Event { name: None, data: json.as_bytes() }, &mut |signal| {
            said.push(format!("{signal:?}"))
        });
        said
    }

    #[test]
    fn every_channel_of_a_delta() {
        for (kind, want) in [
            ("output_text", Some(DeltaKind::Content)),
            ("text", Some(DeltaKind::Content)),
            ("output_audio_transcript", Some(DeltaKind::Content)),
            ("audio_transcript", Some(DeltaKind::Content)),
            ("output_audio", Some(DeltaKind::Audio)),
            ("audio", Some(DeltaKind::Audio)),
            ("function_call_arguments", Some(DeltaKind::ToolCall)),
            ("mcp_call_arguments", Some(DeltaKind::ToolCall)),
            ("something_new", None),
        ] {
            assert_eq!(channel(&format!("response.{kind}")), want, "{kind}");
            let said =
                tell(&format!(r#"{{"type":"response.{kind}.delta","response_id":"r","delta":"abc"}}"#));
            assert_eq!(said.len(), usize::from(want.is_some()), "{kind}: {said:?}");
        }
        assert!(
            tell(r#"{"type":"conversation.item.input_audio_transcription.delta","delta":"abc"}"#).is_empty()
        );
        assert_eq!(tell("{"), ["Undecodable"]);
    }

    #[test]
    fn cached_sound_is_told_once() {
        let usage = r#"{"total_tokens":253,"input_tokens":132,"output_tokens":121,
            "input_token_details":{"text_tokens":119,"audio_tokens":13,"image_tokens":0,"cached_tokens":64,
                "cached_tokens_details":{"text_tokens":60,"audio_tokens":4,"image_tokens":0}},
            "output_token_details":{"text_tokens":30,"audio_tokens":91}}"#;
        let want = Usage {
            input: Some(132),
            cache_read: Some(64),
            audio_input: Some(9),
            output: Some(121),
            audio_output: Some(91),
            ..Usage::default()
        };
        let done =
            format!(r#"{{"type":"response.done","response":{{"status":"completed","usage":{usage}}}}}"#);
        assert_eq!(
            tell(&done),
            [format!("Usage({want:?})"), "Finish { choice: 0, reason: Stop }".to_owned(), "Done".to_owned()]
        );
    }

    #[test]
    fn every_way_to_end() {
        let finish = |reason: &str| format!("Finish {{ choice: 0, reason: {reason} }}");
        let done = || "Done".to_owned();
        for (response, want) in [
            (r#"{"status":"completed","output":[{"type":"message"}]}"#, vec![finish("Stop"), done()]),
            (
                r#"{"status":"completed","output":[{"type":"message"},{"type":"function_call","name":"f"}]}"#,
                vec![finish("ToolCalls"), done()],
            ),
            (
                r#"{"status":"incomplete","status_details":{"type":"incomplete","reason":"max_output_tokens"}}"#,
                vec![finish("Length"), done()],
            ),
            (
                r#"{"status":"incomplete","status_details":{"type":"incomplete","reason":"content_filter"}}"#,
                vec![finish("ContentFilter"), done()],
            ),
            (r#"{"status":"incomplete","status_details":null}"#, vec![finish("Other"), done()]),
            (
                r#"{"status":"cancelled","status_details":{"type":"cancelled","reason":"turn_detected"}}"#,
                vec![finish("Other")],
            ),
            (
                r#"{"status":"failed","status_details":{"type":"failed","error":{"type":"server_error","code":"x"}}}"#,
                vec!["Failed(\"server_error\")".to_owned()],
            ),
            (r#"{"status":"failed","status_details":{"error":null}}"#, vec!["Failed(\"error\")".to_owned()]),
        ] {
            let event = format!(r#"{{"type":"response.done","event_id":"e","response":{response}}}"#);
            assert_eq!(tell(&event), want, "{response}");
        }
    }
}
