//! The request log: one JSON object a line for each exchange. Never a prompt, an answer, a key, or any
//! header's value but the ids.
//!
//! Lines are written by a thread of its own behind a bounded queue: a slow disk or a blocked pipe loses
//! lines, which are counted, and nothing else.

mod line;

use std::fs::{File, Metadata, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub use line::Line;
pub(super) use line::put_tokens;

use super::json::is_torn;
use super::{Fact, Sink};
use crate::config::{LogPath, RequestLog as Settings};
use crate::exchange::Exchange;
use crate::vitals::{DropStage, Vitals};

const QUEUE: u64 = 8_192; // lines: some seconds of a blocked pipe at a thousand a second

/// The sink.
#[derive(Debug)]
pub struct RequestLog {
    sample: f64,
    vitals: Arc<Vitals>,
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What waits to be written. Lines are written into one text, from end to end: each by itself would be a piece of
/// memory that one thread takes and another gives back.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// The first line has come, or the log is closed.
    changed: Condvar,
    /// Lines that are not written yet.
    lines: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    is_closed: bool,
}

impl RequestLog {
    /// A log as configured; none where it goes nowhere.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(settings: &Settings, vitals: Arc<Vitals>) -> io::Result<Option<Self>> {
        let out = match &settings.path {
            None => return Ok(None),
            Some(LogPath::Stdout) => LogFile::stdout()?,
            Some(LogPath::File(path)) => LogFile::open(path)?,
        };
        let is_torn = out.is_torn();
        Self::start(Box::new(out), is_torn, settings.sample, vitals).map(Some)
    }

    fn start(out: Box<dyn Out>, is_torn: bool, sample: f64, vitals: Arc<Vitals>) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let writer = Writer { queue: Arc::clone(&queue), out, is_torn, vitals: Arc::clone(&vitals) };
        let writer = std::thread::Builder::new().name("request-log".into()).spawn(move || writer.run())?;
        Ok(Self { sample, vitals, queue, writer: Mutex::new(Some(writer)) })
    }

    /// Lines that are not written yet.
    pub fn waiting(&self) -> u64 {
        self.queue.lines.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends; waits for it as long as that takes. Further facts are dropped and
    /// counted.
    pub fn close(&self) {
        self.queue.close();
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

impl Drop for RequestLog {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Sink for RequestLog {
    fn record(&self, fact: &Fact<'_>) {
        let Fact::Settled(exchange) = fact else { return };
        if !self.samples(exchange) {
            return;
        }
        if !self.queue.push(&Line::of(exchange)) {
            self.vitals.dropped(DropStage::RequestLog).add_one();
        }
    }
}

impl Queue {
    /// Adds a line; gives whether there was room for it.
    fn push(&self, line: &Line<'_>) -> bool {
        let mut waiting = self.waiting.lock();
        let before = waiting.text.len();
        if waiting.is_closed || self.lines.load(Ordering::Relaxed) >= QUEUE {
            return false;
        }
        if line.write(&mut waiting.text).is_err() {
            waiting.text.truncate(before);
            return false;
        }
        waiting.text.push(b'\n');
        self.lines.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            self.changed.notify_one();
        }
        true
    }

    /// Waits for lines, and puts them where others have been. Gives whether there are any: if not, the log is closed.
    fn take(&self, text: &mut Vec<u8>) -> bool {
        let mut waiting = self.waiting.lock();
        self.changed.wait_while(&mut waiting, |waiting| waiting.text.is_empty() && !waiting.is_closed);
        // Lines gather for a moment: a thread that is woken for each costs more than the line.
        let gathers = |waiting: &mut Waiting| waiting.text.len() < PIECE && !waiting.is_closed;
        self.changed.wait_while_for(&mut waiting, gathers, GATHER);
        text.clear();
        std::mem::swap(text, &mut waiting.text);
        !text.is_empty()
    }

    fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.changed.notify_one();
    }
}

/// Where lines are written.
trait Out: Send {
    /// Writes the beginning of a text; gives how much of it.
    fn write(&mut self, text: &[u8]) -> io::Result<usize>;

    /// Looks whether the place has moved. If so, whether what lies there ends in the midst of a line.
    fn follow(&mut self) -> Option<bool> {
        None
    }
}

/// A file that is opened anew where its name leads to another one, as after a rotation; or standard output, without the
/// buffer that the library has before it: what was written is out.
struct LogFile {
    path: Option<PathBuf>,
    file: File,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: Some(path.to_owned()), file })
    }

    fn stdout() -> io::Result<Self> {
        Ok(Self { path: None, file: File::from(io::stdout().as_fd().try_clone_to_owned()?) })
    }

    /// Whether it ends in the midst of a line; what cannot be read is taken for whole.
    fn is_torn(&self) -> bool {
        let path = self.path.as_ref().filter(|_| self.file.metadata().is_ok_and(|of| of.is_file()));
        path.is_some_and(|path| File::open(path).and_then(|file| is_torn(&file)).unwrap_or_default())
    }
}

