//! The ledger on a disk that fails when it is told to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::writer::LedgerFile;
use super::*;
use crate::exchange::{Cost, Count, Usage};

fn exchange() -> Exchange {
    Exchange {
        stream: true,
        input: Some(Count::reported(30)),
        output: Some(Count::estimated(7)),
        usage: Usage { input: Some(30), cache_read: Some(20), audio_input: Some(0), ..Usage::default() },
        ..Exchange::completed()
    }
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Bytes of each file that a crash would leave.
    synced: BTreeMap<String, usize>,
    /// Bytes that the disk still takes; no bound where nothing.
    room: Option<usize>,
    sync_fails: bool,
    /// So many failures, and then there is room again.
    heals_after: Option<u32>,
}

/// A disk whose files can be looked at. What holds its lock holds the disk.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<State>>);

struct MemoryFile {
    state: Arc<Mutex<State>>,
    name: String,
}

impl Disk for Memory {
    type File = MemoryFile;

    fn create(&mut self, name: &str) -> io::Result<MemoryFile> {
        assert!(self.0.lock().files.insert(name.to_owned(), Vec::new()).is_none(), "{name} was there");
        Ok(MemoryFile { state: Arc::clone(&self.0), name: name.to_owned() })
    }

    fn remove(&mut self, name: &str) {
        let removed = self.0.lock().files.remove(name);
        assert!(removed.unwrap().is_empty(), "{name} had something in it");
    }
}

impl LedgerFile for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        let taken = state.room.unwrap_or(usize::MAX).min(bytes.len());
        if taken == 0 {
            state.heals_after = state.heals_after.map(|more| more - 1);
            if state.heals_after == Some(0) {
                state.room = None;
            }
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.room = state.room.map(|room| room - taken);
        state.files.get_mut(&self.name).unwrap().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.sync_fails {
            return Err(io::Error::other("EIO"));
        }
        let length = state.files[&self.name].len();
        state.synced.insert(self.name.clone(), length);
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.state.lock().files.get_mut(&self.name).unwrap().truncate(usize::try_from(length).unwrap());
        Ok(())
    }
}

struct Bench {
    disk: Memory,
    vitals: Arc<Vitals>,
    ledger: UsageLedger,
}

impl Bench {
    fn start(rotate: u64, sync: Duration, state: State) -> Self {
        let (disk, vitals) = (Memory(Arc::new(Mutex::new(state))), Arc::<Vitals>::default());
        let terms = Terms { rotate, sync, retry: Duration::ZERO };
        let ledger = UsageLedger::start(disk.clone(), terms, Arc::clone(&vitals), Clock::start()).unwrap();
        Self { disk, vitals, ledger }
    }

    fn record(&self, lines: u64) {
        for number in 0..lines {
            let request_id = Name::from(number.to_string().as_str());
            self.ledger.record(&Fact::Settled(&Exchange { request_id, ..exchange() }));
        }
    }

    fn lost(&self) -> u64 {
        self.vitals.dropped(DropStage::UsageLedger).get()
    }

    /// The lines of each file, in the files' order; all of them whole.
    fn files(&self) -> Vec<Vec<Value>> {
        let whole = |text: &Vec<u8>| {
            assert_eq!(text.last(), Some(&b'\n'));
            text.split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect()
        };
        self.disk.0.lock().files.values().map(whole).collect()
    }

