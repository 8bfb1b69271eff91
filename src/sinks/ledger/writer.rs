//! The thread that writes the ledger: when a file is begun, synced and left, and what happens while the disk fails.
//!
//! A file that failed is never written to again: what is not whole at its end is cut off, and the lines that it did not
//! take go into a fresh one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use crate::clock::{Clock, Moment};
use crate::config::UsageLedger as Settings;
use crate::vitals::{DropStage, Tally, Vitals};

const GATHER: Duration = Duration::from_millis(20); // a thread that is woken for each line costs more than the line
const BATCH: usize = 64 << 10; // bytes written at once when lines come faster than they are written
const RETRY: Duration = Duration::from_secs(1); // how often a disk that fails is tried again

/// Where files are.
pub(super) trait Disk: Send + 'static {
    type File: LedgerFile;

    /// A new file, whose name outlives a crash when this returns. An error where there is one of that name.
    fn create(&mut self, name: &str) -> io::Result<Self::File>;

    /// Takes away a file that holds nothing.
    fn remove(&mut self, name: &str);
}

/// A file.
pub(super) trait LedgerFile: Send {
    /// Writes as much as it can, at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Returns when what was written outlives a crash.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts off what is beyond.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

/// How files are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// No file becomes larger, but for a line that is.
    pub(super) rotate: u64,
    pub(super) sync: Duration,
    pub(super) retry: Duration,
}

impl Terms {
    pub(super) const fn of(settings: &Settings) -> Self {
        Self { rotate: settings.rotate, sync: settings.sync, retry: RETRY }
    }
}

/// The thread.
pub(super) struct Writer<D: Disk> {
    queue: Receiver<Vec<u8>>,
    disk: D,
    terms: Terms,
    run: String,
    closing: Arc<AtomicBool>,
    vitals: Arc<Vitals>,
    clock: Clock,
    open: Option<Open<D::File>>,
    /// Whole lines that are to be written next.
    batch: Vec<u8>,
    parts: u64,
    /// The time in the name of the last file: names ascend though the wall clock may step back.
    named: SystemTime,
    failing: bool,
    losing: bool,
    /// Lost lines that have been told.
    told: u64,
}

/// The file that is written.
struct Open<F> {
    file: F,
    name: String,
    /// Of whole lines.
    length: u64,
    /// Lines that a crash would take, and when they are synced.
    unsynced: u64,
    due: Moment,
}

impl<D: Disk> Writer<D> {
    pub(super) fn new(
        queue: Receiver<Vec<u8>>,
        disk: D,
        terms: Terms,
        run: String,
        closing: Arc<AtomicBool>,
        vitals: Arc<Vitals>,
        clock: Clock,
    ) -> Self {
        let (batch, named) = (Vec::with_capacity(BATCH), SystemTime::UNIX_EPOCH);
        let (open, parts, failing, losing, told) = (None, 0, false, false, 0);
        Self {
            queue,
            disk,
            terms,
            run,
            closing,
            vitals,
            clock,
            open,
            batch,
            parts,
            named,
            failing,
            losing,
            told,
        }
    }

