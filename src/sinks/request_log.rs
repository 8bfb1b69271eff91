//! The request log: one JSON object a line for each exchange. Never a prompt, an answer, a key, or any
//! header's value but the ids.
//!
//! Lines are written by a thread of its own behind a bounded queue: a slow disk or a blocked pipe loses
//! lines, which are counted, and nothing else.

use std::fs::{File, Metadata, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::{Fact, Sink};
use crate::account::price::PICO;
use crate::config::{LogPath, RequestLog as Settings};
use crate::exchange::{Blame, Exchange, FinishReason, Limited, Name, Unobserved};
use crate::vitals::{DropStage, Vitals};

const QUEUE: usize = 8_192; // some seconds of a blocked pipe at a thousand lines a second
const LINE: usize = 1_024; // most lines have 700 to 900 bytes

/// One exchange as it stands in the log. What is unknown is absent.
#[derive(Debug)]
pub struct Line<'a> {
    exchange: &'a Exchange,
    reproducible: bool,
}

impl<'a> Line<'a> {
    /// The line of an exchange.
    pub fn of(exchange: &'a Exchange) -> Self {
        Self { exchange, reproducible: false }
    }

    /// The same line without what differs from run to run: ids that we made, wall-clock time, load, what
    /// the sidecar itself cost.
    pub fn reproducible(exchange: &'a Exchange) -> Self {
        Self { exchange, reproducible: true }
    }
}

impl Line<'_> {
    fn put<O: MemberWriter>(&self, out: &mut O) -> Result<(), O::Error> {
        let exchange = self.exchange;
        let varying = |there: bool| there && !self.reproducible;
        let time = varying(true).then(|| humantime::format_rfc3339_millis(exchange.ended_at).to_string());
        out.put("time", time)?;
        out.put("request_id", varying(true).then_some(exchange.request_id.as_str()))?;
        out.put("upstream_request_id", text(exchange.upstream_request_id.as_ref()))?;
        out.put("trace_id", text(exchange.trace_id.as_ref()))?;
        out.put("tenant", Some(exchange.tenant.as_str()))?;
        out.put("model", Some(text(exchange.model.label(exchange.accepted())).unwrap_or("unknown")))?;
        out.put("model_requested", text(exchange.model.requested.as_ref()))?;
        out.put("model_served", text(exchange.model.served.as_ref()))?;
        out.put("upstream", Some(exchange.upstream.as_str()))?;
        out.put_word("dialect", Some(exchange.dialect.0))?;
        out.put_word("unobserved", exchange.unobserved.map(Unobserved::label))?;
        out.put("stream", Some(exchange.stream))?;
        out.put("code", exchange.code)?;
        out.put_word("outcome", Some(exchange.outcome.label()))?;
        out.put_word("blame", exchange.outcome.blame(exchange.code).map(Blame::label))?;
        out.put("error_class", text(exchange.error_class.as_ref()))?;
        out.put_word("finish_reason", exchange.finish_reasons.first().copied().map(FinishReason::label))?;
        self.put_times(out)?;
        self.put_tokens(out)?;
        out.put("limit", exchange.limited.as_deref().and_then(LimitMember::of))?;
        out.put("chunks", Some(exchange.chunks))?;
        out.put("bytes_in", Some(exchange.bytes_in))?;
        out.put("bytes_out", Some(exchange.bytes_out))?;
        out.put("in_flight_at_start", varying(true).then_some(exchange.in_flight_at_start))?;
        out.put("config", varying(true).then_some(exchange.config.as_str()))
    }

    fn put_times<O: MemberWriter>(&self, out: &mut O) -> Result<(), O::Error> {
        let Self { exchange, reproducible } = *self;
        let timing = &exchange.timing;
        let overhead = timing.overhead_request.unwrap_or_default() + timing.overhead_response;
        out.put("ttfb_seconds", timing.ttfb.map(rounded))?;
        out.put("ttft_seconds", timing.ttft.map(rounded))?;
        out.put("first_answer_seconds", timing.first_answer.map(rounded))?;
        out.put("last_token_seconds", timing.last_token.map(rounded))?;
        out.put("duration_seconds", Some(rounded(timing.duration)))?;
        out.put("longest_gap_seconds", timing.longest_gap.map(rounded))?;
        out.put("tpot_seconds", timing.tpot.map(rounded))?;
        out.put("connect_seconds", exchange.connect.map(rounded).filter(|_| !reproducible))?;
        out.put("overhead_seconds", (!reproducible).then_some(rounded(overhead)))
    }

    fn put_tokens<O: MemberWriter>(&self, out: &mut O) -> Result<(), O::Error> {
        let exchange = self.exchange;
        let detail = |value: Option<u64>| value.filter(|_| exchange.accepted());
        out.put("input_tokens", exchange.input.map(|count| count.value))?;
        out.put_word("input_source", exchange.input.map(|count| count.source.label()))?;
        out.put("cache_read_input_tokens", detail(exchange.usage.cache_read))?;
        out.put("cache_write_input_tokens", detail(exchange.usage.cache_write))?;
        out.put("output_tokens", exchange.output.map(|count| count.value))?;
        out.put_word("output_source", exchange.output.map(|count| count.source.label()))?;
        out.put("reasoning_output_tokens", detail(exchange.usage.reasoning))?;
        let Some(cost) = &exchange.cost else { return Ok(()) };
        out.put("cost", Some(Amount(cost.pico)))?;
        out.put("currency", Some(cost.currency.as_str()))?;
        out.put("price_version", Some(cost.version.as_str()))
    }

    /// The line's text, without a line feed.
    fn text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = Text(Vec::with_capacity(LINE));
        self.put(&mut text)?;
        text.0.push(b'}');
        Ok(text.0)
    }
}