    fn numbers(&self) -> Vec<u64> {
        self.files().concat().iter().map(|line| line["seq"].as_u64().unwrap()).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);
const LARGE: u64 = 100_000_000;

#[test]
fn a_line_has_what_a_bill_needs_and_nothing_that_is_unknown() {
    let cost = Cost { pico: 15_180_000_000_001, currency: Name::from("EUR"), version: Name::from("2026-11") };
    let billed = Exchange { cost: Some(cost), ..exchange() };
    let line = String::from_utf8(line(&billed, "00ff", 7).unwrap()).unwrap();
    let want = concat!(
        r#"{"time":"2026-11-24T06:00:00.125Z","run":"00ff","seq":7,"request_id":"r-1","tenant":"search","model":"m","#,
        r#""model_requested":"m","upstream":"default","dialect":"openai_chat","code":200,"outcome":"completed","#,
        r#""input_tokens":30,"input_source":"reported","cache_read_input_tokens":20,"output_tokens":7,"#,
        r#""output_source":"estimated","cost":15.180000000001,"currency":"EUR","price_version":"2026-11","#,
        r#""audio_input_tokens":0,"config":"abc"}"#,
        "\n"
    );
    assert_eq!(line, want);
    let unpriced = Exchange { unpriced: Some(Unpriced::Price), ..exchange() };
    let line: Value = serde_json::from_slice(&super::line(&unpriced, "00ff", 8).unwrap()).unwrap();
    assert_eq!((line.get("cost"), &line["unpriced"]), (None, &json!("price")));
}

#[test]
fn every_exchange_is_written_and_synced_before_the_ledger_is_closed() {
    let bench = Bench::start(LARGE, SECOND, State::default());
    bench.record(5_000);
    bench.ledger.record(&Fact::Ended(&exchange()));
    bench.ledger.close();
    assert_eq!(bench.numbers(), (1..=5_000).collect::<Vec<_>>());
    let runs: Vec<_> = bench.files().concat().iter().map(|line| line["run"].clone()).collect();
    assert!(runs.iter().all(|run| *run == json!(bench.ledger.run)) && bench.ledger.run.len() == 16);
    let state = bench.disk.0.lock();
    assert_eq!(state.synced.values().sum::<usize>(), state.files.values().map(Vec::len).sum::<usize>());
    drop(state);
    bench.record(1);
    assert_eq!(bench.lost(), 1, "too late");
}

#[test]
fn a_file_that_would_be_too_large_is_followed_by_the_next_in_the_order_of_names() {
    let bench = Bench::start(4_096, SECOND, State::default());
    bench.record(1_000);
    bench.ledger.close();
    let files = bench.files();
    assert!(files.len() > 50 && files.iter().all(|file| file.len() > 5), "{} files", files.len());
    assert!(bench.disk.0.lock().files.values().all(|text| text.len() <= 4_096));
    assert_eq!(bench.numbers(), (1..=1_000).collect::<Vec<_>>());
    assert_eq!(bench.lost(), 0);
}

#[test]
fn without_a_time_to_sync_each_line_is_synced_when_it_is_written() {
    let bench = Bench::start(LARGE, Duration::ZERO, State::default());
    bench.record(1);
    let synced = || bench.disk.0.lock().synced.values().sum::<usize>();
    while synced() == 0 {
        std::thread::yield_now();
    }
    bench.ledger.close();
    assert_eq!(bench.numbers(), [1]);
}

#[test]
fn a_disk_that_is_full_for_a_while_loses_nothing_and_spoils_no_file() {
    let bench =
        Bench::start(LARGE, SECOND, State { room: Some(1_000), heals_after: Some(5), ..State::default() });
    bench.record(200);
    while bench.disk.0.lock().room.is_some() {
        std::thread::yield_now();
    }
    bench.record(200);
    bench.ledger.close();
    assert_eq!(bench.numbers(), (1..=400).collect::<Vec<_>>());
    let files = bench.files();
    assert_eq!(files.len(), 2, "the full one and a fresh one; none without a line");
    assert_eq!((files[0].len(), bench.lost()), (2, 0), "two lines had room");
}

#[test]
fn what_a_full_disk_does_not_take_before_the_end_is_counted() {
    let bench = Bench::start(LARGE, SECOND, State { room: Some(1_000), ..State::default() });
    bench.record(300);
    bench.ledger.close();
    let written = bench.numbers();
    assert_eq!(written, [1, 2]);
    assert_eq!(bench.lost(), 298);
}

#[test]
fn a_stuck_disk_never_holds_traffic_and_what_is_lost_leaves_gaps() {
    let bench = Bench::start(LARGE, SECOND, State::default());
    let sent = QUEUE as u64 * 2;
    let stuck = bench.disk.0.lock();
    bench.record(sent);
    drop(stuck);
    bench.ledger.close();
    let (written, lost) = (bench.numbers(), bench.lost());
    assert!(lost > 0 && written.len() >= QUEUE);
    assert_eq!(written.len() as u64 + lost, sent);
    assert!(written.windows(2).all(|pair| pair[0] < pair[1]), "no number twice, and in order");
}

#[test]
fn lines_that_a_failed_sync_leaves_in_doubt_count_as_lost() {
    let bench = Bench::start(LARGE, Duration::ZERO, State { sync_fails: true, ..State::default() });
    bench.record(1);
    while bench.lost() == 0 {
        std::thread::yield_now();
    }
    bench.disk.0.lock().sync_fails = false;
    bench.record(1);
    bench.ledger.close();
    assert_eq!((bench.lost(), bench.numbers()), (1, vec![1, 2]));
    assert_eq!(bench.files().len(), 2, "the file whose sync failed is not written to again");
}

#[test]
fn a_run_without_exchanges_leaves_no_file() {
    let bench = Bench::start(LARGE, SECOND, State::default());
    bench.ledger.close();
    assert!(bench.disk.0.lock().files.is_empty());
}
