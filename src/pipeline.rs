//! The accounts plane's loop: takes what the data plane finished, settles it, tells the sinks; looks at open
//! exchanges for first tokens. One task, so that facts come in order; it may lag, traffic does not wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::account::learned::Learned;
use crate::account::settle::{Finished, settle};
use crate::clock::{Clock, Moment};
use crate::config::Config;
use crate::live::{Live, LiveTable};
use crate::sinks::{Fact, Sink};

/// How many exchanges may be open or waiting to be settled at once with a full record. One that begins
/// beyond it is passed on as usual and counted in `records_dropped_total{stage="channel"}`.
pub const PLACES: usize = 65_536;

/// How often open exchanges are looked at. A first token is in its histogram at most so much later.
const LOOK_EVERY: Duration = Duration::from_millis(250);

const AT_ONCE: usize = 1024; // finished exchanges settled before open ones are looked at again

/// How long notes gather after some were taken: a thread that is woken for each exchange costs the data plane more
/// than the note itself.
const GATHER: Duration = Duration::from_millis(5);

/// An exchange that has ended, on its way to be settled.
#[derive(Debug)]
pub struct Note {
    /// What the data plane saw.
    pub finished: Finished,
    /// The entry in the table of open exchanges that it had.
    pub live: Arc<Live>,
    /// The configuration as it was at the start.
    pub config: Arc<Config>,
}

/// Where exchanges get their place when they begin.
pub type Places = mpsc::Sender<Note>;

/// The loop's end of the channel, and what it works on.
pub struct Pipeline {
    notes: mpsc::Receiver<Note>,
    live: Arc<LiveTable>,
    clock: Clock,
    learned: Learned,
    sinks: Vec<Arc<dyn Sink>>,
    sweep: Box<dyn FnMut(Moment) + Send>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("sinks", &self.sinks.len()).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// A loop that tells `sinks`, in their order; `sweep` is called about once a minute to drop what idles.
    pub fn new(
        live: Arc<LiveTable>,
        clock: Clock,
        sinks: Vec<Arc<dyn Sink>>,
        sweep: impl FnMut(Moment) + Send + 'static,
    ) -> (Places, Self) {
        let (places, notes) = mpsc::channel(PLACES);
        (places, Self { notes, live, clock, learned: Learned::default(), sinks, sweep: Box::new(sweep) })
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
                _ = sweep.tick() => (self.sweep)(self.clock.now()),
                taken = self.notes.recv_many(&mut batch, AT_ONCE) => {
                    if taken == 0 {
                        return;
                    }
                    batch.drain(..).for_each(|note| self.settle(note));
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

    /// Tells the first tokens that came since the last look.
    fn look(&self) {
        self.live.snapshot().iter().for_each(|live| self.first_token(live));
    }

    fn first_token(&self, live: &Live) {
        if let Some((at, accepted)) = live.take_first_token() {
            let ttft = at.since(live.origin.started);
            self.tell(&Fact::FirstToken { origin: &live.origin, accepted, ttft });
        }
    }

    fn settle(&mut self, note: Note) {
        let Note { finished, live, config } = note;
        self.first_token(&live);
        let ended_at = self.clock.wall(finished.observation.clocks.ended);
        let text = finished.observation.text();
        let exchange = settle(finished, &config.models, &self.learned, config.hash.clone(), ended_at);
        self.learned.learn(&exchange, text);
        self.tell(&Fact::Ended(&exchange));
        self.tell(&Fact::Settled(&exchange));
    }

    fn tell(&self, fact: &Fact<'_>) {
        self.sinks.iter().for_each(|sink| sink.record(fact));
    }
}
