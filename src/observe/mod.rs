//! The state machine of one exchange: bytes and moments in, an [`Observation`] out. The only caller of
//! dialects. Says *when*; never how many tokens were not reported, what they cost or where numbers go.
//! No I/O, no clock, no log; nothing here can fail.

mod choices;
mod head;
mod kept;
mod observation;
mod reader;
mod request;
mod session;
mod trace;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::dialect::{DeltaKind, Dialect, PathFacts, RequestFacts, Signal};
use crate::exchange::{Clocks, Ending, Name, Unobserved, Usage};
use crate::wire::{Budget, Decoder, Event, Framed, Skim};
use choices::{CHOICES, Choices, Each};
use kept::Keeping;
use reader::Answer;

pub use head::Head;
pub use kept::{Keeps, Kept, Output};
pub use observation::{Observation, Text};
pub use session::{Session, Side, Start, Turn, Unread};
pub use trace::{Step, Trace};

/// What a chunk of an answer brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The first token of the stream was in it.
    pub first_token: bool,
    /// Token events that it completed.
    pub token_events: u64,
}

/// Watches one exchange.
#[derive(Debug)]
pub struct Observer {
    dialect: Option<&'static dyn Dialect>,
    /// Boxed, as a whole answer's: a stream that runs for minutes has neither.
    request: Option<Box<Skim>>,
    /// Takes the request's body out of its encoding, where it has one.
    request_decoder: Option<Box<Decoder>>,
    answer: Answer,
    decoder: Option<Decoder>,
    /// What decoding may hold; none: a budget of its own.
    budget: Option<Arc<Budget>>,
    /// Keeps the text, as long as somebody may want to count it.
    keeping: Option<Box<Keeping>>,
    /// Boxed, for it changes hands many times on its way to be settled.
    seen: Box<Observation>,
    ended: Choices,
    present: Choices,
    /// What a dialect tells of each choice by itself.
    each: Each,
    /// What the request's path told, where it tells anything.
    path: Option<Box<PathFacts>>,
    /// Told of every step, where somebody wants an explanation.
    trace: Option<Box<dyn Trace>>,
}

impl std::fmt::Debug for dyn Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id().0)
    }
}

impl Observer {
    /// Begins to watch an exchange that began at `started`. `dialect` is what its path says, or why nothing.
    pub fn new(dialect: Result<&'static dyn Dialect, Unobserved>, started: Moment) -> Self {
        let unobserved = dialect.err();
        let dialect = dialect.ok();
        let clocks = Clocks { started, ..Clocks::default() };
        Self {
            dialect,
            request: dialect.map(|dialect| Box::new(Skim::new(dialect.request_members()))),
            request_decoder: None,
            answer: Answer::Awaited,
            decoder: None,
            budget: None,
            keeping: None,
            seen: Box::new(Observation { clocks, unobserved, ..Observation::default() }),
            ended: Choices::default(),
            present: Choices::default(),
            each: Each::default(),
            path: None,
            trace: None,
        }
    }

    /// The same, of a request to this path (without query).
    #[must_use]
    pub fn on_path(mut self, path: &str) -> Self {
        let told = self.dialect.map(|dialect| dialect.path_facts(path));
        self.path = told.filter(|told| *told != PathFacts::default()).map(Box::new);
        self
    }

    /// The same, with somebody who is told of every step.
    #[must_use]
    pub fn traced(self, trace: Box<dyn Trace>) -> Self {
        Self { trace: Some(trace), ..self }
    }

    pub(super) fn tell(&mut self, step: Step<'_>, at: Moment) {
        if let Some(trace) = &mut self.trace {
            trace.step(step, at, &self.seen.clocks);
        }
    }

    /// What decoding its answer takes counts towards this budget, which others share.
    #[must_use]
    pub fn within(mut self, budget: Arc<Budget>) -> Self {
        self.budget = Some(budget);
        self
    }

    /// The text is to be kept where `keeps` says so, within a budget that others share.
    #[must_use]
    pub fn keeping(mut self, keeps: Arc<dyn Keeps>, budget: Arc<Budget>) -> Self {
        let keeping = |dialect: &dyn Dialect| Keeping::new(keeps, dialect.knows_prompts(), budget);
        self.keeping = self.dialect.map(|dialect| Box::new(keeping(dialect)));
        self
    }

    /// What was kept of the text, where there is a tokenizer for it; to be asked for after the end.
    pub fn take_kept(&mut self) -> Option<Kept> {
        self.keeping.take().and_then(|keeping| keeping.finish())
    }

    /// The request's last byte has been handed to the upstream. Gives what its body told.
    pub fn request_end(&mut self, at: Moment) -> Option<&RequestFacts> {
        self.seen.clocks.sent.get_or_insert(at);
        self.read_request();
        if let Some(trace) = &mut self.trace {
            let step = Step::Sent { bytes: self.seen.bytes_in, facts: self.seen.request.as_ref() };
            trace.step(step, at, &self.seen.clocks);
        }
        self.seen.request.as_ref()
    }

