//! The data plane: takes a request in, sends it on, passes the answer back, and lets an observer see both.
//! Decides nothing about tokens or money, and waits for nobody who counts them.

mod admit;
mod connect;
mod deadline;
mod headers;
mod inject;
mod lanes;
pub mod listener;
pub mod opening;
mod pieces;
mod pool;
mod reply;
mod routes;
mod session;
mod tap;
mod tls;
mod until;
mod upgrade;
mod upload;
mod upstream;
mod watch;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Refusal};
use crate::clock::{Clock, Moment};
use crate::counting::Tokenizers;
use crate::dialect::{self, Dialect};
use crate::exchange::{DialectId, Ending, Name, Unobserved};
use crate::live::{LiveTable, Origin, Stage};
use crate::observe::Head;
use crate::pipeline::Places;
use crate::vitals::Vitals;
use crate::wire::Budget;
use crate::wire::encoding::MEMORY_IN_ALL;
use admit::Applicant;
use connect::Line;
use deadline::Deadline;
use reply::Trouble;
use session::{Invitation, Sitting};
use tap::{Reads, ResponseTap};
use upload::Upload;
use upstream::{Answer, SendError, Sending, Upstream};
use watch::Recording;

pub(crate) use connect::Connector;
pub use connect::Dial;
pub use routes::Routes;
pub use tls::Error as TlsError;
pub(crate) use upstream::chain;

/// The longest list of headers over HTTP/2; HTTP/1 heads may be larger. A JWT with many groups has 16 KiB.
const HEAD_LIMIT: u32 = 256 << 10;

/// Everything that the data plane's tasks share.
#[derive(Debug)]
pub struct Proxy {
    /// Which upstream has which requests, and the configuration that says so.
    pub routes: ArcSwap<Routes>,
    /// The clock that stamps everything.
    pub clock: Clock,
    /// Plain counters.
    pub vitals: Arc<Vitals>,
    /// Open exchanges.
    pub live: Arc<LiveTable>,
    /// Where records go.
    pub places: Places,
    /// Who may go.
    pub admission: Arc<Admission>,
    /// What counts prompts before they are sent.
    tokenizers: Arc<Tokenizers>,
    /// Turns in counting them.
    counting: Arc<Semaphore>,
    /// Connections and tunnels.
    pub tasks: TaskTracker,
    /// Cancelled when the time to drain is over.
    cut: CancellationToken,
    /// Set before `cut` is cancelled: what is dropped from then on, we dropped.
    is_cutting: AtomicBool,
    ids: routes::RequestIds,
    /// Bytes of requests that are read ahead.
    read_ahead: AtomicUsize,
    /// What the decoders of all encoded answers hold.
    decoders: Arc<Budget>,
    /// What is kept of all exchanges' text to be counted.
    kept: Arc<Budget>,
}

/// How many prompts are counted at once before they are sent; others wait for their turn. More would take the
/// processors from traffic.
const COUNTING: usize = 2;

/// How much of all exchanges' text is kept to be counted; beyond it an exchange's tokens are estimated.
const KEPT_IN_ALL: usize = 64 << 20;

impl Proxy {
    /// A data plane with these routes, whose records go to `places`.
    pub fn new(
        routes: Routes,
        clock: Clock,
        vitals: Arc<Vitals>,
        live: Arc<LiveTable>,
        places: Places,
        admission: Arc<Admission>,
        tokenizers: Arc<Tokenizers>,
    ) -> Self {
        Self {
            routes: ArcSwap::from_pointee(routes),
            clock,
            vitals,
            live,
            places,
            admission,
            tokenizers,
            counting: Arc::new(Semaphore::new(COUNTING)),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
            is_cutting: AtomicBool::new(false),
            ids: routes::RequestIds::default(),
            read_ahead: AtomicUsize::new(0),
            decoders: Arc::new(Budget::new(MEMORY_IN_ALL)),
            kept: Arc::new(Budget::new(KEPT_IN_ALL)),
        }
    }

    /// Cuts what still runs: its exchanges end as drained.
    pub fn cut(&self) {
        self.is_cutting.store(true, std::sync::atomic::Ordering::Relaxed);
        self.cut.cancel();
    }
}

/// The body of an answer: the upstream's, or our own.
type AnswerBody = Either<ResponseTap, Full<Bytes>>;

/// Takes one request to its upstream and the answer back. What needs no waiting is done before there is a future.
fn handle(proxy: Arc<Proxy>, request: Request<Incoming>) -> Answering {
    Answering { begun: Some(Begun::new(proxy, request)), rest: None }
}

/// The answer to a request. Written out, for the library keeps as much room as this takes for as long as a connection
/// is open: as an `async` function it would be three times as large.
struct Answering {
    /// None once the answer has been given.
    begun: Option<Begun>,
    /// What the client is still sending is read first, where nobody takes it.
    rest: Option<Pin<Box<dyn Future<Output = Answered> + Send>>>,
}

