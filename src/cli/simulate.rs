//! `streamgauge simulate`: the simulated inference server alone.
#![expect(clippy::print_stderr, reason = "a command speaks to its user")]

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use tokio_util::sync::CancellationToken;

use super::{Interrupts, url};
use crate::clock::Clock;
use crate::demo::clients;
use crate::sim::{Fault, Mishap, Profile, Settings, Sim, UsagePolicy};

/// Flags of `streamgauge simulate`.
#[derive(Debug, clap::Args)]
#[command(
    about = "Run a simulated inference server",
    long_about = "Runs a simulated inference server that answers requests of the OpenAI, Anthropic, Gemini and Ollama APIs \
                  in the shape of real servers, at a chosen speed and with chosen faults: a target for tests, demonstrations and load tests.\n\n\
                  Paths: POST /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages, \
                  /api/chat, /api/generate, /v1beta/models/MODEL:generateContent, :streamGenerateContent; GET /v1/models, /health; WebSocket /v1/realtime, /v1/responses. HTTP/1.1 and HTTP/2 with prior knowledge.",
    after_long_help = EXAMPLES,
    after_help = "See --help for the request headers and examples."
)]
pub(super) struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: String,

    /// A model, with its own speed if need be: NAME[,ttft=400ms][,tps=24][,tokens=128][,tokens-per-chunk=1][,jitter=0.3]
    /// (repeatable; other names are answered as the first model)
    #[arg(long = "model", value_name = "NAME[,KEY=VALUE…]", default_value = "sim")]
    models: Vec<ModelArg>,

    /// Refuse models that are not named with --model (404)
    #[arg(long)]
    strict: bool,

    /// Time to the first token
    #[arg(long, value_name = "TIME", default_value = "150ms", value_parser = humantime::parse_duration)]
    ttft: Duration,

    /// Tokens a second of each answer; 0: as fast as possible
    #[arg(long, value_name = "N", default_value_t = 100.0)]
    tps: f64,

    /// Tokens in an answer; a request's max_tokens can make it shorter
    #[arg(long, value_name = "N", default_value_t = 128)]
    tokens: u32,

    /// Tokens in an event
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    tokens_per_chunk: u32,

    /// Spread of the times, as a share of themselves: 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    jitter: f64,

    /// Prompt tokens read in a second; a prompt adds its length over this to the TTFT
    #[arg(long, value_name = "N")]
    prefill_tps: Option<f64>,

    /// When usage is reported: asked, on (every stream), off (never), continuous (every event)
    #[arg(long, value_name = "WHEN", default_value = "asked")]
    usage: UsagePolicy,

    /// What goes wrong; see --help for the forms
    #[arg(long, value_name = "FAULT")]
    fault: Option<Fault>,

    /// With which share of the requests it goes wrong: 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, requires = "fault", value_parser = share)]
    fault_rate: f64,

    /// Refuse with 429 what is over so many tokens in any 60 seconds, of each API key, else of each x-tenant-id
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens_per_minute: Option<u64>,

    /// Work on so many requests at once; the others wait in the order in which they came
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    slots: Option<u32>,

    /// Send a comment this often while a stream has no token yet
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    comments: Option<Duration>,

    /// Send traffic too, that of the demonstration's three tenants, to this base URL: a sidecar's in front of this server
    #[arg(long, value_name = "URL", value_parser = url)]
    traffic: Option<Uri>,

    /// Decides texts, jitter and which requests go wrong
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

const EXAMPLES: &str = "\
FAULTS (for --fault and x-sim-fault; N: after that many tokens, else half of them):
  status=CODE      an error answer          error-event[@N]  an error inside a 200
  cut[@N]          closed in mid-event      reset[@N]        connection reset
  end[@N]          ends without a finish    no-done          no [DONE]
  hang-head        no head                  hang             a head, then nothing
  hang-mid[@N]     silence in mid-stream    slow-tail[=2s]   a pause before the end
  refuse-usage     400 where stream_options asks for usage

REQUEST HEADERS (change the answer to one request):
  x-sim-ttft: 300ms            x-sim-tps: 50                x-sim-tokens: 24
  x-sim-tokens-per-chunk: 4    x-sim-jitter: 0.2            x-sim-usage: asked|on|off|continuous
  x-sim-role-delay: 300ms      the role event at the TTFT, the first token so much later
  x-sim-reasoning: 8           the first 8 tokens are reasoning
  x-sim-comments: 1s           comments until the first token
  x-sim-fault: cut@5           any fault, or none to spare this request

TOKENS PER MINUTE (--tokens-per-minute):
  An exact sliding window for each key (Authorization, x-api-key, api-key; else x-tenant-id;
  else one for all), over all models. A request is charged its prompt and the max_tokens of
  each choice when it arrives (16 where it sets none), and corrected to what it used before
  its answer ends. Answers, 429s too, say how the limit stands: x-ratelimit-limit-tokens,
  -remaining-tokens, -reset-tokens; of /v1/messages anthropic-ratelimit-tokens-limit,
  -remaining, -reset. A 429 has Retry-After, unless the request alone is over the limit.

EXAMPLES:
  streamgauge simulate
  streamgauge simulate --tokens-per-minute 40000
  streamgauge simulate --model llama-8b --model llama-70b,ttft=400ms,tps=24
  streamgauge simulate --listen 0.0.0.0:8000 --fault status=503 --fault-rate 0.05
  streamgauge simulate --model llama-3.1-8b --model llama-3.1-70b,ttft=400ms,tps=24 --traffic http://127.0.0.1:8080
  curl -N http://127.0.0.1:8000/v1/chat/completions -H 'x-sim-ttft: 1s' -H 'x-sim-fault: cut@5' \\
    -d '{\"model\": \"sim\", \"stream\": true, \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'";

