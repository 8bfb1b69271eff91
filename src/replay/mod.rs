//! Recorded exchanges through the observer, without a network; and the explanation of one, for people. Pure:
//! who has files or a connection hands over bytes and moments.

pub mod case;
pub mod difference;
pub mod recording;

mod numbers;
mod page;
mod rows;

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime};

use crate::account::learned::Learned;
use crate::account::model::Models;
use crate::account::settle::{Counts, Finished, settle};
use crate::account::slo::Slos;
use crate::clock::Moment;
use crate::dialect::{self, Dialect};
use crate::exchange::{self, DialectId, Exchange, Name, Unobserved};
use crate::live::Origin;
use crate::observe::{Head, Observation, Observer};

use case::{Case, Request, Response};
use page::Page;
use rows::{Row, Rows};

/// A case's bytes as they are handed over.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    /// Of the request's body.
    pub request: Vec<(Duration, &'a [u8])>,
    /// Of the answer's body, each at its time.
    pub response: Vec<(Duration, &'a [u8])>,
}

impl<'a> Pieces<'a> {
    /// As they were recorded.
    pub fn of(case: &'a Case) -> Self {
        let body = case.response.iter().flat_map(|response| &response.body);
        Self {
            request: vec![(Duration::ZERO, case.request.body.as_slice())],
            response: body.map(|(at, bytes)| (*at, bytes.as_slice())).collect(),
        }
    }
}

/// What an observer sees of a case whose bytes come in these pieces, and how many token events it told of
/// while they came.
pub fn observe(case: &Case, pieces: &Pieces<'_>) -> (Observation, u64) {
    let mut observer = Observer::new(spoken(&case.request), Moment::default()).on_path(case.request.path());
    let token_events = play(case, pieces, &mut observer);
    (finish(observer, case.ending.transport(), Moment::new(case.ended)), token_events)
}

/// What an observation of an exchange in this dialect means, to a proxy that has nothing configured.
pub fn settled(
    dialect: Result<&dyn Dialect, Unobserved>,
    observation: Observation,
    ending: exchange::Ending,
) -> Exchange {
    let origin = Origin {
        number: 0,
        request_id: Name::from("replay"),
        trace_id: None,
        tenant: Name::from("anonymous"),
        upstream: Name::from("default"),
        dialect: dialect.map_or(DialectId::UNKNOWN, |dialect| dialect.id()),
        started: observation.clocks.started,
    };
    let finished = Finished {
        origin,
        observation,
        ending,
        connect: None,
        overhead_request: None,
        overhead_response: Duration::ZERO,
        limited: None,
        in_flight_at_start: 0,
    };
    settle(
        finished,
        Counts::default(),
        &Models::default(),
        &Slos::default(),
        &Learned::default(),
        Name::from("replay"),
        SystemTime::UNIX_EPOCH,
    )
}

/// What a case means.
pub fn exchange(case: &Case, observation: Observation) -> Exchange {
    settled(spoken(&case.request), observation, case.ending.transport())
}

/// A case as a timeline for people. `show_text`: with the text that was generated.
pub fn explain(case: &Case, show_text: bool) -> String {
    let Request { method, target, .. } = &case.request;
    let mut explainer = Explainer::new(method, target, Moment::default(), show_text);
    let mut text = explainer.begin();
    play(case, &Pieces::of(case), explainer.observer());
    text += &explainer.news();
    text + &explainer.finish(case.ending.transport(), Moment::new(case.ended))
}

/// Explains one exchange while it goes on.
#[derive(Debug)]
pub struct Explainer {
    observer: Observer,
    rows: Receiver<Row>,
    page: Page,
    dialect: Result<&'static dyn Dialect, Unobserved>,
    first_line: String,
}

impl Explainer {
    /// Begins with a request to `target` that was begun at `started`.
    pub fn new(method: &str, target: &str, started: Moment, show_text: bool) -> Self {
        let dialect = dialect::find(method, path(target));
        let (out, rows) = channel();
        let observer =
            Observer::new(dialect, started).on_path(path(target)).traced(Box::new(Rows::new(out, show_text)));
        let what = match dialect {
            Ok(dialect) => format!("the dialect {}", dialect.id().0),
            Err(why) => format!("no dialect: {}", why.label()),
        };
        // A query may hold a key.
        let query = if target.contains('?') { "?…" } else { "" };
        let first_line = format!("{method} {}{query}   ({what})\n\n", page::escaped(path(target)));
        Self { observer, rows, page: Page::new(started), dialect, first_line }
    }

    /// What is to be shown before anything comes.
    pub fn begin(&self) -> String {
        format!("{}{}", self.first_line, Page::heading())
    }

    /// Who is to be handed the bytes.
    pub fn observer(&mut self) -> &mut Observer {
        &mut self.observer
    }

    /// What is to be shown of all that came since it was last asked.
    pub fn news(&mut self) -> String {
        self.rows.try_iter().map(|row| self.page.row(row)).collect()
    }

    /// What is to be shown at the end.
    pub fn finish(self, ending: exchange::Ending, at: Moment) -> String {
        let Self { observer, rows, mut page, dialect, .. } = self;
        let seen = finish(observer, ending, at);
        let last: String = rows.try_iter().map(|row| page.row(row)).collect();
        let exchange = settled(dialect, seen.clone(), ending);
        format!("{last}{}", page.end(&seen, &exchange, ending))
    }
}

/// Hands a case's bytes to an observer; gives how many token events it told of.
fn play(case: &Case, pieces: &Pieces<'_>, observer: &mut Observer) -> u64 {
    pieces.request.iter().for_each(|(_, bytes)| observer.request_chunk(bytes));
    observer.request_end(Moment::default());
    if let Some(response) = &case.response {
        observer.head(&head(&case.request, response), Moment::new(response.head));
    }
    let chunks = pieces.response.iter();
    chunks.map(|(time, bytes)| observer.response_chunk(bytes, Moment::new(*time)).token_events).sum()
}

/// Where the upstream gave no head, the client gets the proxy's own answer.
fn finish(mut observer: Observer, ending: exchange::Ending, at: Moment) -> Observation {
    let mut seen = observer.finish(ending, at);
    seen.closure.code = seen.closure.code.or(match ending {
        exchange::Ending::NoAnswer => Some(502),
        exchange::Ending::TimedOut => Some(504),
        _ => None,
    });
    seen
}

fn spoken(request: &Request) -> Result<&'static dyn Dialect, Unobserved> {
    dialect::find(&request.method, request.path())
}

fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

fn head<'a>(request: &Request, response: &'a Response) -> Head<'a> {
    Head::of(request.method == "HEAD", response.status, response.headers.texts())
}
