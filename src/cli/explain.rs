//! `streamgauge explain`: one exchange as a timeline.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::recorded::Recorded;
use super::{Guarded, Interrupts, address};
use crate::clock::Clock;
use crate::exchange::Ending;
use crate::observe::Head;
use crate::replay::{self, Explainer};

/// See one exchange as a timeline: which event stopped which clock, where each number came from
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "See --help for examples.")]
pub(super) struct Args {
    /// A case's folder, or a recording's NAME.request.http
    #[arg(value_name = "FILE", required_unless_present = "url", conflicts_with = "url")]
    path: Option<PathBuf>,

    /// Ask this server now, and explain while the answer comes; http:// only
    #[arg(long, value_name = "URL", value_parser = Guarded(super::url))]
    url: Option<Uri>,

    /// The request's body, or @FILE that holds it; with it the method is POST
    #[arg(short = 'd', long = "data", value_name = "BODY|@FILE", requires = "url")]
    body: Option<String>,

    /// A header of the request, as curl takes it (repeatable)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", requires = "url", value_parser = Guarded(header))]
    headers: Vec<(HeaderName, HeaderValue)>,

    /// The method [default: POST with a body, else GET]
    #[arg(short = 'X', long, value_name = "METHOD", requires = "url")]
    method: Option<Method>,

    /// Show the generated text, not only its length
    #[arg(long)]
    show_text: bool,
}

const LIKE: &str = "http://127.0.0.1:8000/v1/chat/completions";

const EXAMPLES: &str = "\
EXAMPLES:
  streamgauge explain tests/golden/openai_chat/vllm_n_2
  streamgauge explain recordings/chat_stream.request.http
  streamgauge explain --url http://127.0.0.1:8000/v1/chat/completions \\
    -d '{\"model\": \"sim\", \"stream\": true, \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'
  streamgauge explain --url http://127.0.0.1:8080/v1/completions -H 'x-tenant-id: me' -d @body.json

Times are milliseconds since the request began. With --url they are taken where the command runs;
the request goes over a connection of its own, which is there before its clock starts. Ctrl-C leaves
as a client would, and the timeline says what that means.";

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(path) = &args.path {
        return show(&replay::explain(&Recorded::one(path)?.read()?, args.show_text));
    }
    let Some(url) = args.url.clone() else { bail!("there is neither a file nor a --url") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(live(args, &url))
}

/// Asks a server and prints what comes, as it comes.
async fn live(args: Args, url: &Uri) -> anyhow::Result<()> {
    let mut interrupts = Interrupts::listen()?;
    let authority = address("--url", url, LIKE)?;
    let stream =
        TcpStream::connect(&authority).await.with_context(|| format!("could not connect to {authority}"))?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let show_text = args.show_text;
    let (request, body) = request(args, url)?;
    let (method, target) = (request.method().clone(), request.uri().to_string());
    let clock = Clock::start();
    let mut explainer = Explainer::new(method.as_str(), &target, clock.now(), show_text);
    show(&explainer.begin())?;
    explainer.observer().request_chunk(&body);
    explainer.observer().request_end(clock.now());
    show(&explainer.news())?;
    let ending = {
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(async {
            let Ok(response) = sender.send_request(request).await else { return Ok(Ending::NoAnswer) };
            head(&mut explainer, &method, response.status().as_u16(), response.headers(), &clock);
            show(&explainer.news())?;
            read(&mut explainer, response.into_body(), &clock).await
        });
        let mut connected = true;
        loop {
            tokio::select! {
                ending = &mut answer => break ending?,
                _ = &mut connection, if connected => connected = false,
                () = interrupts.next() => break Ending::ClientGone,
            }
        }
    };
    show(&explainer.finish(ending, clock.now()))
}

/// Reads an answer's body to its end.
async fn read(explainer: &mut Explainer, mut body: Incoming, clock: &Clock) -> anyhow::Result<Ending> {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Ok(Ending::UpstreamBroke) };
        let at = clock.now();
        if let Some(bytes) = frame.data_ref() {
            explainer.observer().response_chunk(bytes, at);
            show(&explainer.news())?;
        }
    }
    Ok(Ending::Clean)
}

fn head(explainer: &mut Explainer, method: &Method, status: u16, headers: &HeaderMap, clock: &Clock) {
    let texts = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let head = Head::of(*method == Method::HEAD, status, texts);
    explainer.observer().head(&head, clock.now());
}

fn show(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn request(args: Args, url: &Uri) -> anyhow::Result<(Request<Full<Bytes>>, Bytes)> {
    let body = match args.body.as_deref().map(|body| (body, body.strip_prefix('@'))) {
        None => None,
        Some((_, Some(file))) => {
            Some(Bytes::from(std::fs::read(file).with_context(|| format!("could not read {file}"))?))
        }
        Some((text, None)) => Some(Bytes::copy_from_slice(text.as_bytes())),
    };
    let usual = if body.is_some() { Method::POST } else { Method::GET };
    let method = args.method.unwrap_or(usual);
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let host = url.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::builder().method(method).uri(target).header(HOST, host);
    if body.is_some() && !args.headers.iter().any(|(name, _)| name == CONTENT_TYPE) {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    for (name, value) in args.headers {
        if name == HOST {
            request.headers_mut().map(|headers| headers.remove(HOST));
        }
        request = request.header(name, value);
    }
    let body = body.unwrap_or_default();
    Ok((request.body(Full::new(body.clone()))?, body))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    // Nothing is repeated but a name that is one: the rest may be a key.
    let (name, value) =
        text.split_once(':').ok_or("a header is written NAME: VALUE, and this has no colon")?;
    let name: HeaderName =
        name.trim().parse().map_err(|_| "what stands before the colon is no header's name")?;
    let value = value.trim().parse().map_err(|_| format!("`{name}` has a value that no header can have"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, String> {
        let words = std::iter::once(&"explain").chain(words);
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_is_what_the_flags_say() {
        let args =
            parse(&["--url", "http://h:1/v1/x?a=b", "-d", "{}", "-H", "X-A: 1", "-H", "host: b"]).unwrap();
        let url = args.url.clone().unwrap();
        assert_eq!(address("--url", &url, LIKE).unwrap(), "h:1");
        let (request, body) = request(args, &url).unwrap();
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "/v1/x?a=b"));
        let mut headers: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        assert_eq!(headers, ["content-type: application/json", "host: b", "x-a: 1"]);
        assert_eq!(body, "{}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(parse(&[]).unwrap_err().contains("<FILE>"));
        assert!(parse(&["a", "--url", "http://h"]).unwrap_err().contains("cannot be used with"));
        assert!(parse(&["--url", "http://h", "-H", "x"]).unwrap_err().contains("NAME: VALUE"));
        assert!(
            address("--url", &"https://h/".parse().unwrap(), LIKE)
                .unwrap_err()
                .to_string()
                .contains("only http://")
        );
    }
}