    /// What the request's body told so far.
    pub fn request_facts(&self) -> Option<&RequestFacts> {
        self.seen.request.as_ref()
    }

    /// What the part of the request's body told that has passed.
    pub fn request_so_far(&self) -> Option<Cow<'_, RequestFacts>> {
        let so_far = || {
            let told = self.dialect?.request(self.request.as_ref()?.so_far());
            Some(Cow::Owned(told.with(self.path.as_deref())))
        };
        self.seen.request.as_ref().map(Cow::Borrowed).or_else(so_far)
    }

    /// The model that the answer names, as far as it was read.
    pub fn served(&self) -> Option<&Name> {
        self.seen.served.as_ref()
    }

    /// Bytes of generated text, and what was reported of tokens, as far as the answer was read.
    pub fn told(&self) -> (u64, &Usage) {
        (self.seen.text_bytes.unwrap_or(0), &self.seen.usage)
    }

    /// When the request's last byte was handed to the upstream.
    pub fn sent(&self) -> Option<Moment> {
        self.seen.clocks.sent
    }

    /// Whether the answer is being read as a stream.
    pub fn is_streaming(&self) -> bool {
        self.answer.is_stream()
    }

    /// Bytes of the request's body that have passed.
    pub fn bytes_in(&self) -> u64 {
        self.seen.bytes_in
    }

    /// Whether a first token is to come, as far as is known: a stream was asked for, or is being read.
    pub fn awaits_token(&self) -> bool {
        match &self.answer {
            Answer::Awaited | Answer::Unclear { .. } => {
                self.seen.request.as_ref().is_some_and(|facts| facts.stream)
            }
            answer => answer.is_stream(),
        }
    }

    fn read_request(&mut self) {
        if let Some((skim, dialect)) = self.request.take().zip(self.dialect) {
            let facts = self.seen.request.insert(dialect.request(&skim.finish()).with(self.path.as_deref()));
            if let Some(keeping) = &mut self.keeping {
                keeping.request_end(facts.model.as_ref());
            }
        }
    }

    /// The client gets an answer of our own with this status, for an error of this class.
    pub fn own_answer(&mut self, status: u16, class: &str) {
        self.seen.closure.code = Some(status);
        self.seen.error_class = Some(error_class(class));
    }

    /// The answer's head has come.
    pub fn head(&mut self, head: &Head<'_>, at: Moment) {
        self.seen.clocks.head = Some(at);
        self.seen.closure.code = Some(head.status);
        self.seen.limits = (!head.limits.is_empty()).then(|| Box::new(head.limits));
        self.seen.upstream_request_id = head.request_id.map(|id| Name::bounded(id, ID_LIMIT));
        let media_type =
            head.content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim_ascii();
        self.seen.streamed = (reader::stream(media_type).is_some() || head.in_messages) && !head.bodiless;
        self.answer = self.reader(head, media_type);
        self.seen.text_bytes = self.answer.is_stream().then_some(0);
        if self.dialect.is_some() {
            self.head_tells(head);
        }
        self.tell(Step::Head(head), at);
    }

    /// The exchange has ended. What was seen is handed out: nothing more is to be asked of this observer.
    pub fn finish(&mut self, ending: Ending, at: Moment) -> Box<Observation> {
        self.seen.clocks.ended = at;
        self.read_request();
        self.read_end(ending, at);
        let ends_unmarked = self.dialect.is_some_and(Dialect::ends_without_mark);
        self.seen.closure.terminal |= ends_unmarked && ending == Ending::Clean && self.seen.streamed;
        self.seen.choices = self.choices();
        self.seen.closure.finished = self.seen.streamed && self.all_ended();
        std::mem::take(&mut self.seen)
    }

    /// Choices that were asked for, or seen if there were more.
    fn choices(&self) -> u32 {
        let asked = self.seen.request.as_ref().map_or(1, |facts| facts.choices.clamp(1, CHOICES));
        self.present.count().max(asked)
    }

    fn all_ended(&self) -> bool {
        self.ended.count() >= self.choices()
    }

    fn framed(&mut self, framed: &Framed<'_>, at: Moment) -> Seen {
        match framed {
            Framed::TooLarge => {
                self.seen.too_large += 1;
                self.lose_text();
                self.tell(Step::TooLarge, at);
                Seen::default()
            }
            Framed::Broken => {
                self.seen.undecodable += 1;
                self.lose_text();
                self.tell(Step::Broken, at);
                Seen::default()
            }
            Framed::Event(event) => {
                self.tell(Step::Event(event), at);
                let seen = self.event(event, at);
                self.tell(Step::Read, at);
                seen
            }
        }
    }

    fn event(&mut self, event: &Event<'_>, at: Moment) -> Seen {
        let Some(dialect) = self.dialect else { return Seen::default() };
        let mut tokens = Tokens::default();
        dialect.event(event, &mut |signal| tokens.add(self.take(&signal)));
        if !tokens.any {
            return Seen::default();
        }
        self.seen.chunks += 1;
        self.seen.outran_usage = tokens.reported.is_none();
        let clocks = &mut self.seen.clocks;
        let first_token = clocks.first_token.is_none();
        if first_token {
            clocks.first_token = Some(at);
            // Continuous usage in the event itself is what its deltas did not tell.
            let told = tokens.told.filter(|n| *n > 0);
            clocks.first_event_tokens = told.or(tokens.reported).filter(|n| *n > 0);
            if let Some(keeping) = &mut self.keeping {
                keeping.end_first_event();
            }
        }
        if tokens.answer {
            clocks.first_answer.get_or_insert(at);
        }
        if let Some(last) = clocks.last_token.replace(at) {
            let gap: Duration = at.since(last);
            clocks.longest_gap = clocks.longest_gap.max(Some(gap));
        }
        Seen { first_token, token_events: 1 }
    }

    /// Takes what a dialect says; gives what it means for the clocks of tokens.
    fn take(&mut self, signal: &Signal<'_>) -> Tokens {
        if let Signal::TextSoFar { choice, text } = *signal {
            let Some(text) = self.each.news(choice, text) else { return Tokens::default() };
            return self.take(&Signal::Delta { choice, text, tokens: None, kind: DeltaKind::Content });
        }
        if let Some(trace) = &mut self.trace {
            trace.says(signal);
        }
        match *signal {
            Signal::Delta { choice, tokens, kind, text } => {
                self.present.insert(choice);
                let bytes = (kind != DeltaKind::Audio).then(|| text.bytes());
                if let Some(keeping) = &mut self.keeping
                    && !keeping.delta(names(&self.seen), choice, kind, text)
                {
                    self.keeping = None;
                }
                self.seen.text_bytes =
                    self.seen.text_bytes.zip(bytes).map(|(all, more)| all.saturating_add(more));
                let answer = kind != DeltaKind::Reasoning;
                self.seen.shows_reasoning |= !answer;
                return Tokens { any: true, answer, told: tokens.map(u64::from), reported: None };
            }
            Signal::Model(model) => {
                self.seen.served.get_or_insert_with(|| Name::bounded(model, MODEL_LIMIT));
            }
            Signal::UpstreamId(id) => {
                self.seen.upstream_request_id.get_or_insert_with(|| Name::bounded(id, ID_LIMIT));
            }
            Signal::Tier(tier) => {
                let tier = Name::bounded(tier, ID_LIMIT);
                self.seen.tier = Some(tier); // a wish first, what it came to at the end
            }
            Signal::Text { bytes } => self.seen.text_bytes = Some(bytes),
            Signal::Usage(usage) => {
                self.seen.usage.update(usage);
                self.seen.outran_usage &= usage.output.is_none();
                return Tokens { reported: usage.output, ..Tokens::default() };
            }
            Signal::ChoiceUsage { choice, usage } => {
                let share = self.seen.request.as_ref().map_or(1, |facts| facts.choices_a_prompt);
                let all = self.each.report(choice, usage, share);
                self.seen.usage.update(all);
                self.seen.outran_usage &= all.output.is_none();
                return Tokens { reported: all.output, ..Tokens::default() };
            }
            Signal::TextSoFar { .. } => {} // told above, as what is new in it
            Signal::Finish { choice, reason } => {
                self.present.insert(choice);
                if self.ended.insert(choice) {
                    self.seen.finish_reasons.push(reason);
                }
            }
            Signal::Failed(class) => {
                self.seen.closure.failed = true;
                self.seen.error_class.get_or_insert_with(|| error_class(class));
            }
            Signal::Done => self.seen.closure.terminal = true,
            Signal::ChoiceDone => self.seen.closure.terminal |= self.all_ended(),
            Signal::Undecodable => self.seen.undecodable += 1,
        }
        Tokens::default()
    }
}

