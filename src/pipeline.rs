//! The accounts plane's loop: takes what the data plane finished, settles it, tells the sinks; looks at open
//! exchanges for first tokens. One task, so that the facts of an exchange come in order; it may lag, traffic does not
//! wait.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio_util::sync::CancellationToken;

use crate::account::learned::{Estimate, Expectations, Learned};
use crate::account::meter::Tokens;
use crate::account::model::TokenizerName;
use crate::account::settle::{Counts, Finished, settle};
use crate::account::tokenize::Counted;
use crate::clock::{Clock, Moment};
use crate::config::Config;
use crate::counting::{Counting, Tokenizers};
use crate::exchange::{Exchange, Verdict};
use crate::live::{Live, LiveTable};
use crate::observe::{Kept, Text};
use crate::sinks::{Fact, Sink};

/// How many exchanges may be open or waiting to be settled at once with a full record. One that begins
/// beyond it is passed on as usual and counted in `records_dropped_total{stage="channel"}`.
pub const PLACES: usize = 65_536;

/// How often open exchanges are looked at. A first token is in its histogram at most so much later.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// At every so many looks the tokens of running streams are told.
const FLOW_EVERY: u32 = 4;

/// How many exchanges may wait to be counted when one that need not be is counted for comparison.
const AUDIT_BEHIND: usize = 16;

/// How long after its time an open exchange counts as late: a first token that came in time may not have been looked at.
const SURE: Duration = Duration::from_millis(10);

const AT_ONCE: usize = 1024; // finished exchanges settled before open ones are looked at again

/// How many ends sinks are told of at once: each does all of them before the next does. One after the other, every
/// exchange would find the code of each sink gone from the processor's cache.
const TOLD_AT_ONCE: usize = 64;

/// How long notes gather after some were taken: a thread that is woken for each exchange costs the data plane more
/// than the note itself.
const GATHER: Duration = Duration::from_millis(5);

/// How long counting may go on when everything else has ended.
const COUNT_AT_END: Duration = Duration::from_secs(2);

/// An exchange that has ended, on its way to be settled.
#[derive(Debug)]
pub struct Note {
    /// What the data plane saw.
    pub finished: Finished,
    /// Its text, where there is a tokenizer for it.
    pub kept: Option<Kept>,
    /// The entry in the table of open exchanges that it had.
    pub live: Arc<Live>,
    /// The configuration as it was at the start.
    pub config: Arc<Config>,
}

/// An exchange that is settled when its text has been counted.
#[derive(Debug, Clone)]
struct Settling {
    finished: Finished,
    config: Arc<Config>,
    live: Arc<Live>,
    ended_at: SystemTime,
    /// The tokens of its first event, where they were counted at once.
    first_event: Option<Counted>,
}

/// Why text is counted.
#[derive(Debug)]
enum Purpose {
    /// Nobody reported its tokens.
    Settle(Box<Settling>),
    /// To be compared with what was reported.
    Audit(Box<Exchange>),
}

/// Where exchanges get their place when they begin.
pub type Places = mpsc::Sender<Note>;

/// The loop's end of the channel, and what it works on.
pub struct Pipeline {
    notes: mpsc::Receiver<Note>,
    live: Arc<LiveTable>,
    clock: Clock,
    learned: Learned,
    /// Where what was learned is published.
    expectations: Arc<ArcSwap<Expectations>>,
    counting: Counting<Purpose>,
    counted: UnboundedReceiver<(Counts, Purpose)>,
    /// How many are being counted.
    waiting: usize,
    looks: u32,
    /// How many could have been counted for comparison.
    comparable: u64,
    sinks: Vec<Arc<dyn Sink>>,
    /// Ended and settled, and told to nobody yet.
    ends: Vec<(Exchange, Arc<Live>)>,
    sweep: Box<dyn FnMut(Moment) + Send>,
}

impl Settling {
    fn tokenizer(&self) -> Option<TokenizerName> {
        let seen = &self.finished.observation;
        let requested = seen.request.as_ref().and_then(|facts| facts.model.as_ref());
        self.config.models.tokenizer(requested, seen.served.as_ref())
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("sinks", &self.sinks.len()).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// A loop that tells `sinks`, in their order; `sweep` is called about once a minute to drop what idles.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn new(
        live: Arc<LiveTable>,
        clock: Clock,
        tokenizers: Arc<Tokenizers>,
        expectations: Arc<ArcSwap<Expectations>>,
        sinks: Vec<Arc<dyn Sink>>,
        sweep: impl FnMut(Moment) + Send + 'static,
    ) -> std::io::Result<(Places, Self)> {
        let (places, notes) = mpsc::channel(PLACES);
        let (done, counted) = mpsc::unbounded_channel(); // it holds no more than the queue before it
        let pipeline = Self {
            notes,
            live,
            clock,
            learned: Learned::default(),
            expectations,
            counting: Counting::start(tokenizers, done)?,
            counted,
            waiting: 0,
            looks: 0,
            comparable: 0,
            sinks,
            ends: Vec::new(),
            sweep: Box::new(sweep),
        };
        Ok((places, pipeline))
    }