/// What our own limits did to an exchange.
#[derive(serde::Serialize)]
struct LimitMember<'a> {
    action: &'static str,
    /// As the limit has it.
    model: &'a str,
    /// Tokens that it needed.
    reserved: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_seconds: Option<f64>,
}

impl<'a> LimitMember<'a> {
    /// None where there was room.
    fn of(limited: &'a Limited) -> Option<Self> {
        let (model, action) = limited.gravest()?;
        Some(Self {
            action: action.label(),
            model: model.as_str(),
            reserved: limited.reserved,
            delay_seconds: limited.delay.map(|delay| delay.as_secs_f64()),
        })
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        self.put(&mut map)?;
        map.0.end()
    }
}

/// Where the members of a line go.
trait MemberWriter {
    type Error;

    /// Adds a member that is known.
    fn put<T: Serialize>(&mut self, name: &'static str, value: Option<T>) -> Result<(), Self::Error>;

    /// Adds a member that is known, whose text is one of ours and has nothing to escape.
    fn put_word(&mut self, name: &'static str, word: Option<&'static str>) -> Result<(), Self::Error> {
        self.put(name, word)
    }
}

/// Any format.
struct Map<M>(M);

impl<M: SerializeMap> MemberWriter for Map<M> {
    type Error = M::Error;

    fn put<T: Serialize>(&mut self, name: &'static str, value: Option<T>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.0.serialize_entry(name, &value))
    }
}

/// JSON, whose names need no look for what to escape: half of a line's cost.
struct Text(Vec<u8>);

impl MemberWriter for Text {
    type Error = serde_json::Error;

    fn put<T: Serialize>(&mut self, name: &'static str, value: Option<T>) -> serde_json::Result<()> {
        let Some(value) = value else { return Ok(()) };
        self.put_name(name);
        serde_json::to_writer(&mut self.0, &value)
    }

    fn put_word(&mut self, name: &'static str, word: Option<&'static str>) -> serde_json::Result<()> {
        let Some(word) = word else { return Ok(()) };
        self.put_name(name);
        [b"\"", word.as_bytes(), b"\""].into_iter().for_each(|piece| self.0.extend_from_slice(piece));
        Ok(())
    }
}

impl Text {
    fn put_name(&mut self, name: &'static str) {
        let before: &[u8] = if self.0.is_empty() { b"{\"" } else { b",\"" };
        [before, name.as_bytes(), b"\":"].into_iter().for_each(|piece| self.0.extend_from_slice(piece));
    }
}

/// Money as a number with all its decimals: exact where a reader reads decimals, as for a bill it should.
struct Amount(u128);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = format!("{}.{:012}", self.0 / PICO, self.0 % PICO);
        let text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
        RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

fn text(name: Option<&Name>) -> Option<&str> {
    name.map(Name::as_str)
}

/// Seconds to the microsecond: what clocks here can tell.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

/// The sink.
#[derive(Debug)]
pub struct RequestLog {
    sample: f64,
    vitals: Arc<Vitals>,
    waiting: Arc<AtomicU64>,
    /// Taken when the log is closed.
    lines: Mutex<Option<SyncSender<Vec<u8>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl RequestLog {
    /// A log as configured; none where it goes nowhere.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(settings: &Settings, vitals: Arc<Vitals>) -> io::Result<Option<Self>> {
        let out: Box<dyn Out> = match &settings.path {
            None => return Ok(None),
            Some(LogPath::Stdout) => Box::new(io::stdout()),
            Some(LogPath::File(path)) => Box::new(LogFile::open(path)?),
        };
        Self::start(out, settings.sample, vitals).map(Some)
    }