impl Out for LogFile {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.file.write(text)
    }

    fn follow(&mut self) -> Option<bool> {
        let path = self.path.as_ref()?;
        let id = |metadata: io::Result<Metadata>| metadata.ok().map(|of| (of.dev(), of.ino()));
        if id(std::fs::metadata(path)) == id(self.file.metadata()) {
            return None;
        }
        *self = Self::open(path).ok()?;
        Some(self.is_torn())
    }
}

/// The thread that writes.
struct Writer {
    queue: Arc<Queue>,
    out: Box<dyn Out>,
    /// What was written ends in the midst of a line.
    is_torn: bool,
    vitals: Arc<Vitals>,
}

const GATHER: Duration = Duration::from_millis(20);
const PIECE: usize = 64 << 10; // bytes written at once
const KEPT: usize = 1 << 20; // bytes of room that are kept after a burst

impl Writer {
    fn run(mut self) {
        let mut text = Vec::new();
        while self.queue.take(&mut text) {
            self.write_lines(&text);
            text.clear();
            text.shrink_to(KEPT);
        }
    }

    fn write_lines(&mut self, text: &[u8]) {
        self.is_torn = self.out.follow().unwrap_or(self.is_torn);
        let mut rest = text;
        if !self.is_torn || self.write(b"\n") == 1 {
            self.is_torn = false;
            while let Some((piece, more)) = rest.split_at_checked(self.write(rest))
                && let Some(last) = piece.last()
            {
                self.is_torn = *last != b'\n';
                self.queue.lines.fetch_sub(lines(piece), Ordering::Relaxed);
                rest = more;
            }
        }
        let lost = lines(rest);
        self.vitals.dropped(DropStage::RequestLog).add(lost);
        self.queue.lines.fetch_sub(lost, Ordering::Relaxed);
    }

    /// Writes the beginning of a text; gives how much of it: nothing where it cannot be written.
    fn write(&mut self, text: &[u8]) -> usize {
        let piece = text.get(..PIECE).unwrap_or(text);
        if piece.is_empty() {
            return 0;
        }
        loop {
            match self.out.write(piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return written.unwrap_or(0),
            }
        }
    }
}