impl Future for Answering {
    type Output = Result<Response<AnswerBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { begun: slot, rest } = self.get_mut();
        let Some(begun) = slot else { return Poll::Pending };
        let answered = match rest {
            Some(rest) => ready!(rest.as_mut().poll(cx)),
            None => match ready!(begun.poll_answered(cx)) {
                answered @ (Answered::NoWay(_) | Answered::Nothing(_)) => {
                    let upload = Arc::clone(&begun.upload);
                    ready!(rest.insert(Box::pin(after_rest(answered, upload))).as_mut().poll(cx))
                }
                answered => answered,
            },
        };
        slot.take().map_or(Poll::Pending, |begun| Poll::Ready(Ok(begun.answer(answered))))
    }
}

/// What came of a request in the end, once no more of it is to be read.
async fn after_rest(answered: Answered, upload: Arc<Upload>) -> Answered {
    upload.read_rest().await;
    match answered {
        Answered::Nothing(_) if upload.has_failed() => Answered::ClientGone,
        answered => answered,
    }
}

/// An exchange whose request's head has been read.
struct Begun {
    proxy: Arc<Proxy>,
    recording: Recording,
    dialect: Option<&'static dyn Dialect>,
    upload: Arc<Upload>,
    course: Result<Course, Trouble>,
}

/// Where a request goes, and what comes back with it.
struct Course {
    upstream: Arc<Upstream>,
    sending: Sending,
    deadline: Deadline,
    client: Client,
    downstream: Option<hyper::upgrade::OnUpgrade>,
}

impl Begun {
    fn new(proxy: Arc<Proxy>, mut request: Request<Incoming>) -> Self {
        let started = proxy.clock.now();
        let routes = proxy.routes.load();
        let tenants = &routes.config.tenants;
        let tenant = tenants.resolve(request.uri(), request.headers(), || proxy.clock.wall(started));
        if let Some(target) = tenants.stripped(request.uri()) {
            *request.uri_mut() = target;
        }
        let upstream = routes.find(&request);
        let dialect = dialect::find(request.method().as_str(), request.uri().path());
        let origin = origin(&proxy, tenant, upstream.as_deref(), dialect, &request, started);
        let vitals = upstream
            .as_ref()
            .map_or_else(|| proxy.vitals.upstream(&origin.upstream), |at| Arc::clone(&at.vitals));
        let asked = (request.uri().path(), headers::content_encoding(request.headers()));
        let config = Arc::clone(&routes.config);
        let mut recording = Recording::start(&proxy, origin, dialect, asked, config, vitals);
        let holds = routes.config.limits.hold(&recording.watch().origin().tenant);
        drop(routes);
        let dialect = dialect.ok();
        let watch = Arc::clone(recording.watch());
        let has_one_host = headers::has_one_host(request.version(), request.headers());
        let Some(upstream) = upstream.filter(|_| has_one_host) else {
            let trouble = if has_one_host { Trouble::NoUpstream } else { Trouble::BadHost };
            let upload = Upload::new(request.into_body(), watch, started);
            return Self { proxy, recording, dialect, upload, course: Err(trouble) };
        };

        let is_upgrade = headers::is_upgrade(request.version(), request.headers());
        let downstream = is_upgrade.then(|| hyper::upgrade::on(&mut request));
        let client = Client {
            version: request.version(),
            is_head: request.method() == http::Method::HEAD,
            invitation: is_upgrade.then(|| Invitation::of(&request)).flatten(),
        };
        let (head, incoming) = request.into_parts();
        let upload = Upload::new(incoming, watch, started);
        let deadline = Deadline::new(upstream.settings.first_byte_timeout, upstream.settings.idle_timeout);
        let now = proxy.clock.now();
        let sending = if let Some(dialect) = dialect.filter(|_| holds) {
            let (proxy, upstream) = (Arc::clone(&proxy), Arc::clone(&upstream));
            let watch = Arc::clone(recording.watch());
            Applicant { proxy, upstream, dialect, upload: Arc::clone(&upload), watch, is_upgrade }.send(head)
        } else if !is_upgrade && inject::may_ask(&upstream, dialect, &head) {
            inject::send(&upstream, head, &upload, proxy.clock)
        } else {
            recording.watch().reach(Stage::Connecting);
            upstream.send(Request::from_parts(head, upload.tap()), is_upgrade, now)
        };
        recording.sent(now);
        let course = Ok(Course { upstream, sending, deadline, client, downstream });
        Self { proxy, recording, dialect, upload, course }
    }

    /// Waits for the answer's head. Meanwhile the request's body is read ahead, so that a client that hangs up is
    /// noticed even while there is no connection yet.
    fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<Answered> {
        let Course { sending, deadline, .. } = match &mut self.course {
            Ok(course) => course,
            Err(trouble) => return Poll::Ready(Answered::NoWay(*trouble)),
        };
        // First, so that what a request asked is known even if nobody takes it.
        let client_gone = self.upload.poll_ahead(cx).is_ready();
        match sending.as_mut().poll(cx) {
            Poll::Ready(Ok(answer)) => return Poll::Ready(Answered::Head(answer)),
            Poll::Ready(Err(_)) if self.upload.has_failed() => return Poll::Ready(Answered::ClientGone),
            Poll::Ready(Err(error)) => return Poll::Ready(Answered::Nothing(error)),
            Poll::Pending => {}
        }
        if client_gone {
            return Poll::Ready(Answered::ClientGone);
        }
        deadline.poll_first_byte(&self.upload, cx).map(|()| Answered::TimedOut)
    }