    fn start(out: Box<dyn Out>, sample: f64, vitals: Arc<Vitals>) -> io::Result<Self> {
        let (lines, queue) = sync_channel(QUEUE);
        let waiting = Arc::<AtomicU64>::default();
        let writer = Writer { queue, out, waiting: Arc::clone(&waiting), vitals: Arc::clone(&vitals) };
        let writer = std::thread::Builder::new().name("request-log".into()).spawn(move || writer.run())?;
        Ok(Self { sample, vitals, waiting, lines: Mutex::new(Some(lines)), writer: Mutex::new(Some(writer)) })
    }

    /// Lines that are not written yet.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends; waits for it as long as that takes. Further facts are dropped and
    /// counted.
    pub fn close(&self) {
        drop(self.lines.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            // A writer that panicked has nothing left to write.
            let _ = writer.join();
        }
    }

    /// Whether this exchange is in the sample: decided by its id, so that every replica decides alike.
    fn samples(&self, exchange: &Exchange) -> bool {
        let share = || {
            let mut hash = std::hash::DefaultHasher::new();
            exchange.request_id.hash(&mut hash);
            hash.finish() as f64 / u64::MAX as f64
        };
        self.sample >= 1.0 || share() < self.sample
    }
}

impl Sink for RequestLog {
    fn record(&self, fact: &Fact<'_>) {
        let Fact::Settled(exchange) = fact else { return };
        if !self.samples(exchange) {
            return;
        }
        let line = Line::of(exchange).text().ok();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let sent =
            line.zip(self.lines.lock().as_ref()).is_some_and(|(line, lines)| lines.try_send(line).is_ok());
        if !sent {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.vitals.dropped(DropStage::RequestLog).add_one();
        }
    }
}

/// Where lines are written.
trait Out: Write + Send {
    /// Looks whether the place has moved.
    fn follow(&mut self) {}
}

impl Out for io::Stdout {}

/// A file that is opened anew where its name leads to another one, as after a rotation.
struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Out for LogFile {
    fn follow(&mut self) {
        let id = |metadata: io::Result<Metadata>| metadata.ok().map(|of| (of.dev(), of.ino()));
        if id(std::fs::metadata(&self.path)) != id(self.file.metadata())
            && let Ok(moved) = Self::open(&self.path)
        {
            *self = moved;
        }
    }
}

/// The thread that writes.
struct Writer {
    queue: Receiver<Vec<u8>>,
    out: Box<dyn Out>,
    waiting: Arc<AtomicU64>,
    vitals: Arc<Vitals>,
}

const GATHER: Duration = Duration::from_millis(20);
const BATCH: usize = 64 << 10; // bytes written at once when lines come faster than they are written

impl Writer {
    /// Writes what comes. Lines gather for a moment first: a thread that is woken for each costs more than the
    /// line. Once it writes it goes on until none waits.
    fn run(mut self) {
        let mut batch = Vec::new();
        while let Ok(line) = self.queue.recv() {
            std::thread::park_timeout(GATHER);
            let mut next = Some(line);
            while next.is_some() {
                let mut lines = 0;
                while let Some(line) = next.take() {
                    lines += 1;
                    batch.extend_from_slice(&line);
                    batch.push(b'\n');
                    next = self.queue.try_recv().ok();
                    if batch.len() >= BATCH {
                        break;
                    }
                }
                self.write(&mut batch, lines);
            }
        }
    }