    /// Writes what comes until nothing more can.
    pub(super) fn run(mut self) {
        loop {
            match self.next() {
                Ok(line) => {
                    std::thread::park_timeout(if self.is_closing() { Duration::ZERO } else { GATHER });
                    self.take(line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.sync_what_is_due();
        }
        self.leave();
        self.tell_losses();
    }

    /// The next line, as long as nothing is to be synced before.
    fn next(&self) -> Result<Vec<u8>, RecvTimeoutError> {
        match self.open.as_ref().filter(|open| open.unsynced > 0) {
            Some(open) => self.queue.recv_timeout(open.due.since(self.clock.now())),
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Writes a line and those that wait behind it; not more than a batch of them, so that syncing has its turn.
    fn take(&mut self, line: Vec<u8>) {
        let mut next = Some(line);
        let mut taken = 0;
        while let Some(line) = next.take() {
            let held = self.batch.len() + line.len();
            let written = self.open.as_ref().map_or(0, |open| open.length);
            if !self.batch.is_empty() && written + size(held) > self.terms.rotate {
                self.write();
            }
            self.batch.extend_from_slice(&line);
            taken += line.len();
            if taken < BATCH {
                next = self.queue.try_recv().ok();
            }
        }
        self.write();
    }

    /// Writes the batch, however long the disk fails; unless the ledger is closed, then once.
    fn write(&mut self) {
        while !self.batch.is_empty() {
            match self.try_write() {
                Ok(()) => self.works(),
                Err(error) => {
                    self.fails(&error);
                    if self.is_closing() {
                        return self.give_up();
                    }
                    std::thread::park_timeout(self.terms.retry);
                }
            }
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        let is_full =
            |open: &Open<_>| open.length > 0 && open.length + size(self.batch.len()) > self.terms.rotate;
        if self.open.as_ref().is_some_and(is_full) {
            self.leave();
        }
        if self.open.is_none() {
            self.create()?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let (bytes, written) = write_all(&mut open.file, &self.batch);
        let whole =
            self.batch.get(..bytes).and_then(|bytes| memchr::memrchr(b'\n', bytes)).map_or(0, |at| at + 1);
        if open.unsynced == 0 {
            open.due = self.clock.now() + self.terms.sync;
        }
        open.unsynced += lines(self.batch.get(..whole));
        open.length += size(whole);
        self.batch.drain(..whole);
        if written.is_err() {
            // Where this fails too, the line stands there without its end, which no reader takes for a line.
            let _: io::Result<()> = open.file.cut(open.length);
            self.leave();
        }
        written
    }

    /// Begins a file.
    pub(super) fn create(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        self.named = self.named.max(self.clock.wall(now));
        self.parts += 1;
        let time = humantime::format_rfc3339_millis(self.named).to_string().replace(['-', ':'], "");
        let name = format!("usage-{time}-{}-{:06}.jsonl", self.run, self.parts);
        let file = self.disk.create(&name)?;
        self.open = Some(Open { file, name, length: 0, unsynced: 0, due: now });
        Ok(())
    }

    fn sync_what_is_due(&mut self) {
        let now = self.clock.now();
        if self.open.as_ref().is_some_and(|open| open.unsynced > 0 && open.due <= now) {
            self.sync();
            self.tell_losses();
        }
    }

    /// Syncs the file. Where that fails nobody knows which lines the disk has: all since the last time count as lost,
    /// and the file is left.
    fn sync(&mut self) {
        let Some(open) = self.open.as_mut().filter(|open| open.unsynced > 0) else { return };
        match open.file.sync() {
            Ok(()) => open.unsynced = 0,
            Err(error) => {
                let doubtful = open.unsynced;
                self.lost().add(doubtful);
                self.open = None;
                self.fails(&error);
            }
        }
    }

    /// Syncs the file and is done with it; nothing is left of one that has no line.
    fn leave(&mut self) {
        self.sync();
        if let Some(open) = self.open.take()
            && open.length == 0
        {
            drop(open.file);
            self.disk.remove(&open.name);
        }
    }

    /// Counts what cannot be written any more.
    fn give_up(&mut self) {
        let waiting = self.queue.try_iter().count();
        self.lost().add(lines(Some(&self.batch)) + size(waiting));
        self.batch.clear();
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn lost(&self) -> &Tally {
        self.vitals.dropped(DropStage::UsageLedger)
    }

    fn fails(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "could not write the usage ledger; lines wait, and are lost when too many do");
        }
    }

    fn works(&mut self) {
        if std::mem::replace(&mut self.failing, false) {
            tracing::info!("the usage ledger is written again");
        }
    }

    /// Says that lines have been lost, when that begins and when it is over.
    fn tell_losses(&mut self) {
        let lost = self.lost().get();
        let lines = lost - std::mem::replace(&mut self.told, lost);
        match (lines > 0, self.losing) {
            (true, false) => tracing::error!(lines, "the usage ledger lacks lines: there are gaps in `seq`"),
            (false, true) => tracing::info!(lines = lost, "the usage ledger loses no more lines"),
            _ => {}
        }
        self.losing = lines > 0;
    }
}

/// How many bytes were written, and what stood in the way of the rest.
fn write_all(file: &mut impl LedgerFile, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.append(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

fn lines(text: Option<&[u8]>) -> u64 {
    size(memchr::memchr_iter(b'\n', text.unwrap_or_default()).count())
}

fn size(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