/// The names of an exchange's model: the one asked for, and the one that serves.
fn names(seen: &Observation) -> (Option<&Name>, Option<&Name>) {
    (seen.request.as_ref().and_then(|facts| facts.model.as_ref()), seen.served.as_ref())
}

impl Observer {
    fn keep_body(&mut self, bytes: &[u8]) {
        if let Some(keeping) = &mut self.keeping {
            keeping.body_chunk(names(&self.seen), bytes);
        }
    }

    /// Text has passed that was not read: how much there was is no longer known.
    fn lose_text(&mut self) {
        self.seen.text_bytes = None;
        if let Some(keeping) = &mut self.keeping {
            keeping.lose_output();
        }
    }
}

impl Seen {
    fn add(&mut self, more: Seen) {
        self.first_token |= more.first_token;
        self.token_events += more.token_events;
    }
}

/// What one event said of tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Tokens {
    any: bool,
    answer: bool,
    /// How many its deltas say they are.
    told: Option<u64>,
    /// Output so far by the usage in it.
    reported: Option<u64>,
}

impl Tokens {
    fn add(&mut self, more: Tokens) {
        self.any |= more.any;
        self.answer |= more.answer;
        self.reported = more.reported.or(self.reported);
        self.told = match (self.told, more.told) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (a, b) => a.or(b),
        };
    }
}