/// How many lines end in a text.
fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{Count, FinishReason, Name, Timing, ToldLimits, UpstreamLimits, Usage};

    fn exchange() -> Exchange {
        Exchange {
            tenant: Name::from("se\"arch"),
            stream: true,
            finish_reasons: [FinishReason::Stop].into_iter().collect(),
            timing: Timing { ttft: Some(Duration::from_micros(212_345)), ..Timing::default() },
            input: Some(Count::reported(30)),
            usage: Usage { input: Some(30), ..Usage::default() },
            chunks: 24,
            bytes_in: 120,
            bytes_out: 4000,
            in_flight_at_start: 3,
            ..Exchange::completed()
        }
    }

    fn text(exchange: &Exchange) -> Vec<u8> {
        let mut text = Vec::new();
        Line::of(exchange).write(&mut text).unwrap();
        text
    }

    /// A writer whose bytes can be read, and which may be stuck.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Out for Shared {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(text);
            Ok(text.len())
        }
    }

    #[test]
    fn a_line_says_what_is_known_and_leaves_out_what_is_not() {
        let line = text(&exchange());
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
    fn the_upstreams_own_limits_stand_in_the_line_as_they_were_told() {
        let mut limits = UpstreamLimits::default();
        for (name, value) in [
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-tokens", "159976"),
            ("x-ratelimit-reset-tokens", "6m0.5s"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-24T06:00:09Z"),
        ] {
            limits.take(name, value);
        }
        let wall = std::time::UNIX_EPOCH + Duration::from_millis(1_795_500_000_000);
        let told = ToldLimits { at: crate::clock::Moment::default(), wall, limits: Box::new(limits) };
        let told = Exchange { limits: Some(told), ..exchange() };
        let text = String::from_utf8(text(&told)).unwrap();
        let ratelimit = r#","ratelimit":{"requests":{"limit":5000},"tokens":{"remaining":159976,"reset_seconds":360.5},"input_tokens":{"reset_seconds":9.0}},"#;
        assert!(text.contains(ratelimit), "{text}");
        let line = serde_json::to_value(Line::reproducible(&told)).unwrap();
        assert_eq!(line["ratelimit"]["tokens"]["reset_seconds"], 360.5);
        assert_eq!(line["ratelimit"]["input_tokens"], serde_json::json!({}), "by the wall clock");
        assert_eq!(serde_json::to_value(Line::of(&exchange())).unwrap().get("ratelimit"), None);
    }

    #[test]
    fn every_line_is_written_before_the_log_is_closed() {
        let out = Shared::default();
        let log = RequestLog::start(Box::new(out.clone()), false, 1.0, Arc::default()).unwrap();
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
        let log = RequestLog::start(Box::new(out.clone()), false, 1.0, Arc::clone(&vitals)).unwrap();
        let stuck = out.0.lock();
        let sent = QUEUE * 2;
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

    /// A disk with room for so many bytes, and what is on it.
    #[derive(Clone)]
    struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Out for Disk {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let (room, held) = &mut *self.0.lock();
            let taken = &text[..text.len().min(*room)];
            *room -= taken.len();
            held.extend_from_slice(taken);
            if taken.is_empty() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken.len()) }
        }
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_lost_and_counted_and_no_other_line_with_it() {
        let line = [text(&exchange()), b"\n".to_vec()].concat();
        let size = line.len();
        for (room, lost) in
            [(0, 10), (size - 2, 10), (size, 9), (7 * size, 3), (7 * size + 1, 3), (10 * size, 0)]
        {
            let disk = Disk(Arc::new(Mutex::new((room, Vec::new()))));
            let vitals = Arc::new(Vitals::default());
            let queue = Arc::new(Queue { lines: AtomicU64::new(12), ..Queue::default() });
            let mut writer = Writer {
                queue: Arc::clone(&queue),
                out: Box::new(disk.clone()),
                is_torn: false,
                vitals: Arc::clone(&vitals),
            };
            writer.write_lines(&line.repeat(10));
            assert_eq!(vitals.dropped(DropStage::RequestLog).get(), lost, "room for {room} bytes");
            writer.write_lines(&line);
            disk.0.lock().0 = 2 * size; // somebody has made room
            writer.write_lines(&line);
            assert_eq!(vitals.dropped(DropStage::RequestLog).get(), lost + 1);
            let held = disk.0.lock().1.clone();
            let whole = held.split_inclusive(|byte| *byte == b'\n').filter(|held| *held == line).count();
            assert_eq!(whole as u64, 10 - lost + 1, "room for {room} bytes");
            assert_eq!(queue.lines.load(Ordering::Relaxed), 0, "each was written or lost");
        }
    }

    #[test]
    fn a_rotated_file_is_followed() {
        let folder = std::env::temp_dir().join(format!("streamgauge-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, rotated) = (folder.join("log"), folder.join("log.1"));
        let mut file = LogFile::open(&path).unwrap();
        assert_eq!(file.write(b"a\n").unwrap(), 2);
        std::fs::rename(&path, &rotated).unwrap();
        assert_eq!(file.follow(), Some(false));
        assert_eq!(file.write(b"b\n").unwrap(), 2);
        assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "a\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b\n");
        assert_eq!(file.write(b"c").unwrap(), 1); // and then the machine went down
        assert!(LogFile::open(&path).unwrap().is_torn());
        assert!(!LogFile::open(&rotated).unwrap().is_torn());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_sample_takes_about_its_share() {
        let out = Shared::default();
        let log = RequestLog::start(Box::new(out), false, 0.25, Arc::default()).unwrap();
        let taken = (0..4000)
            .filter(|n| {
                log.samples(&Exchange { request_id: Name::from(n.to_string().as_str()), ..exchange() })
            })
            .count();
        assert!((800..1200).contains(&taken), "{taken} of 4000");
    }
}
