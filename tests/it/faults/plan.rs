//! What happens in an exchange: drawn from the run's seed and the exchange's number alone, so that client and server
//! know it without being told.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::case::{self, Case, Ending};

/// SplitMix64.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn of(seed: u64, number: u64) -> Self {
        let mut dice = Self(seed ^ number.wrapping_mul(0xD134_2543_DE82_EF95));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }
}

/// Who is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// The simulated server, under the name of the upstream.
    Sim(&'static str),
    /// A server that plays a golden case.
    Script,
    /// An upstream that cannot be reached.
    Nobody,
    /// No upstream of that name.
    Nowhere,
}

/// What the server that plays a case does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing.
    Whole,
    /// Refuses before it has read the request's body, and closes.
    Early,
    NoHead,
    /// Something that isn't HTTP.
    Garbled,
    HeadCut,
    /// The head, then the end of the connection.
    HeadOnly,
    HangBeforeHead,
    Hang,
    Cut,
    /// Bytes in the body that nobody understands.
    Spoiled,
    /// A chunk whose size is no number.
    BadChunk,
    OtherType(&'static str),
    Encoded(&'static str),
    BadlyEncoded(&'static str),
    Empty,
    /// Fewer bytes than its length says.
    Short,
    Status(u16),
}

const ACTS: &[Act] = &[
    Act::Early,
    Act::NoHead,
    Act::Garbled,
    Act::HeadCut,
    Act::HeadOnly,
    Act::HangBeforeHead,
    Act::Hang,
    Act::Cut,
    Act::Cut,
    Act::Spoiled,
    Act::BadChunk,
    Act::OtherType("text/plain"),
    Act::OtherType("application/json"),
    Act::OtherType("text/event-stream"),
    Act::OtherType("application/x-ndjson"),
    Act::Encoded("gzip"),
    Act::Encoded("deflate"),
    Act::BadlyEncoded("gzip"),
    Act::BadlyEncoded("deflate"),
    Act::BadlyEncoded("br"),
    Act::BadlyEncoded("zstd"),
    Act::Empty,
    Act::Short,
    Act::Status(400),
    Act::Status(429),
    Act::Status(500),
    Act::Status(503),
];

/// Those that a server can do to an answer without a body.
const ACTS_OF_A_HEAD: &[Act] = &[Act::Early, Act::NoHead, Act::Garbled, Act::HeadCut, Act::HangBeforeHead];

const SIM_FAULTS: &[&str] = &[
    "status=400",
    "status=429",
    "status=500",
    "status=503",
    "error-event",
    "error-event@0",
    "cut",
    "cut@0",
    "reset",
    "end",
    "no-done",
    "hang-head",
    "hang",
    "hang-mid",
    "slow-tail=3s",
    "refuse-usage",
];

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Reads,
    ReadsSlowly,
    /// Hangs up so long after it has asked.
    LeavesBeforeHead(Duration),
    /// Hangs up after so many bytes of the body.
    LeavesAfter(usize),
    /// Sends so much of its body, a share in percent, and hangs up later.
    HalfSends(u64, Duration),
    /// The same, and waits for an answer, for half a minute.
    Stalls(u64),
    /// Sends its body in two parts.
    Pauses(u64, Duration),
    /// Breaks its body off with a chunk whose size is no number.
    BreaksChunk,
    /// Two hosts.
    Doubtful,
    /// What it sends isn't HTTP.
    Garbled,
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Chunked,
    Length,
    /// It ends with the connection.
    Close,
}

/// An exchange.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) number: u64,
    pub(super) behind: Behind,
    pub(super) role: Role,
    pub(super) over_http2: bool,
    pub(super) tenant: &'static str,
    /// Of the golden cases, or of [`ASKED`].
    pub(super) which: usize,
    pub(super) fault: Option<&'static str>,
    pub(super) tokens: u64,
    pub(super) act: Act,
    /// Where in the body it acts, a share in a thousand.
    pub(super) place: u64,
    pub(super) framing: Framing,
    /// Between two pieces of the answer.
    pub(super) pause: Duration,
}

