//! One exchange being watched: what its two taps share, and the [`Recording`] that makes exactly one record
//! of it, however it ends.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::OwnedPermit;

use super::Proxy;
use super::upload::READ_AHEAD_IN_ALL;
use crate::account::settle::{Finished, ask};
use crate::account::slo::Party;
use crate::admission::Asking;
use crate::clock::Moment;
use crate::config::Config;
use crate::dialect::{Dialect, RequestFacts};
use crate::exchange::{DialectId, Ending, Limited, Name, Unobserved};
use crate::live::{Accepted, Live, Origin, Stage};
use crate::observe::{Head, Kept, Observation, Observer};
use crate::pipeline::Note;
use crate::vitals::{DropStage, ObservationFailure, UpstreamVitals, UsageInjection};
use crate::wire::Stop;

/// What the taps of one exchange share.
pub(super) struct Watch {
    /// Taken when the exchange ends, or when observing panicked.
    observer: Mutex<Option<Observer>>,
    live: Arc<Live>,
    config: Arc<Config>,
    proxy: Arc<Proxy>,
    upstream: Arc<UpstreamVitals>,
    /// Nanoseconds that the request was held for other reasons than a limit that had no room.
    held: AtomicU64,
}

impl Watch {
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.live.origin
    }

    pub(super) fn upstream(&self) -> &Arc<UpstreamVitals> {
        &self.upstream
    }

    /// What the part of the request told that has been seen, and the model's label by it.
    pub(super) fn asked(&self) -> (RequestFacts, Option<Name>) {
        let facts = self.observe(|observer| observer.request_so_far().map(Cow::into_owned));
        let facts = facts.flatten().unwrap_or_default();
        self.requested(&facts);
        let model = self.config.models.names(facts.model.as_ref(), None).label(true).cloned();
        (facts, model)
    }

    /// What a request may come to, in tokens: its prompt, counted or by its text, and the longest answer that it asks
    /// for, else one as its model's are.
    pub(super) fn expected(&self, facts: &RequestFacts, model: Option<&Name>, prompt: Option<u64>) -> u64 {
        let expectations = self.proxy.admission.expectations.load();
        let answer = || expectations.answer(model).saturating_mul(u64::from(facts.choices.max(1)));
        let answer =
            if self.live.origin.dialect.generates() { facts.max_output.unwrap_or_else(answer) } else { 0 };
        let by_text = || expectations.input(model, facts.prompt_text_bytes.unwrap_or(0));
        prompt.unwrap_or_else(by_text).saturating_add(answer)
    }

    /// The request has come so far.
    pub(super) fn reach(&self, stage: Stage) {
        self.live.reach(stage);
    }

    fn requested(&self, facts: &RequestFacts) {
        if let Some(model) = facts.model.as_ref().filter(|_| self.live.requested().is_none()) {
            self.live.set_requested(model);
        }
    }

    /// Keeps what limits did to it.
    pub(super) fn limited(&self, limited: Limited) {
        self.live.set_limited(limited);
    }

    /// Adds time for which the request was held, but for lack of room.
    pub(super) fn add_overhead(&self, spent: Duration) {
        self.held.fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Keeps what the exchange can be judged by while it runs.
    fn set_goals(&self) {
        if self.config.slos.0.is_empty() || self.live.goals().is_some() {
            return;
        }
        let told =
            |facts: &RequestFacts| (self.config.models.names(facts.model.as_ref(), None), facts.dialect);
        let so_far = self.observe(|observer| observer.request_so_far().map(|facts| told(&facts)));
        let (model, dialect) = so_far.flatten().unwrap_or_else(|| told(&RequestFacts::default()));
        let Origin { dialect: by_path, tenant, upstream, .. } = &self.live.origin;
        let dialect = dialect.unwrap_or(*by_path);
        let party = Party { dialect, tenant, model: model.label(true), upstream };
        self.live.set_goals(self.config.slos.goals(party, model.clone()));
    }

    /// Charges a request that no limit has held.
    fn charge(&self) {
        let Origin { tenant, number, dialect, .. } = &self.live.origin;
        let limits = &self.config.limits;
        if *dialect == DialectId::UNKNOWN || !limits.watch(tenant) {
            return;
        }
        let (facts, model) = self.asked();
        let tokens = self.expected(&facts, model.as_ref(), None);
        let asking = Asking { number: *number, tenant, model: model.as_ref(), tokens };
        if let Some(limited) = self.proxy.admission.observe(limits, asking) {
            self.limited(limited);
        }
    }

    /// Lets the observer see something. A panic in it ends the observation, never the traffic.
    fn observe<T>(&self, see: impl FnOnce(&mut Observer) -> T) -> Option<T> {
        let mut slot = self.observer.lock();
        let observer = slot.as_mut()?;
        let seen = catch_unwind(AssertUnwindSafe(|| see(observer)));
        if seen.is_err() {
            *slot = None;
            self.proxy.vitals.failures(ObservationFailure::Panic).add_one();
        }
        seen.ok()
    }

    pub(super) fn now(&self) -> Moment {
        self.proxy.clock.now()
    }

    /// Bytes of all requests that are read ahead.
    pub(super) fn read_ahead(&self) -> &AtomicUsize {
        &self.proxy.read_ahead
    }

    /// Whether more may be read ahead; if not, that is counted.
    pub(super) fn may_read_ahead(&self) -> bool {
        let may = self.read_ahead().load(Ordering::Relaxed) < READ_AHEAD_IN_ALL;
        if !may {
            self.proxy.vitals.failures(ObservationFailure::CaptureOverflow).add_one();
        }
        may
    }

    pub(super) fn request_chunk(&self, bytes: &[u8]) {
        // As a rule the first piece is all, or names the model at its beginning: one that hangs before its end has a name.
        self.observe(|observer| {
            let is_first = observer.bytes_in() == 0;
            observer.request_chunk(bytes);
            if let Some(facts) = is_first.then(|| observer.request_so_far()).flatten() {
                self.requested(&facts);
            }
        });
    }

    pub(super) fn request_end(&self, now: Moment) {
        self.end_request(now);
        if !self.config.limits.hold(&self.live.origin.tenant) {
            self.charge();
        }
    }

    fn end_request(&self, now: Moment) {
        let awaits = self.observe(|observer| {
            if let Some(facts) = observer.request_end(now) {
                self.requested(facts);
            }
            observer.awaits_token()
        });
        self.set_goals();
        self.live.set_awaits_token(awaits.unwrap_or(false));
        self.live.reach(Stage::Sent);
    }

    /// All that was asked of a response in a session, where that could be read. No limit can hold it: its bytes have
    /// passed.
    pub(super) fn asked_in_session(&self, message: Option<&[u8]>, at: Moment) {
        match message {
            Some(message) => self.request_chunk(message),
            None => _ = self.observe(Observer::unasked),
        }
        self.end_request(at);
        self.charge();
    }

    /// A message of an answer in a session was too long to be read.
    pub(super) fn skipped(&self, at: Moment) {
        self.observe(|observer| observer.skipped(at));
    }

    pub(super) fn response_chunk(&self, bytes: &[u8], at: Moment) {
        let seen = self.observe(|observer| {
            let seen = observer.response_chunk(bytes, at);
            let (text, usage) = observer.told();
            self.live.add_chunk(seen.token_events, text, usage);
            (seen, observer.awaits_token(), seen.first_token.then(|| self.accepted(observer)))
        });
        let Some((seen, awaits, accepted)) = seen else { return self.live.set_awaits_token(false) };
        self.live.set_awaits_token(awaits);
        self.upstream.chunks.add(seen.token_events);
        if let Some(accepted) = accepted {
            self.live.set_first_token(at, accepted);
        }
    }

    /// Tells that of what was seen of the answer the client did not get so many bytes, of which these were its usage event.
    pub(super) fn withheld(&self, bytes: usize, usage_event: usize) {
        if usage_event > 0 {
            self.upstream.injections(UsageInjection::Cut).add_one();
        }
        self.observe(|observer| observer.withheld(bytes as u64));
    }

    /// Tells what only the end showed: a last event without its blank line is complete then.
    fn reconcile(&self, seen: &Observation) {
        self.upstream.chunks.add(seen.chunks.saturating_sub(self.live.events()));
        if let Some(at) = seen.clocks.first_token.filter(|_| self.live.first_token().is_none()) {
            let requested = seen.request.as_ref().and_then(|facts| facts.model.as_ref());
            let model = self.config.models.names(requested, seen.served.as_ref());
            let ask = ask(seen.request.as_ref(), seen.bytes_in);
            self.live.set_first_token(at, Accepted { model, ask, sent: seen.clocks.sent });
        }
    }

    /// What is known of an exchange that has been accepted.
    fn accepted(&self, observer: &Observer) -> Accepted {
        let facts = observer.request_facts();
        let requested = facts.and_then(|facts| facts.model.as_ref());
        Accepted {
            model: self.config.models.names(requested, observer.served()),
            ask: ask(facts, observer.bytes_in()),
            sent: observer.sent(),
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("request_id", &self.live.origin.request_id).finish_non_exhaustive()
    }
}

/// The record of one exchange in the making. It is written when this is finished or dropped: exactly once, by
/// ownership.
#[derive(Debug)]
pub(super) struct Recording {
    watch: Arc<Watch>,
    place: Option<OwnedPermit<Note>>,
    in_flight_at_start: u64,
    started: Moment,
    connect: Option<Duration>,
    overhead_request: Option<Duration>,
    overhead_response: Duration,
    code: Option<u16>,
    ending: Option<(Ending, Moment)>,
}

impl Recording {
    /// Begins an exchange whose request goes to `path`, with a body in `encoding`.
    pub(super) fn start(
        proxy: &Arc<Proxy>,
        origin: Origin,
        dialect: Result<&'static dyn Dialect, Unobserved>,
        (path, encoding): (&str, &str),
        config: Arc<Config>,
        upstream: Arc<UpstreamVitals>,
    ) -> Self {
        let mut observer =
            Observer::new(dialect, origin.started).on_path(path).within(Arc::clone(&proxy.decoders));
        observer.request_encoding(encoding);
        Self::begin(proxy, origin, observer, config, upstream)
    }

    /// Begins an exchange that this observer watches.
    pub(super) fn begin(
        proxy: &Arc<Proxy>,
        origin: Origin,
        observer: Observer,
        config: Arc<Config>,
        upstream: Arc<UpstreamVitals>,
    ) -> Self {
        upstream.start();
        let started = origin.started;
        let place = proxy.places.clone().try_reserve_owned().ok();
        let live = Arc::new(Live::new(origin, place.is_some()));
        let in_flight_at_start = proxy.live.insert(Arc::clone(&live));
        let observer = observer.keeping(Arc::clone(&config.models) as _, Arc::clone(&proxy.kept));
        Self {
            place,
            in_flight_at_start,
            started,
            connect: None,
            overhead_request: None,
            overhead_response: Duration::ZERO,
            code: None,
            ending: None,
            watch: Arc::new(Watch {
                observer: Mutex::new(Some(observer)),
                live,
                config,
                proxy: Arc::clone(proxy),
                upstream,
                held: AtomicU64::new(0),
            }),
        }
    }

    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    pub(super) fn request_id(&self) -> &Name {
        &self.watch.live.origin.request_id
    }

    /// The request goes to the pool now.
    pub(super) fn sent(&mut self, now: Moment) {
        self.overhead_request = Some(now.since(self.started));
    }

    /// Adds time that was spent on the request after that.
    pub(super) fn add_request_overhead(&mut self, spent: Duration) {
        self.overhead_request = self.overhead_request.map(|overhead| overhead + spent);
    }

    /// The upstream's head has come.
    pub(super) fn head(&mut self, head: &Head<'_>, at: Moment, connect: Option<Duration>) {
        self.code = Some(head.status);
        self.connect = connect;
        let watch = &self.watch;
        let known = watch.observe(|observer| {
            observer.head(head, at);
            let is_stream = (200..300).contains(&head.status) && observer.is_streaming();
            (observer.awaits_token(), is_stream.then(|| watch.accepted(observer)))
        });
        let (awaits, accepted) = known.unwrap_or_default();
        watch.live.set_awaits_token(awaits);
        if let Some(accepted) = accepted {
            watch.live.set_accepted(accepted);
        }
        watch.live.set_code(head.status);
    }

    /// No more of the answer can be read.
    pub(super) fn lose_answer(&mut self) {
        self.code.get_or_insert(200);
        self.watch.observe(Observer::lost);
        self.watch.live.set_awaits_token(false);
    }

    /// What passed in this tunnel was read.
    pub(super) fn understood(&self) {
        self.watch.observe(Observer::understood);
    }

    /// The client gets an answer of our own.
    pub(super) fn own_answer(&mut self, status: u16, class: &str) {
        self.code = Some(status);
        self.watch.observe(|observer| observer.own_answer(status, class));
    }

    /// Adds time that was spent on a chunk of the answer.
    pub(super) fn add_overhead(&mut self, spent: Duration) {
        self.overhead_response += spent;
    }

    /// The exchange has ended.
    pub(super) fn finish(self, ending: Ending) {
        let now = self.watch.now();
        self.finish_at(ending, now);
    }

    /// The exchange has ended, at this moment.
    pub(super) fn finish_at(mut self, ending: Ending, now: Moment) {
        // Our cut takes an HTTP/2 connection away from its streams, which look then as if the client had hung up.
        let is_cut = ending == Ending::ClientGone && self.is_cutting();
        self.ending = Some((if is_cut { Ending::Drained } else { ending }, now));
    }

    fn is_cutting(&self) -> bool {
        self.watch.proxy.is_cutting.load(Ordering::Relaxed)
    }

    /// How an exchange ended whose recording was dropped: with its task, by a shutdown, a panic or, as a
    /// rule, because the client is gone.
    fn ending_of_drop(&self) -> Ending {
        if self.is_cutting() {
            Ending::Drained
        } else if std::thread::panicking() {
            Ending::SidecarFailed
        } else {
            Ending::ClientGone
        }
    }

    fn observation(&self, ending: Ending, at: Moment) -> (Box<Observation>, Option<Kept>) {
        let finished = self.watch.observe(|observer| (observer.finish(ending, at), observer.take_kept()));
        *self.watch.observer.lock() = None;
        // Without an observer there is still how long it took and what the client got.
        finished.unwrap_or_else(|| (Box::new(Observation::of_transport(self.started, self.code, at)), None))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let (ending, at) = self.ending.unwrap_or_else(|| (self.ending_of_drop(), self.watch.now()));
        let (observation, kept) = self.observation(ending, at);
        self.watch.reconcile(&observation);
        let proxy = &self.watch.proxy;
        proxy.vitals.failures(ObservationFailure::EventTooLarge).add(observation.too_large);
        match observation.undecoded {
            Some(Stop::Undecodable) => proxy.vitals.failures(ObservationFailure::Decompression).add_one(),
            Some(Stop::NoMemory) => proxy.vitals.failures(ObservationFailure::DecoderMemory).add_one(),
            None => {}
        }
        let held = Duration::from_nanos(self.watch.held.load(Ordering::Relaxed));
        let live = Arc::clone(&self.watch.live);
        let finished = Finished {
            origin: live.origin.clone(),
            observation,
            ending,
            connect: self.connect,
            overhead_request: self.overhead_request.map(|overhead| overhead + held),
            overhead_response: self.overhead_response,
            in_flight_at_start: self.in_flight_at_start,
            limited: live.limited().cloned().map(Box::new),
        };
        match self.place.take() {
            Some(place) => {
                drop(place.send(Note { finished, kept, live, config: Arc::clone(&self.watch.config) }))
            }
            None => {
                proxy.vitals.dropped(DropStage::Channel).add_one();
                proxy.admission.settle(self.watch.live.origin.number, &self.watch.live.origin.tenant, None);
            }
        }
        proxy.live.remove(self.watch.live.origin.number);
        self.watch.upstream.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::admission::Admission;
    use crate::clock::Clock;
    use crate::config::LimitStore;
    use crate::dialect::Signal;
    use crate::exchange::Outcome;
    use crate::live::LiveTable;
    use crate::pipeline::Pipeline;
    use crate::proxy::{Dial, Routes};
    use crate::vitals::Vitals;
    use crate::wire::{Event, Members, Wanted};

    /// A dialect with a bug.
    struct Broken;

    impl Dialect for Broken {
        fn id(&self) -> DialectId {
            DialectId("broken")
        }

        fn matches(&self, _: &str, _: &str) -> bool {
            true
        }

        fn request_members(&self) -> &'static Wanted {
            static NOTHING: LazyLock<Wanted> = LazyLock::new(|| Wanted::new(&[], &[]));
            &NOTHING
        }

        fn request(&self, _: &Members) -> RequestFacts {
            RequestFacts::default()
        }

        fn body_members(&self) -> &'static Wanted {
            self.request_members()
        }

        fn body(&self, _: &Members, _: &mut dyn FnMut(Signal<'_>)) {}

        fn event(&self, event: &Event<'_>, _: &mut dyn FnMut(Signal<'_>)) {
            panic!("a bug met {event:?}");
        }
    }

    fn proxy() -> (Arc<Proxy>, Pipeline) {
        let (clock, vitals, live) = (Clock::start(), Arc::<Vitals>::default(), Arc::<LiveTable>::default());
        let config = Config::parse("upstream: http://upstream:1", &[]).unwrap();
        let routes = Routes::new(config, &vitals, clock, Dial::Network).unwrap();
        let (places, pipeline) =
            Pipeline::new(Arc::clone(&live), clock, Arc::default(), Arc::default(), Vec::new(), |_| {})
                .unwrap();
        let admission = Arc::new(Admission::new(clock, &LimitStore::Memory).unwrap());
        (Arc::new(Proxy::new(routes, clock, vitals, live, places, admission, Arc::default())), pipeline)
    }

    fn begin(proxy: &Arc<Proxy>) -> Recording {
        let origin = Origin {
            number: proxy.live.next_number(),
            request_id: Name::from("r"),
            trace_id: None,
            tenant: Name::from("t"),
            upstream: Name::from("default"),
            dialect: DialectId("broken"),
            started: proxy.clock.now(),
        };
        let upstream = proxy.vitals.upstream(&origin.upstream);
        let config = Arc::clone(&proxy.routes.load().config);
        Recording::start(proxy, origin, Ok(&Broken), ("/", ""), config, upstream)
    }

    #[tokio::test]
    async fn a_panic_in_observation_is_counted_and_the_exchange_still_recorded() {
        let (proxy, mut pipeline) = proxy();
        let mut recording = begin(&proxy);
        let head = Head { status: 200, content_type: Some("text/event-stream"), ..Head::default() };
        recording.head(&head, proxy.clock.now(), None);
        for _ in 0..3 {
            recording.watch().response_chunk(b"data: {}\n\n", proxy.clock.now());
        }
        recording.finish(Ending::Clean);
        assert_eq!(proxy.vitals.failures(ObservationFailure::Panic).get(), 1, "it is not tried again");
        assert_eq!(proxy.vitals.upstream(&Name::from("default")).started_and_ended(), (1, 1));
        let note = pipeline.next().await.unwrap();
        assert_eq!(note.finished.observation.closure.code, Some(200));
        assert_eq!(note.finished.observation.outcome(note.finished.ending), Outcome::Completed);
        assert!(proxy.live.is_empty());
    }

    #[tokio::test]
    async fn an_exchange_without_a_place_is_counted_as_dropped() {
        let (proxy, pipeline) = proxy();
        drop(pipeline);
        drop(begin(&proxy));
        assert_eq!(proxy.vitals.dropped(DropStage::Channel).get(), 1);
        assert_eq!(proxy.vitals.upstream(&Name::from("default")).started_and_ended(), (1, 1));
    }
}