    fn answer(self, answered: Answered) -> Response<AnswerBody> {
        let Self { proxy, mut recording, dialect, upload, course } = self;
        let trouble = match (answered, course) {
            (Answered::Head(answer), Ok(course)) => {
                if answer.response.status() != 101 || course.downstream.is_some() {
                    return pass_on(&proxy, answer, recording, course, upload);
                }
                Trouble::Garbled
            }
            (Answered::Nothing(error), Ok(Course { upstream, .. })) => match error.downcast::<Refusal>() {
                Ok(refusal) => return refuse(recording, dialect, &refusal),
                Err(error) => {
                    upstream.tell(&*error, proxy.clock.now());
                    Trouble::of(&*error)
                }
            },
            (Answered::ClientGone, Ok(_)) => {
                // Nobody reads it.
                let answer = Trouble::ClosedEarly.answer(dialect, recording.request_id().as_str());
                recording.finish(Ending::ClientGone);
                return answer.map(Either::Right);
            }
            (Answered::TimedOut, Ok(_)) => Trouble::FirstByteTimedOut,
            (Answered::NoWay(trouble), _) | (_, Err(trouble)) => trouble,
        };
        recording.own_answer(trouble.status(), trouble.class());
        let answer = trouble.answer(dialect, recording.request_id().as_str());
        recording.finish(trouble.ending());
        answer.map(Either::Right)
    }
}

/// Answers a request that a limit of ours has no room for.
fn refuse(
    mut recording: Recording,
    dialect: Option<&dyn Dialect>,
    refusal: &Refusal,
) -> Response<AnswerBody> {
    let answer = reply::too_many_tokens(refusal, dialect, recording.request_id().as_str());
    recording.own_answer(answer.status().as_u16(), reply::DENIED);
    recording.finish(Ending::Rejected);
    answer.map(Either::Right)
}

/// Who asked what, where.
fn origin(
    proxy: &Proxy,
    tenant: Name,
    upstream: Option<&Upstream>,
    dialect: Result<&'static dyn Dialect, Unobserved>,
    request: &Request<Incoming>,
    started: Moment,
) -> Origin {
    Origin {
        number: proxy.live.next_number(),
        request_id: proxy.ids.of(request.headers()),
        trace_id: routes::trace_id(request.headers()),
        tenant,
        upstream: routes::name(upstream),
        dialect: dialect.map_or(DialectId::UNKNOWN, Dialect::id),
        started,
    }
}

/// What the client's side of an exchange is like.
struct Client {
    version: Version,
    is_head: bool,
    /// To a session, where the answer accepts it.
    invitation: Option<Box<Invitation>>,
}

/// What came of a request before its answer's body.
enum Answered {
    Head(Answer),
    /// It could not be sent anywhere.
    NoWay(Trouble),
    Nothing(SendError),
    ClientGone,
    TimedOut,
}

/// Passes an answer on to the client.
fn pass_on(
    proxy: &Arc<Proxy>,
    answer: Answer,
    mut recording: Recording,
    course: Course,
    upload: Arc<Upload>,
) -> Response<AnswerBody> {
    let Course { deadline, client, downstream, .. } = course;
    let Answer { mut response, line, lease, injection } = answer;
    let version = response.version();
    // Over HTTP/2 the connection's reads are other streams' too.
    let is_http1 = version != Version::HTTP_2;
    let now = proxy.clock.now();
    let at = line.as_ref().filter(|_| is_http1).map_or(now, Line::last_read).min(now);
    recording.head(&head_of(&response, &client), at, line.as_ref().and_then(Line::take_connect_time));

    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS
        && let Some(downstream) = downstream
    {
        let upstream = hyper::upgrade::on(&mut response);
        let invitation = client.invitation.as_deref();
        let begin = |invitation| Sitting::begin(proxy, invitation, &recording, response.headers());
        let sitting = invitation.and_then(begin);
        upgrade::tunnel(proxy, downstream, upstream, recording, sitting);
        return response.map(|_| Either::Right(Full::default()));
    }
    let (mut head, incoming) = response.into_parts();
    headers::prepare_response(&mut head, version, client.version);
    let injection = injection.and_then(|injection| {
        recording.add_request_overhead(injection.spent);
        injection.begin(&mut head)
    });
    let reads = Reads { line: line.filter(|_| is_http1), last: at };
    let tap = ResponseTap::new(incoming, injection, recording, reads, deadline, upload, lease);
    Response::from_parts(head, Either::Left(tap))
}

fn head_of<'r>(response: &'r Response<Incoming>, client: &Client) -> Head<'r> {
    let headers = response.headers().iter();
    let texts = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    Head::of(client.is_head, response.status().as_u16(), texts)
}