    /// Runs until `stop` is cancelled and every exchange that had its place by then is settled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweep = tokio::time::interval(Duration::from_secs(60));
        let mut batch = Vec::with_capacity(AT_ONCE);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.notes.is_closed() => self.notes.close(),
                _ = look.tick() => self.look(),
                Some((counts, purpose)) = self.counted.recv(), if self.waiting > 0 => self.counted(counts, purpose),
                _ = sweep.tick() => (self.sweep)(self.clock.now()),
                taken = self.notes.recv_many(&mut batch, AT_ONCE) => {
                    if taken == 0 {
                        return self.count_the_rest().await;
                    }
                    batch.drain(..).for_each(|note| self.settle(note));
                    self.tell_ends();
                    if taken < AT_ONCE {
                        tokio::time::sleep(GATHER).await;
                    }
                }
            }
        }
    }

    /// The next note, unsettled.
    #[cfg(test)]
    pub(crate) async fn next(&mut self) -> Option<Note> {
        self.notes.recv().await
    }

    /// Tells the first tokens that came since the last look, and now and then how much has flowed.
    fn look(&mut self) {
        self.looks += 1;
        let tells_flow = self.looks.is_multiple_of(FLOW_EVERY);
        if tells_flow && let Some(news) = self.learned.news() {
            self.expectations.store(Arc::new(news));
        }
        let now = self.clock.now();
        for live in self.live.snapshot() {
            live.look(now);
            self.first_token(&live);
            self.limited(&live);
            self.judge(&live);
            if tells_flow {
                self.flow(&live);
            }
        }
    }

    /// Tells how many tokens a running stream has had: what was reported so far, and a low estimate of the rest.
    fn flow(&self, live: &Live) {
        let Some(accepted) = live.accepted().filter(|_| !live.is_taken()) else { return };
        let (flow, model) = (live.flow(), accepted.model.label(true));
        let asked = accepted.ask.text_bytes.map(|bytes| self.learned.input(model, bytes));
        let text = Text { output: Some(flow.text), events: Some(flow.events), ..Text::default() };
        let estimate = self
            .learned
            .output(model, &live.origin.upstream, text)
            .filter(|_| live.origin.dialect.generates());
        let so_far = Tokens {
            input: flow.input.or_else(|| asked.map(Estimate::low)).unwrap_or(0),
            output: flow.output.unwrap_or(0).saturating_add(estimate.map_or(0, Estimate::low)),
        };
        let most = accepted.ask.max_output.unwrap_or(0);
        let reserved = asked.map(|input| input.likely().saturating_add(most));
        self.tell(&Fact::Flow { origin: &live.origin, accepted, so_far, reserved });
    }

    fn first_token(&self, live: &Live) {
        if let Some((at, accepted)) = live.take_first_token() {
            let ttft = at.since(live.origin.started);
            self.tell(&Fact::FirstToken { origin: &live.origin, accepted, ttft });
        }
    }

    fn limited(&self, live: &Live) {
        if let Some(limited) = live.take_limited() {
            self.tell(&Fact::Limited { origin: &live.origin, limited });
        }
    }

    /// Tells which objectives a running exchange has missed, and which it has kept for certain.
    fn judge(&self, live: &Live) {
        let Some(goals) = live.goals().filter(|goals| !goals.goals.is_empty()) else { return };
        let started = live.origin.started;
        let now = self.clock.now();
        let is_over = |limit: Option<Duration>| limit.is_some_and(|limit| now.since(started) > limit + SURE);
        let first_token = live.first_token().map(|(at, _)| at.since(started));
        for goal in goals.goals.iter().filter(|goal| live.judged(goal.place).is_none()) {
            let is_late = match first_token {
                Some(ttft) => goal.ttft.is_some_and(|limit| ttft > limit),
                None => live.awaiting_since().is_some() && is_over(goal.ttft),
            };
            let is_bad = is_late || is_over(goal.duration);
            if is_bad || (goal.is_ttft_alone && first_token.is_some()) {
                live.judge(goal.place, is_bad);
                let (model, accepted) = match live.accepted() {
                    Some(accepted) => (&accepted.model, true),
                    None => (&goals.model, false),
                };
                self.tell(&Fact::Judged { origin: &live.origin, model, accepted, slo: &goal.slo, is_bad });
            }
        }
    }

    /// Tells what an exchange that has ended was to the objectives of which nothing has been told.
    fn judge_ended(&self, live: &Live, exchange: &Exchange) {
        for (place, slo, verdict) in &exchange.slos {
            if live.judged(*place).is_some() || *verdict == Verdict::NotEligible {
                continue;
            }
            let is_bad = *verdict == Verdict::Bad;
            live.judge(*place, is_bad);
            let (model, accepted) = (&exchange.model, exchange.accepted());
            self.tell(&Fact::Judged { origin: &live.origin, model, accepted, slo, is_bad });
        }
    }

    fn settle(&mut self, note: Note) {
        let Note { finished, kept, live, config } = note;
        live.take();
        self.first_token(&live);
        self.limited(&live);
        let ended_at = self.clock.wall(finished.observation.clocks.ended);
        let lacks = finished.lacks();
        let (is_whole, lacks_first) = (finished.is_whole(), finished.lacks_first_event());
        let mut settling = Settling { finished, config, live, ended_at, first_event: None };
        let kept = kept.filter(|_| lacks.any() || lacks_first || is_whole);
        let Some((name, kept)) = kept.and_then(|kept| Some((settling.tokenizer()?, kept))) else {
            return self.ended_and_settled(settling);
        };
        settling.first_event = self.counting.first_event(&name, &kept);
        if lacks.any() {
            return self.count(name, kept.only(lacks.input, lacks.output), settling);
        }
        let audits = is_whole && self.audits(settling.config.metrics.token_audit);
        if lacks_first && settling.first_event.is_none() && kept.has_output() {
            return self.count(name, kept.only(false, true), settling);
        }
        self.ended_and_settled(settling);
        if audits && let Some((exchange, _)) = self.ends.last() {
            let purpose = Purpose::Audit(Box::new(exchange.clone()));
            // Where there is no room it is another one's turn.
            self.waiting += usize::from(self.counting.count(name, kept, purpose).is_ok());
        }
    }

    /// Whether an exchange whose tokens are reported and whose text can be counted is one of those that are counted for
    /// comparison: a share of them, evenly, and while there is little else to count.
    fn audits(&mut self, share: f64) -> bool {
        let taken = |n: u64| (n as f64 * share) as u64;
        self.comparable += 1;
        taken(self.comparable) > taken(self.comparable - 1) && self.waiting < AUDIT_BEHIND
    }

    fn count(&mut self, name: TokenizerName, kept: Kept, settling: Settling) {
        let exchange = self.meaning(settling.clone(), Counts::default());
        self.tell(&Fact::Ended(&exchange));
        match self.counting.count(name, kept, Purpose::Settle(Box::new(settling))) {
            Ok(()) => self.waiting += 1,
            Err(Purpose::Settle(settling)) => self.settled(*settling, Counts::default()),
            Err(Purpose::Audit(_)) => {}
        }
    }

    fn counted(&mut self, counts: Counts, purpose: Purpose) {
        self.waiting -= 1;
        match purpose {
            Purpose::Settle(settling) => self.settled(*settling, counts),
            Purpose::Audit(exchange) => self.tell(&Fact::Audited { exchange: &exchange, counts }),
        }
    }

    /// An exchange with nothing to wait for.
    fn ended_and_settled(&mut self, settling: Settling) {
        if self.ends.len() >= TOLD_AT_ONCE {
            self.tell_ends();
        }
        let (text, live) = (settling.finished.observation.text(), Arc::clone(&settling.live));
        let exchange = self.meaning(settling, Counts::default());
        self.learned.learn(&exchange, text);
        self.ends.push((exchange, live));
    }

    fn tell_ends(&mut self) {
        for sink in &self.sinks {
            self.ends.iter().for_each(|(exchange, _)| sink.record_end(exchange));
        }
        self.ends.iter().for_each(|(exchange, live)| self.judge_ended(live, exchange));
        self.ends.clear();
    }

    fn settled(&mut self, settling: Settling, counts: Counts) {
        let (text, live) = (settling.finished.observation.text(), Arc::clone(&settling.live));
        let exchange = self.meaning(settling, counts);
        self.learned.learn(&exchange, text);
        self.tell(&Fact::Settled(&exchange));
        self.judge_ended(&live, &exchange);
    }

    fn meaning(&self, settling: Settling, counts: Counts) -> Exchange {
        let Settling { finished, config, live, ended_at, first_event } = settling;
        let counts = Counts { first_event: counts.first_event.or(first_event), ..counts };
        let Config { models, slos, hash, .. } = &*config;
        let mut exchange = settle(finished, counts, models, slos, &self.learned, hash.clone(), ended_at);
        for (place, _, verdict) in &mut exchange.slos {
            // What was told while it ran stands.
            let told = live.judged(*place).map(|is_bad| if is_bad { Verdict::Bad } else { Verdict::Good });
            *verdict = told.unwrap_or(*verdict);
        }
        exchange
    }

    /// Waits for what is still being counted, and settles it; what takes too long is estimated.
    async fn count_the_rest(&mut self) {
        let mut hurry = std::pin::pin!(tokio::time::sleep(COUNT_AT_END));
        while self.waiting > 0 {
            tokio::select! {
                Some((counts, purpose)) = self.counted.recv() => self.counted(counts, purpose),
                () = &mut hurry, if !self.counting.is_hurrying() => self.counting.hurry(),
                else => return, // the thread is gone, and what it had with it
            }
        }
    }

    fn tell(&self, fact: &Fact<'_>) {
        self.sinks.iter().for_each(|sink| sink.record(fact));
    }
}
