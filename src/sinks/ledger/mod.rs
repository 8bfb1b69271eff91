//! The usage ledger: one JSON object a line for every exchange that was settled, for bills. Every line has the number
//! that it has in its process, so that a reader sees what is missing and what stands twice.
//!
//! Lines are written by a thread of its own behind a bounded queue. While the disk fails they wait there; when the queue
//! is full they are lost, which is counted, and leave a gap in the numbers. Traffic never waits. Absent: sampling,
//! deleting what is old.

mod folder;
mod writer;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use self::folder::Folder;
use self::writer::{Disk, Terms, Writer};
use super::json::{MemberWriter, Text};
use super::request_log::put_tokens;
use super::{Fact, Sink};
use crate::clock::Clock;
use crate::config::UsageLedger as Settings;
use crate::exchange::{Exchange, Name, Unpriced};
use crate::vitals::{DropStage, Vitals};

const QUEUE: usize = 16_384; // some seconds of a disk that fails at thousands of lines a second; 10 MB
const LINE: usize = 640; // most lines have 450 to 600 bytes

/// The sink.
#[derive(Debug)]
pub struct UsageLedger {
    run: String,
    vitals: Arc<Vitals>,
    /// Taken when the ledger is closed.
    queue: Mutex<Option<Queue>>,
    closing: Arc<AtomicBool>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Queue {
    lines: SyncSender<Vec<u8>>,
    /// The number of the last line, written or not.
    seq: u64,
}

impl UsageLedger {
    /// A ledger as configured; its first file is there when this returns.
    ///
    /// # Errors
    /// The folder cannot be made or written to.
    pub fn open(settings: &Settings, vitals: Arc<Vitals>, clock: Clock) -> io::Result<Self> {
        let folder = Folder::open(&settings.path)?;
        for path in folder.torn() {
            tracing::warn!(
                path = %path.display(),
                "the last line of this file of the usage ledger was cut off when its process died; pass over it"
            );
        }
        Self::start(folder, Terms::of(settings), vitals, clock)
    }

    fn start(disk: impl Disk, terms: Terms, vitals: Arc<Vitals>, clock: Clock) -> io::Result<Self> {
        let (lines, queue) = sync_channel(QUEUE);
        let run = format!("{:016x}", RandomState::new().build_hasher().finish());
        let closing = Arc::<AtomicBool>::default();
        let mut writer =
            Writer::new(queue, disk, terms, run.clone(), Arc::clone(&closing), Arc::clone(&vitals), clock);
        writer.create()?;
        let writer = std::thread::Builder::new().name("usage-ledger".into()).spawn(move || writer.run())?;
        let queue = Mutex::new(Some(Queue { lines, seq: 0 }));
        Ok(Self { run, vitals, queue, closing, writer: Mutex::new(Some(writer)) })
    }

    /// Writes and syncs what is queued, and ends; waits for it as long as that takes. What a failing disk does not
    /// take now is lost and counted, as are further facts.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        drop(self.queue.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            writer.thread().unpark();
            // A writer that panicked has nothing left to write.
            let _ = writer.join();
        }
    }
}

impl Sink for UsageLedger {
    fn record(&self, fact: &Fact<'_>) {
        let Fact::Settled(exchange) = fact else { return };
        let sent = self.queue.lock().as_mut().is_some_and(|queue| {
            queue.seq += 1;
            let line = line(exchange, &self.run, queue.seq).ok();
            line.is_some_and(|line| queue.lines.try_send(line).is_ok())
        });
        if !sent {
            self.vitals.dropped(DropStage::UsageLedger).add_one();
        }
    }
}

/// An exchange as it stands in the ledger, with its line feed. What is unknown is absent, never 0.
fn line(exchange: &Exchange, run: &str, seq: u64) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::with_capacity(LINE);
    let mut out = Text::begin(&mut text);
    let detail = |value: Option<u64>| value.filter(|_| exchange.accepted());
    out.put("time", Some(humantime::format_rfc3339_millis(exchange.ended_at).to_string()))?;
    out.put("run", Some(run))?;
    out.put("seq", Some(seq))?;
    out.put("request_id", Some(exchange.request_id.as_str()))?;
    out.put("upstream_request_id", exchange.upstream_request_id.as_ref().map(Name::as_str))?;
    out.put("tenant", Some(exchange.tenant.as_str()))?;
    out.put("model", Some(exchange.model.label(exchange.accepted()).map_or("unknown", Name::as_str)))?;
    out.put("model_requested", exchange.model.requested.as_ref().map(Name::as_str))?;
    out.put("model_served", exchange.model.served.as_ref().map(Name::as_str))?;
    out.put("upstream", Some(exchange.upstream.as_str()))?;
    out.put_word("dialect", Some(exchange.dialect.0))?;
    out.put("code", exchange.code)?;
    out.put_word("outcome", Some(exchange.outcome.label()))?;
    put_tokens(exchange, &mut out)?;
    out.put("cache_write_1h_input_tokens", detail(exchange.usage.cache_write_1h))?;
    out.put("audio_input_tokens", detail(exchange.usage.audio_input))?;
    out.put("audio_output_tokens", detail(exchange.usage.audio_output))?;
    out.put_word("unpriced", exchange.unpriced.map(Unpriced::label))?;
    out.put("config", Some(exchange.config.as_str()))?;
    out.end();
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests;
