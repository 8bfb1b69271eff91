//! Usage for streams whose clients do not ask for it, at upstreams that are set so: the request is edited where it goes
//! up, the event that this causes is taken out where the answer comes down. A request that cannot be edited goes as it
//! came; one that the upstream refuses for the edit is sent once more as the client wrote it. What the edit and the
//! event are is the dialect's to say.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, StatusCode, request, response};
use hyper::body::{Body, Frame};
use tokio::time::error::Elapsed;

use super::headers;
use super::tap::{Polled, TapError};
use super::upload::{NotWhole, Original, RequestTap, Upload};
use super::upstream::{Answer, SendError, Sending, Upstream};
use crate::clock::Clock;
use crate::dialect::Dialect;
use crate::dialect::inject::{Cutter, Edit, ask, refuses};
use crate::exchange::Ending;
use crate::live::Stage;
use crate::vitals::UsageInjection;

/// How much of a refusal is read to see what it names; one has some hundred bytes.
const REFUSAL_LIMIT: usize = 64 << 10;

/// How long a request is waited for that is to be read to its end first. A slower one goes on as it comes.
const UPLOAD_TIME: Duration = Duration::from_secs(10);

/// How long a refusal's body is waited for, which a client would be given meanwhile. It comes with its head.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// What says that a body must stay as it is.
const SEALS: [&str; 10] = [
    "content-digest",
    "content-md5",
    "digest",
    "idempotency-key", // a second try would be answered as the first one
    "repr-digest",
    "signature",
    "signature-input",
    "x-amz-content-sha256",
    "x-goog-content-sha256",
    "x-ms-content-sha256",
];

/// Whether a request may be edited, as far as its head tells.
pub(super) fn may_ask(upstream: &Upstream, dialect: Option<&dyn Dialect>, head: &request::Parts) -> bool {
    upstream.takes_asking()
        && dialect.is_some_and(Dialect::reports_usage_when_asked)
        && headers::is_plain(&head.headers)
        && !is_sealed(&head.headers)
}

fn is_sealed(headers: &HeaderMap) -> bool {
    // A signature of AWS's fourth version covers the body, with or without a header that has its hash.
    let is_aws = |value: &HeaderValue| value.as_bytes().starts_with(b"AWS4-");
    SEALS.iter().any(|name| headers.contains_key(*name)) || headers.get(AUTHORIZATION).is_some_and(is_aws)
}

/// Sends a request so that it asks for usage, once all of it is here.
pub(super) fn send(
    upstream: &Arc<Upstream>,
    head: request::Parts,
    upload: &Arc<Upload>,
    clock: Clock,
) -> Sending {
    upload.await_whole();
    let asking = Asking { upstream: Arc::clone(upstream), upload: Arc::clone(upload), clock };
    Box::pin(asking.send(head))
}

/// One request that may be made to ask.
struct Asking {
    upstream: Arc<Upstream>,
    upload: Arc<Upload>,
    clock: Clock,
}

impl Asking {
    async fn send(self, head: request::Parts) -> Result<Answer, SendError> {
        let whole = poll_fn(|cx| self.upload.poll_whole(cx));
        let Ok(whole) = tokio::time::timeout(UPLOAD_TIME, whole).await else {
            self.upload.give_up_whole();
            self.upstream.vitals.injections(UsageInjection::TooSlow).add_one();
            return self.pass(head, self.upload.tap()).await;
        };
        let original = match whole {
            Ok(original) => original,
            Err(why) => {
                if why == NotWhole::TooLarge {
                    self.upstream.vitals.injections(UsageInjection::TooLarge).add_one();
                }
                return self.pass(head, self.upload.tap()).await;
            }
        };
        let began = self.clock.now();
        let Some(edit) = ask(original.bytes()) else {
            original.put_back();
            return self.pass(head, self.upload.tap()).await;
        };
        self.upstream.vitals.injections(UsageInjection::Asked).add_one();
        let original = Arc::new(original);
        let (edited, body) = (
            edited_head(&head, &edit, original.bytes()),
            original.send(edited_body(original.bytes(), &edit)),
        );
        let spent = self.clock.now().since(began);
        let mut answer = self.pass(edited, body).await?;
        let mut read = VecDeque::new();
        if may_refuse(&answer) {
            self.upload.is_looked_at();
            read_ahead(&mut answer, &mut read).await;
            self.upload.was_looked_at();
            if refuses(&data(&read)) {
                drop(answer); // with its connection: servers close behind errors, and the second try must not meet that
                return self.send_unedited(head, &original).await;
            }
        }
        answer.injection = Some(Box::new(Injection::new(spent, read)));
        Ok(answer)
    }

    async fn pass(&self, head: request::Parts, body: RequestTap) -> Result<Answer, SendError> {
        self.upload.reach(Stage::Connecting);
        self.upstream.send(Request::from_parts(head, body), false, self.clock.now()).await
    }

    /// Sends the request as the client wrote it, after a refusal that names what was put into it. One that is refused
    /// then too was not for that: some servers repeat what they were sent.
    async fn send_unedited(
        &self,
        head: request::Parts,
        original: &Arc<Original>,
    ) -> Result<Answer, SendError> {
        self.upstream.vitals.injections(UsageInjection::Refused).add_one();
        let answer = self.pass(head, original.send([original.bytes().clone()].into())).await?;
        if answer.response.status().is_success() {
            self.upstream.refused_asking();
        }
        Ok(answer)
    }
}

