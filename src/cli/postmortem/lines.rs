//! Reads request logs, line by line, in bounded memory.
#![expect(clippy::print_stderr, reason = "a log of gigabytes takes minutes, and says so")]

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::ops::postmortem::findings::Main;
use crate::ops::postmortem::log::Log;

const LINE: usize = 64 << 10; // a line of the log has a kilobyte; what is longer is none
const BUFFER: usize = 1 << 20;
const PROGRESS: u64 = 5_000_000; // lines: some ten seconds

/// What the logs say of the incident.
pub(super) fn read(paths: &[PathBuf], main: &Main) -> anyhow::Result<Log> {
    let mut log = Log::new(&main.incident, &main.objective);
    for path in paths {
        let failed = || format!("--log {}: could not read it", path.display());
        if path.as_os_str() == "-" {
            lines(io::stdin().lock(), &mut log).with_context(failed)?;
        } else {
            let file = File::open(path).with_context(failed)?;
            lines(BufReader::with_capacity(BUFFER, file), &mut log).with_context(failed)?;
        }
    }
    if log.lines > 0 && log.broken == log.lines {
        bail!(
            "--log: none of its {} lines is of a request log; is it compressed? zcat it into --log -",
            log.lines
        );
    }
    Ok(log)
}

fn lines(mut from: impl BufRead, log: &mut Log) -> io::Result<()> {
    let mut line = Vec::new();
    let mut is_too_long = false;
    loop {
        let read = from.fill_buf()?;
        if read.is_empty() {
            break;
        }
        let end = memchr::memchr(b'\n', read);
        let part = read.get(..end.unwrap_or(read.len())).unwrap_or_default();
        if line.len() + part.len() > LINE {
            is_too_long = true;
        } else {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            give(&mut line, &mut is_too_long, log);
        }
    }
    // The last line may lack its end: the log is being written.
    give(&mut line, &mut is_too_long, log);
    Ok(())
}

fn give(line: &mut Vec<u8>, is_too_long: &mut bool, log: &mut Log) {
    if std::mem::take(is_too_long) {
        log.skip()
    } else {
        log.take(line)
    }
    line.clear();
    if log.lines > 0 && log.lines.is_multiple_of(PROGRESS) {
        eprintln!("streamgauge: read {} lines of the log", log.lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::postmortem::detect::{Incident, Objective};

    #[test]
    fn lines_are_cut_anywhere_and_long_ones_are_skipped() {
        let incident = Incident {
            span: crate::ops::postmortem::Span { begin: 1_795_500_000.0, end: 1_795_500_060.0 },
            first_seen: 0.0,
            last_before: 0.0,
            began_before: false,
            goes_on: false,
            parties: Vec::new(),
        };
        let good = r#"{"time":"2026-11-24T06:00:10.000Z","request_id":"a","tenant":"t","model":"m","outcome":"completed","duration_seconds":1}"#;
        let text = format!("{good}\n\n{}\n{{}}\n{good}", "x".repeat(3 * LINE));
        for capacity in [1, 7, 100, BUFFER] {
            let mut log = Log::new(&incident, &Objective::default());
            lines(BufReader::with_capacity(capacity, text.as_bytes()), &mut log).unwrap();
            assert_eq!((log.lines, log.broken, log.within), (4, 2, 2), "{capacity}");
        }
    }
}