const MODEL_LIMIT: usize = 128; // a label's longest value; beyond it a name is cut
const ID_LIMIT: usize = 128; // ids of known servers have up to 64 bytes
const CLASS_LIMIT: usize = 64; // the longest known class has 34 bytes

/// A class as it may stand in a log: a word such as `rate_limit_exceeded`, `BadRequestError` or `http_429`. Never a
/// sentence, and never a key, which some servers repeat: those have both cases and digits, or many digits.
pub(crate) fn error_class(class: &str) -> Name {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let digits = class.bytes().filter(u8::is_ascii_digit).count();
    let [upper, lower] =
        [u8::is_ascii_uppercase, u8::is_ascii_lowercase].map(|is| class.bytes().any(|b| is(&b)));
    let looks_like_key = digits > 3 || digits > 0 && upper && lower || upper && class.contains('-');
    let fits = class.len() <= CLASS_LIMIT && !class.is_empty() && class.bytes().all(is_word);
    Name::from(if fits && !looks_like_key { class } else { "other" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect;
    use crate::exchange::Outcome;

    fn at(millis: u64) -> Moment {
        Moment::new(Duration::from_millis(millis))
    }

    fn chat() -> Observer {
        let mut observer = Observer::new(dialect::find("POST", "/v1/chat/completions"), at(0));
        observer.request_chunk(br#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#);
        observer.request_end(at(1));
        observer.head(
            &Head { status: 200, content_type: Some("text/event-stream; charset=utf-8"), ..Head::default() },
            at(2),
        );
        observer
    }

    fn chunk(content: &str) -> String {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}]}}\n\n")
    }

    #[test]
    fn only_a_token_starts_its_clock() {
        let mut observer = chat();
        let seen = observer.response_chunk(b": keep-alive\n\n", at(100));
        assert_eq!(seen, Seen::default());
        observer.response_chunk(
            b"data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
            at(200),
        );
        let seen = observer.response_chunk(chunk("a").as_bytes(), at(500));
        assert_eq!(seen, Seen { first_token: true, token_events: 1 });
        observer.response_chunk(chunk("b").as_bytes(), at(900));
        let got = observer.finish(Ending::ClientGone, at(1000));
        assert_eq!(got.clocks.first_byte, Some(at(100)));
        assert_eq!(got.clocks.first_token, Some(at(500)));
        assert_eq!(got.clocks.last_token, Some(at(900)));
        assert_eq!(got.clocks.longest_gap, Some(Duration::from_millis(400)));
        assert_eq!(got.outcome(Ending::ClientGone), Outcome::ClientGone);
    }

    #[test]
    fn a_body_of_no_declared_type_is_known_by_its_first_byte() {
        let begin = |first: &[u8]| {
            let mut observer = Observer::new(dialect::find("POST", "/v1/chat/completions"), at(0));
            observer.head(&Head { status: 200, ..Head::default() }, at(1));
            observer.response_chunk(first, at(2));
            observer.finish(Ending::Clean, at(3))
        };
        assert!(begin(chunk("a").as_bytes()).streamed);
        assert!(begin(br#"{"choices":[],"usage":{"prompt_tokens":3}}"#).closure.terminal);
        assert!(!begin(b"RIFF").closure.observed);
    }

    #[test]
    fn a_class_of_error_is_a_word_or_nothing() {
        assert_eq!(error_class("rate_limit_exceeded").as_str(), "rate_limit_exceeded");
        for known in ["BadRequestError", "http_429", "400", "invalid-model", "ThrottlingException", "E42"] {
            assert_eq!(error_class(known).as_str(), known);
        }
        for key in ["sk-4f9a81c07be2", "sk-proj-aBcDeFgH", "aB3", "AIzaSyD4x", "deadbeef0123", "hf_aBcD1eFg"]
        {
            assert_eq!(error_class(key).as_str(), "other", "{key}");
        }
        assert_eq!(error_class("the prompt was: my secret").as_str(), "other");
    }
}