/// What the simulated server is asked: path, body, and the mark of a stream's end.
pub(super) const ASKED: &[(&str, &str, &str)] = &[
    (
        "/v1/chat/completions",
        r#"{"model":"sim","stream":true,"messages":[{"role":"user","content":"hi"}]}"#,
        "[DONE]",
    ),
    (
        "/v1/chat/completions",
        r#"{"model":"sim","stream":true,"stream_options":{"include_usage":true},"n":2,"messages":[{"role":"user","content":"hi"}]}"#,
        "[DONE]",
    ),
    ("/v1/chat/completions", r#"{"model":"sim","messages":[{"role":"user","content":"hi there"}]}"#, ""),
    ("/v1/completions", r#"{"model":"sim","stream":true,"prompt":["a","b"]}"#, "[DONE]"),
    ("/v1/embeddings", r#"{"model":"sim","input":["one","two"]}"#, ""),
    ("/v1/responses", r#"{"model":"sim","stream":true,"input":"hi"}"#, "response.completed"),
    (
        "/v1/messages",
        r#"{"model":"sim","stream":true,"max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#,
        "message_stop",
    ),
    ("/v1/messages", r#"{"model":"sim","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#, ""),
    ("/api/chat", r#"{"model":"sim","messages":[{"role":"user","content":"hi"}]}"#, "\"done\":true"),
    ("/api/generate", r#"{"model":"sim","prompt":"hi"}"#, "\"done\":true"),
    ("/api/generate", r#"{"model":"sim","stream":false,"prompt":"hi"}"#, ""),
    (
        "/v1beta/models/sim:streamGenerateContent?alt=sse",
        r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#,
        "finishReason",
    ),
    (
        "/v1beta/models/sim:streamGenerateContent",
        r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#,
        "finishReason",
    ),
    ("/v1beta/models/sim:generateContent", r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#, ""),
    ("/v1/chat/completions", "{", ""),
    ("/v1/nothing", "{}", ""),
];

/// A golden case that can be played by a server.
pub(super) struct Golden {
    pub(super) case: Case,
    pub(super) dialect: String,
    /// What it means, where it ends as it should.
    pub(super) outcome: Option<String>,
}

impl Golden {
    pub(super) fn is_encoded(&self) -> bool {
        self.case.response.as_ref().unwrap().headers.get("content-encoding").is_some()
    }

    pub(super) fn is_bodiless(&self) -> bool {
        let status = self.case.response.as_ref().unwrap().status;
        self.case.request.method == "HEAD" || matches!(status, 204 | 304)
    }
}

pub(super) struct Plans {
    seed: u64,
    golden: Vec<Golden>,
}

impl Plans {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, golden: golden() }
    }

    /// The case that is played, where one is.
    pub(super) fn case(&self, plan: &Plan) -> &Golden {
        &self.golden[plan.which % self.golden.len()]
    }

    pub(super) fn plan(&self, number: u64) -> Plan {
        let dice = &mut Dice::of(self.seed, number);
        let behind = match dice.below(100) {
            0..45 => Behind::Script,
            45..75 => Behind::Sim("sim"),
            75..85 => Behind::Sim("sim2"),
            85..95 => Behind::Sim("asked"),
            95..98 => Behind::Nobody,
            _ => Behind::Nowhere,
        };
        let is_script = behind == Behind::Script;
        let kinds = if is_script { self.golden.len() } else { ASKED.len() };
        let which = usize::try_from(dice.below(kinds as u64)).unwrap();
        let mut plan = Plan {
            number,
            behind,
            which,
            role: role(dice),
            over_http2: dice.percent(20),
            tenant: dice.one::<&str>(&["", "", "", "", "", "", "small", "patient"]),
            fault: dice.percent(60).then(|| *dice.one(SIM_FAULTS)),
            tokens: 2 + dice.below(12),
            act: if dice.percent(70) { *dice.one(ACTS) } else { Act::Whole },
            place: dice.below(1000),
            framing: *dice.one(&[Framing::Chunked, Framing::Chunked, Framing::Length, Framing::Close]),
            pause: if dice.percent(30) { Duration::ZERO } else { dice.millis(30) },
        };
        if is_script && self.golden[which].is_bodiless() {
            plan.act = if dice.percent(50) { *dice.one(ACTS_OF_A_HEAD) } else { Act::Whole };
        }
        // What isn't well-formed only HTTP/1 can say, and its library keeps bodies whole.
        let is_plain = matches!(
            plan.role,
            Role::Reads | Role::ReadsSlowly | Role::LeavesBeforeHead(_) | Role::LeavesAfter(_)
        );
        plan.over_http2 &= is_plain;
        plan
    }
}

fn role(dice: &mut Dice) -> Role {
    match dice.below(100) {
        0..60 => Role::Reads,
        60..65 => Role::ReadsSlowly,
        65..75 => Role::LeavesBeforeHead(dice.millis(200)),
        75..85 => Role::LeavesAfter(usize::try_from(dice.below(1500)).unwrap()),
        85..88 => Role::HalfSends(dice.below(100), dice.millis(200)),
        88..90 => Role::Stalls(dice.below(100)),
        90..95 => Role::Pauses(dice.below(100), dice.millis(500)),
        95..97 => Role::BreaksChunk,
        97..99 => Role::Doubtful,
        _ => Role::Garbled,
    }
}

fn golden() -> Vec<Golden> {
    let mut found = Vec::new();
    let dialects = folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    for folder in dialects.iter().flat_map(|dialect| folders(dialect)) {
        let case = case::read(&folder).unwrap();
        if case.response.as_ref().is_none_or(|response| response.status == 101) {
            continue;
        }
        let file = std::fs::read(folder.join("exchange.json")).unwrap();
        let exchange: Value = serde_json::from_slice(&file).unwrap();
        let outcome = (case.ending == Ending::End).then(|| exchange["outcome"].as_str().unwrap().to_owned());
        let dialect = folder.parent().and_then(Path::file_name).unwrap().to_string_lossy().into_owned();
        found.push(Golden { case, dialect, outcome });
    }
    found
}

fn folders(of: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}