fn edited_head(head: &request::Parts, edit: &Edit, body: &Bytes) -> request::Parts {
    let mut head = head.clone();
    if head.headers.contains_key(CONTENT_LENGTH) {
        head.headers.insert(CONTENT_LENGTH, (body.len() - edit.at.len() + edit.text.len()).into());
    }
    // An event cannot be taken out of an encoded answer.
    head.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    head
}

fn edited_body(body: &Bytes, edit: &Edit) -> VecDeque<Bytes> {
    let text = Bytes::from_static(edit.text.as_bytes());
    [body.slice(..edit.at.start), text, body.slice(edit.at.end..)].into()
}

fn may_refuse(answer: &Answer) -> bool {
    matches!(answer.response.status(), StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
        && headers::is_plain(answer.response.headers())
}

type Read = VecDeque<Result<Frame<Bytes>, hyper::Error>>;

/// Reads an answer's body as far as it is looked at.
async fn read_ahead(answer: &mut Answer, read: &mut Read) {
    let body = answer.response.body_mut();
    let mut bytes = 0;
    let reading = poll_fn(|cx| {
        while bytes < REFUSAL_LIMIT && !body.is_end_stream() {
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else { break };
            bytes += frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
            read.push_back(frame);
            if read.back().is_some_and(Result::is_err) {
                break;
            }
        }
        Poll::Ready(())
    });
    // What comes later is no refusal that anybody waits for.
    let _: Result<(), Elapsed> = tokio::time::timeout(REFUSAL_TIME, reading).await;
}

/// The body as far as it is looked at.
fn data(read: &Read) -> BytesMut {
    let mut all = BytesMut::new();
    for data in read.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref()) {
        all.extend_from_slice(data);
    }
    all.truncate(REFUSAL_LIMIT);
    all
}

/// The answer to a request that was made to ask, on its way to the client.
#[derive(Debug)]
pub(super) struct Injection {
    /// How long the edit took.
    pub(super) spent: Duration,
    /// What has been read of the body to see whether it is a refusal; it comes before the rest.
    read: Read,
    /// None where nothing is taken out.
    cutter: Option<Cutter>,
    /// What goes on to the client next.
    passed: VecDeque<Result<Frame<Bytes>, TapError>>,
    /// Something was handed on that may not be written yet.
    is_writing: bool,
}

impl Injection {
    fn new(spent: Duration, read: Read) -> Self {
        Self { spent, read, cutter: None, passed: VecDeque::new(), is_writing: false }
    }

    /// Sees the answer's head. None where its body passes as any other.
    pub(super) fn begin(mut self: Box<Self>, head: &mut response::Parts) -> Option<Box<Self>> {
        let is_stream = head.headers.get(CONTENT_TYPE).is_some_and(|value| is_event_stream(value.as_bytes()));
        if head.status.is_success()
            && is_stream
            && headers::is_plain(&head.headers)
            && !is_sealed(&head.headers)
        {
            head.headers.remove(CONTENT_LENGTH); // it will be shorter, and by how much is not known yet
            self.cutter = Some(Cutter::default());
        }
        (self.cutter.is_some() || !self.read.is_empty()).then_some(self)
    }

    /// What was read of the body ahead.
    pub(super) fn next_read(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        self.read.pop_front()
    }

    /// How many bytes of the body were read ahead; none where how long it will be is not known.
    pub(super) fn length_read(&self) -> Option<usize> {
        self.cutter.is_none().then(|| length(&self.read))
    }

    /// Whether all that was read ahead has been taken.
    pub(super) fn is_read(&self) -> bool {
        self.read.is_empty()
    }

    /// Takes what comes of the body, up to its end.
    pub(super) fn take(&mut self, polled: Polled, ending: Option<Ending>) {
        let Self { cutter, passed, .. } = self;
        let Some(cutter) = cutter else { return passed.extend(polled) };
        let mut pass = |bytes| passed.push_back(Ok(Frame::data(bytes)));
        let behind = match polled.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                cutter.push(data, &mut pass);
                None
            }
            Some(Ok(Err(trailers))) => Some(Ok(trailers)),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        if let Some(ending) = ending {
            cutter.finish(ending == Ending::Clean, &mut pass);
        }
        passed.extend(behind);
    }

    /// What goes on to the client next, where there is something.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Option<Poll<Polled>> {
        let is_error = self.passed.front()?.is_err();
        if std::mem::replace(&mut self.is_writing, !is_error) && is_error {
            cx.waker().wake_by_ref(); // an error drops what is not written by then
            return Some(Poll::Pending);
        }
        Some(Poll::Ready(self.passed.pop_front()))
    }

    /// Whether nothing more goes on of what has come.
    pub(super) fn is_empty(&self) -> bool {
        self.read.is_empty() && self.passed.is_empty() && self.held() == 0
    }

    /// How many bytes were taken out.
    pub(super) fn cut(&self) -> usize {
        self.cutter.as_ref().map_or(0, Cutter::cut)
    }

    /// How many bytes have come and not gone on yet.
    pub(super) fn waiting(&self) -> usize {
        length(&self.passed) + self.held()
    }

    fn held(&self) -> usize {
        self.cutter.as_ref().map_or(0, Cutter::held)
    }
}

fn length<E>(frames: &VecDeque<Result<Frame<Bytes>, E>>) -> usize {
    frames.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref()).map(Bytes::len).sum()
}

fn is_event_stream(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}