    fn write(&mut self, batch: &mut Vec<u8>, lines: u64) {
        self.out.follow();
        let written = self.out.write_all(batch).and_then(|()| self.out.flush());
        if written.is_err() {
            self.vitals.dropped(DropStage::RequestLog).add(lines);
        }
        self.waiting.fetch_sub(lines, Ordering::Relaxed);
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{Count, DialectId, InputBand, ModelNames, Outcome, Timing, Usage};

    fn exchange() -> Exchange {
        Exchange {
            number: 0,
            request_id: Name::from("r-1"),
            upstream_request_id: None,
            trace_id: None,
            ended_at: std::time::UNIX_EPOCH + Duration::from_millis(1_795_500_000_125),
            tenant: Name::from("se\"arch"),
            model: ModelNames { requested: Some(Name::from("m")), ..ModelNames::default() },
            upstream: Name::from("default"),
            dialect: DialectId("openai_chat"),
            unobserved: None,
            stream: true,
            code: Some(200),
            outcome: Outcome::Completed,
            error_class: None,
            finish_reasons: vec![FinishReason::Stop],
            timing: Timing { ttft: Some(Duration::from_micros(212_345)), ..Timing::default() },
            sent: None,
            input_band: InputBand::Le1k,
            reserved: None,
            input: Some(Count::reported(30)),
            output: None,
            usage: Usage { input: Some(30), ..Usage::default() },
            cost: None,
            unpriced: None,
            alternatives: Vec::new(),
            limits: None,
            limited: None,
            chunks: 24,
            undecodable: 0,
            bytes_in: 120,
            bytes_out: 4000,
            connect: None,
            in_flight_at_start: 3,
            config: Name::from("abc"),
        }
    }

    /// A writer whose bytes can be read, and which may be stuck.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Out for Shared {}

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_says_what_is_known_and_leaves_out_what_is_not() {
        let line = Line::of(&exchange()).text().unwrap();
        assert_eq!(line, serde_json::to_vec(&Line::of(&exchange())).unwrap());
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["time"], "2026-11-24T06:00:00.125Z");
        assert_eq!(line["tenant"], "se\"arch");
        assert_eq!(line["ttft_seconds"], 0.212_345);
        assert_eq!(line["input_tokens"], 30);
        assert_eq!(line.get("output_tokens"), None);
        assert_eq!(line.get("blame"), None);
    }

    #[test]
    fn what_differs_from_run_to_run_can_be_left_out() {
        let line = serde_json::to_value(Line::reproducible(&exchange())).unwrap();
        for name in ["time", "request_id", "config", "overhead_seconds", "in_flight_at_start"] {
            assert_eq!(line.get(name), None, "{name}");
        }
        assert_eq!(line["chunks"], 24);
    }

    #[test]
    fn every_line_is_written_before_the_log_is_closed() {
        let out = Shared::default();
        let log = RequestLog::start(Box::new(out.clone()), 1.0, Arc::default()).unwrap();
        for _ in 0..100 {
            log.record(&Fact::Settled(&exchange()));
        }
        log.close();
        assert_eq!(out.0.lock().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), 100);
    }

    #[test]
    fn a_stuck_disk_loses_lines_that_are_counted_and_never_waits() {
        let out = Shared::default();
        let vitals = Arc::new(Vitals::default());
        let log = RequestLog::start(Box::new(out.clone()), 1.0, Arc::clone(&vitals)).unwrap();
        let stuck = out.0.lock();
        let sent = QUEUE as u64 * 2;
        for _ in 0..sent {
            log.record(&Fact::Settled(&exchange()));
        }
        drop(stuck);
        log.close();
        let written =
            out.0.lock().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count() as u64;
        let dropped = vitals.dropped(DropStage::RequestLog).get();
        assert!(dropped > 0);
        assert_eq!(written + dropped, sent);
    }

    #[test]
    fn a_rotated_file_is_followed() {
        let folder = std::env::temp_dir().join(format!("streamgauge-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, rotated) = (folder.join("log"), folder.join("log.1"));
        let mut file = LogFile::open(&path).unwrap();
        file.write_all(b"a\n").unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        file.follow();
        file.write_all(b"b\n").unwrap();
        assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "a\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b\n");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_sample_takes_about_its_share() {
        let out = Shared::default();
        let log = RequestLog::start(Box::new(out), 0.25, Arc::default()).unwrap();
        let taken = (0..4000)
            .filter(|n| {
                log.samples(&Exchange { request_id: Name::from(n.to_string().as_str()), ..exchange() })
            })
            .count();
        assert!((800..1200).contains(&taken), "{taken} of 4000");
    }
}
