//! One upstream, ready to be sent to: over connections of HTTP/1, or over shared ones.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::connect::{Connector, Dial, Line};
use super::inject::Injection;
use super::lanes::{Lanes, Load};
use super::pool::{self, Pool};
use super::upload::RequestTap;
use super::{headers, tls};
use crate::clock::{Clock, Moment};
use crate::config;
use crate::vitals::{UpstreamVitals, UsageInjection, Vitals};

const TELL_EVERY: Duration = Duration::from_secs(10); // an upstream that is down fails thousands of requests

/// One upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) settings: config::Upstream,
    pub(super) vitals: Arc<UpstreamVitals>,
    way: Way,
    told: Mutex<Told>,
    /// It has refused requests for the option that asks for usage.
    refuses_asking: AtomicBool,
}

#[derive(Debug)]
enum Way {
    Http1(Arc<Pool>),
    /// HTTP/2, or what TLS agrees on.
    Shared(Arc<Lanes>),
}

/// What of its failures has been logged.
#[derive(Debug, Default)]
struct Told {
    last: Option<Moment>,
    since: u64,
}

/// An answer's head and body, and what its connection tells.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// None where the library did not hand it on.
    pub(super) line: Option<Line>,
    pub(super) lease: Lease,
    /// Where the request was made to ask for usage.
    pub(super) injection: Option<Box<Injection>>,
}

/// Holds an exchange's connection, or its place on one.
#[derive(Debug)]
pub(super) enum Lease {
    Http1(Box<pool::Lease>),
    Shared { _load: Load },
}

/// A request on its way.
pub(super) type Sending = Pin<Box<dyn Future<Output = Result<Answer, SendError>> + Send>>;

/// Why there is no answer.
pub(super) type SendError = Box<dyn std::error::Error + Send + Sync>;

impl Lease {
    /// The answer has ended cleanly: the connection may be used again.
    pub(super) fn keep(self, now: Moment) {
        if let Self::Http1(lease) = self {
            lease.keep(now);
        }
    }
}

impl Upstream {
    /// An upstream as configured.
    ///
    /// # Errors
    /// A file named for TLS cannot be read or used.
    pub(super) fn new(
        settings: config::Upstream,
        vitals: &Vitals,
        clock: Clock,
        dial: Dial,
    ) -> Result<Self, tls::Error> {
        let target = &settings.target;
        let connector = Connector::new(dial, target, settings.connect_timeout, clock)?;
        let way = if target.http2 || target.tls.is_some() {
            Way::Shared(Arc::new(Lanes::new(connector, &settings, clock)))
        } else {
            Way::Http1(Pool::new(connector, settings.pool_idle_timeout, clock))
        };
        let vitals = vitals.upstream(&settings.name);
        if settings.inject_usage {
            vitals.injections(UsageInjection::Asked); // its series are there from the start
        }
        Ok(Self { vitals, way, told: Mutex::default(), refuses_asking: AtomicBool::new(false), settings })
    }

    /// Whether its streams are to be asked for usage.
    pub(super) fn takes_asking(&self) -> bool {
        self.settings.inject_usage && !self.refuses_asking.load(Ordering::Relaxed)
    }

    /// It has refused a request only for asking for usage: it is asked no more.
    pub(super) fn refused_asking(&self) {
        if !self.refuses_asking.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                upstream = %self.settings.name,
                "refuses stream_options.include_usage, so it is not asked for usage any more; tokens that it does not \
                 report are counted or estimated. Take inject_usage out of its configuration, or reload once it knows \
                 the option"
            );
        }
    }

    /// It may be asked for usage again.
    pub(super) fn forget_refusal(&self) {
        self.refuses_asking.store(false, Ordering::Relaxed);
    }

    /// Sends a request whose head is the client's. One that was not sent on a connection that turned out dead
    /// is sent again; one of which a byte went out never is.
    pub(super) fn send(&self, request: Request<RequestTap>, upgrade: bool, now: Moment) -> Sending {
        let to_http2 = self.settings.target.http2;
        let (mut head, body) = request.into_parts();
        headers::set_host(&mut head, self.settings.host, &self.settings.target.authority);
        head.uri = match &self.way {
            Way::Http1(_) => path(&head.uri),
            Way::Shared(lanes) => lanes.uri(&head.uri, &head.headers),
        };
        headers::prepare_request(&mut head, upgrade, to_http2);
        if to_http2 {
            head.headers.remove(http::header::HOST); // `:authority` says it
        }
        let request = Request::from_parts(head, body);
        match &self.way {
            Way::Http1(pool) => Arc::clone(pool).send(request, now),
            Way::Shared(lanes) => {
                let lanes = Arc::clone(lanes);
                Box::pin(async move {
                    let (response, load) = lanes.send(request).await?;
                    let line = response.extensions().get::<Line>().cloned();
                    Ok(Answer { response, line, lease: Lease::Shared { _load: load }, injection: None })
                })
            }
        }
    }

    /// Logs why a request got no answer, but not for each of many.
    pub(super) fn tell(&self, error: &(dyn std::error::Error + 'static), now: Moment) {
        let mut told = self.told.lock();
        if told.last.is_some_and(|last| now.since(last) < TELL_EVERY) {
            told.since += 1;
            return;
        }
        let more = std::mem::take(&mut told.since);
        told.last = Some(now);
        drop(told);
        tracing::warn!(upstream = %self.settings.name, more, "no answer: {}", chain(error));
    }
}

/// A path and query, as HTTP/1 has it.
fn path(target: &Uri) -> Uri {
    target.path_and_query().cloned().map_or_else(Uri::default, Uri::from)
}

/// An error and what stands behind it.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = said(error);
    let mut source = error.source();
    while let Some(error) = source {
        let more = said(error);
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// What an error says, without a server's last words: what a GOAWAY of HTTP/2 carries may repeat a request.
fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let closing = error.downcast_ref::<h2::Error>().filter(|error| error.is_go_away());
    match closing.and_then(h2::Error::reason) {
        Some(reason) => format!("the connection was closed: {reason}"),
        None => error.to_string(),
    }
}