/// A model and what of its speed differs from the other flags.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelArg {
    name: String,
    ttft: Option<Duration>,
    tps: Option<f64>,
    tokens: Option<u32>,
    tokens_per_chunk: Option<u32>,
    jitter: Option<f64>,
}

impl FromStr for ModelArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let name = parts.next().filter(|name| !name.is_empty()).ok_or("a model needs a name")?.to_owned();
        let mut model =
            Self { name, ttft: None, tps: None, tokens: None, tokens_per_chunk: None, jitter: None };
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not KEY=VALUE"))?;
            let wrong = || format!("`{value}` is no value for {key}");
            match key {
                "ttft" => model.ttft = Some(humantime::parse_duration(value).map_err(|_| wrong())?),
                "tps" => model.tps = Some(value.parse().map_err(|_| wrong())?),
                "tokens" => model.tokens = Some(value.parse().map_err(|_| wrong())?),
                "tokens-per-chunk" => model.tokens_per_chunk = Some(value.parse().map_err(|_| wrong())?),
                "jitter" => model.jitter = Some(share(value)?),
                _ => {
                    return Err(format!(
                        "`{key}` is unknown; allowed: ttft, tps, tokens, tokens-per-chunk, jitter"
                    ));
                }
            }
        }
        Ok(model)
    }
}

/// Runs the server until it is interrupted.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("simulate").enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(&args.listen)
        .await
        .with_context(|| format!("could not listen on {}", args.listen))?;
    let address = listener.local_addr().context("could not learn the bound address")?;
    let settings = settings(args);
    let names: Vec<_> = settings.models.iter().map(|model| model.name.as_str()).collect();
    eprintln!("simulated inference server: base URL http://{address}/v1, models {}", names.join(", "));
    let mut interrupts = Interrupts::listen()?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let sending = async {
        if let Some(target) = args.traffic.clone() {
            clients(target).run(stop).await;
        }
    };
    let serving = Sim::new(settings, Clock::start()).serve(listener, shutdown.clone());
    let both = async { tokio::join!(serving, sending) };
    tokio::pin!(both);
    tokio::select! {
        _ = &mut both => {}
        () = interrupts.next() => {
            shutdown.cancel();
            both.await;
        }
    }
    Ok(())
}

fn settings(args: &Args) -> Settings {
    let profile = |model: &ModelArg| Profile {
        ttft: model.ttft.unwrap_or(args.ttft),
        tokens_per_second: model.tps.unwrap_or(args.tps),
        tokens_per_chunk: model.tokens_per_chunk.unwrap_or(args.tokens_per_chunk),
        jitter: model.jitter.unwrap_or(args.jitter),
        output_tokens: model.tokens.unwrap_or(args.tokens),
        prefill_tokens_per_second: args.prefill_tps,
        ..Profile::new(&model.name)
    };
    Settings {
        models: args.models.iter().map(profile).collect(),
        strict: args.strict,
        usage: args.usage,
        mishap: args.fault.map(|fault| Mishap { fault, share: args.fault_rate }),
        tokens_per_minute: args.tokens_per_minute,
        slots: args.slots.and_then(|slots| usize::try_from(slots).ok()),
        comments: args.comments,
        seed: args.seed,
        remember: 0,
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is no share; allowed: 0 to 1"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::sim::FAULT_FORMS;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Settings, String> {
        let words = std::iter::once("simulate").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| settings(&line.args)).map_err(|error| error.to_string())
    }

    #[test]
    fn models_take_their_own_speed_else_the_flags() {
        let settings = parse("--tps 80 --model a --model b:7b,ttft=400ms,tps=24,jitter=0.3").unwrap();
        let a = Profile { tokens_per_second: 80.0, ..Profile::new("a") };
        let b = Profile {
            ttft: Duration::from_millis(400),
            tokens_per_second: 24.0,
            jitter: 0.3,
            ..Profile::new("b:7b")
        };
        assert_eq!(settings, Settings::with_models([a, b]));
    }

    #[test]
    fn without_flags_it_is_the_default() {
        assert_eq!(parse("").unwrap(), Settings::default());
    }

    #[test]
    fn faults_have_a_rate() {
        let settings = parse("--fault cut@5 --fault-rate 0.1 --usage off").unwrap();
        assert_eq!(settings.mishap, Some(Mishap { fault: Fault::Cut { after: Some(5) }, share: 0.1 }));
        assert_eq!(settings.usage, UsagePolicy::Off);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (line, part) in [
            ("--fault boom", "hang-mid"),
            ("--fault-rate 0.5", "--fault"),
            ("--jitter 2", "0 to 1"),
            ("--model a,speed=3", "allowed: ttft"),
            ("--usage maybe", "asked, on, off, continuous"),
            ("--tokens-per-chunk 0", "1.."),
            ("--tokens-per-minute 0", "1.."),
            ("--slots 0", "1.."),
        ] {
            let problem = parse(line).unwrap_err();
            assert!(problem.contains(part), "{line}: {problem}");
        }
    }

    #[test]
    fn the_help_names_every_fault() {
        for form in FAULT_FORMS.split(", ") {
            assert!(EXAMPLES.contains(form), "{form}");
        }
    }
}
