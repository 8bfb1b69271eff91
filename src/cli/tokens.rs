//! `streamgauge tokens`: how many tokens a text or a request is.
#![expect(clippy::print_stdout, reason = "a command answers its user")]

use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::account::tokenize::{Counted, Encoding, Token, Tokenizer, prompt};
use crate::dialect::prompt::is_request;

/// Count the tokens of a text, of files, or of a whole chat request
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "See --help for examples.")]
pub(super) struct Args {
    /// The text, or a request's JSON; - or nothing: standard input
    #[arg(value_name = "TEXT|-", allow_hyphen_values = true)]
    text: Option<String>,

    /// Count this file (repeatable)
    #[arg(short, long = "file", value_name = "FILE", conflicts_with = "text")]
    files: Vec<PathBuf>,

    /// With this encoding: o200k_base, cl100k_base, p50k_base, r50k_base (repeatable)
    #[arg(short, long = "encoding", value_name = "NAME", value_parser = encoding)]
    encodings: Vec<Encoding>,

    /// With the encoding of this model of OpenAI's (repeatable)
    #[arg(short, long = "model", value_name = "MODEL", value_parser = model)]
    models: Vec<Encoding>,

    /// With a model's tokenizer.json of Hugging Face's (repeatable)
    #[arg(short, long = "tokenizer", value_name = "FILE")]
    tokenizers: Vec<PathBuf>,

    /// Show every token: its id and its text
    #[arg(long, conflicts_with_all = ["json_lines"])]
    ids: bool,

    /// Answer in JSON
    #[arg(long)]
    json: bool,

    /// Each line of standard input is a JSON string or a request; a line of JSON for each
    #[arg(long, conflicts_with_all = ["text", "files"])]
    json_lines: bool,
}

const EXAMPLES: &str = "\
EXAMPLES:
  streamgauge tokens 'Learning AI is fun!'
  streamgauge tokens -m gpt-4o -m gpt-4 --file README.md --file CHANGELOG.md
  streamgauge tokens -t /models/llama/tokenizer.json --ids 'Grüße aus Zürich'
  streamgauge tokens -m gpt-4o < request.json        a chat: messages, tools, and what the format adds
  streamgauge tokens --json-lines < dataset.jsonl    a JSON string or a request on each line

Without -e, -m or -t: o200k_base and cl100k_base side by side; a request that names a model of
OpenAI's is counted with that model's. Text is counted as text: a special token that a user types is
none. `~` before a number: not counted but estimated, as tools, pictures, chats of other models and
texts over 2 MiB are.";

fn encoding(name: &str) -> Result<Encoding, String> {
    Encoding::named(name).ok_or_else(|| {
        let names = Encoding::ALL.map(Encoding::name).join(", ");
        format!("there is no such encoding; these are: {names}. For other models give --tokenizer FILE")
    })
}

fn model(name: &str) -> Result<Encoding, String> {
    Encoding::of_model(name)
        .ok_or_else(|| "is no model of OpenAI's; give its tokenizer.json with --tokenizer FILE".to_owned())
}

/// A way to count.
struct Way {
    name: String,
    tokenizer: Tokenizer,
    is_openai: bool,
}

impl Way {
    fn of_encoding(encoding: Encoding) -> Self {
        let tokenizer = Tokenizer::of_encoding(encoding);
        Self { name: encoding.name().to_owned(), tokenizer, is_openai: true }
    }

    fn of_file(path: &Path) -> anyhow::Result<Self> {
        let json = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        let tokenizer = Tokenizer::from_json(&json).with_context(|| path.display().to_string())?;
        Ok(Self { name: path.display().to_string(), tokenizer, is_openai: false })
    }

    fn count(&self, text: &Text) -> Counted {
        match &text.request {
            Some(body) => {
                let nothing = Counted { tokens: 0, exact: false };
                prompt::count(&self.tokenizer, self.is_openai, body).unwrap_or(nothing)
            }
            None => self.tokenizer.count(&text.text),
        }
    }
}

/// What is counted.
struct Text {
    /// Where it is from.
    name: String,
    text: String,
    /// The text as a request, where it is one.
    request: Option<Value>,
}

impl Text {
    fn new(name: String, text: String) -> Self {
        let request = text.trim_start().starts_with('{').then(|| serde_json::from_str(&text).ok()).flatten();
        Self { name, text, request: request.filter(is_request) }
    }

    fn model(&self) -> Option<Encoding> {
        self.request.as_ref()?.get("model")?.as_str().and_then(Encoding::of_model)
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let chosen = args.ways()?;
    if args.json_lines {
        return json_lines(chosen);
    }
    let texts = args.texts()?;
    let ways = match chosen {
        ways if !ways.is_empty() => ways,
        _ => match texts.iter().find_map(Text::model) {
            Some(encoding) => vec![Way::of_encoding(encoding)],
            None => by_default(),
        },
    };
    if args.json {
        let all: Vec<_> = texts.iter().map(|text| as_json(text, &ways, args.ids)).collect();
        let answer = match all.as_slice() {
            [one] => serde_json::to_string_pretty(one)?,
            all => serde_json::to_string_pretty(all)?,
        };
        println!("{answer}");
        return Ok(());
    }
    print!("{}", table(&texts, &ways));
    if args.ids {
        for (text, way) in texts.iter().flat_map(|text| ways.iter().map(move |way| (text, way))) {
            let tokens = way.tokens(text)?;
            println!("\n{}", way.name);
            for token in &tokens {
                let piece = text.text.as_bytes().get(token.bytes.clone()).unwrap_or_default();
                println!("{:>8}  {}", token.id, quoted(piece));
            }
        }
    }
    Ok(())
}

/// A token's text; of one that is a part of a character, its bytes.
fn quoted(piece: &[u8]) -> String {
    std::str::from_utf8(piece)
        .map_or_else(|_| format!("\"{}\"", piece.escape_ascii()), |text| format!("{text:?}"))
}

fn by_default() -> Vec<Way> {
    vec![Way::of_encoding(Encoding::O200kBase), Way::of_encoding(Encoding::Cl100kBase)]
}

impl Args {
    fn ways(&self) -> anyhow::Result<Vec<Way>> {
        let mut encodings: Vec<Encoding> = Vec::new();
        for encoding in self.encodings.iter().chain(&self.models) {
            if !encodings.contains(encoding) {
                encodings.push(*encoding);
            }
        }
        let files = self.tokenizers.iter().map(|path| Way::of_file(path));
        encodings.into_iter().map(|encoding| Ok(Way::of_encoding(encoding))).chain(files).collect()
    }

    fn texts(&self) -> anyhow::Result<Vec<Text>> {
        if !self.files.is_empty() {
            let read = |path: &PathBuf| {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("could not read {} as text", path.display()))?;
                Ok(Text::new(path.display().to_string(), text))
            };
            return self.files.iter().map(read).collect();
        }
        match self.text.as_deref() {
            Some(text) if text != "-" => Ok(vec![Text::new("text".to_owned(), text.to_owned())]),
            _ => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("could not read standard input as text")?;
                Ok(vec![Text::new("stdin".to_owned(), text)])
            }
        }
    }
}

impl Way {
    fn tokens(&self, text: &Text) -> anyhow::Result<Vec<Token>> {
        if text.request.is_some() {
            bail!("--ids is for text; {} is a request, and its chat format is a model's own", text.name);
        }
        self.tokenizer.tokens(&text.text).with_context(|| format!("{} gives up on {}", self.name, text.name))
    }
}

/// The tokens of a text in which a character beyond ASCII takes part, and how many bytes such characters have.
struct BeyondAscii {
    tokens: usize,
    chars: usize,
}

impl BeyondAscii {
    /// None where every character is ASCII, or it cannot be told.
    fn of(way: &Way, text: &Text) -> Option<Self> {
        let chars = text.text.chars().filter(|char| !char.is_ascii()).count();
        if chars == 0 || text.request.is_some() {
            return None;
        }
        let tokens = way.tokenizer.tokens(&text.text)?;
        let is_beyond = |token: &&Token| {
            text.text.as_bytes().get(token.bytes.clone()).is_none_or(|bytes| !bytes.is_ascii())
        };
        Some(Self { tokens: tokens.iter().filter(is_beyond).count(), chars })
    }
}

fn table(texts: &[Text], ways: &[Way]) -> String {
    use std::fmt::Write as _;
    let name = |text: &Text| {
        if text.request.is_some() { format!("{} (request)", text.name) } else { text.name.clone() }
    };
    let first = texts.iter().map(|text| name(text).chars().count()).max().unwrap_or(0).max(4);
    let second = ways.iter().map(|way| way.name.chars().count()).max().unwrap_or(0).max(8);
    let mut table =
        format!("{:first$}  {:second$}  {:>10}  bytes/token  beyond ASCII\n", "text", "encoding", "tokens");
    let mut sums = vec![Counted::NONE; ways.len()];
    for text in texts {
        for (way, sum) in ways.iter().zip(&mut sums) {
            let counted = way.count(text);
            *sum = sum.plus(counted);
            let ratio = match counted.tokens {
                0 => "-".to_owned(),
                tokens => format!("{:.2}", text.text.len() as f64 / tokens as f64),
            };
            let beyond = BeyondAscii::of(way, text).map_or_else(String::new, |beyond| {
                let share = |part: usize, all: usize| 100.0 * part as f64 / all.max(1) as f64;
                format!(
                    "{:.0} % of characters, {:.0} % of tokens",
                    share(beyond.chars, text.text.chars().count()),
                    share(beyond.tokens, usize::try_from(counted.tokens).unwrap_or(usize::MAX))
                )
            });
            let row = format!(
                "{:first$}  {:second$}  {:>10}  {ratio:>11}  {beyond}",
                name(text),
                way.name,
                shown(counted)
            );
            let _ = writeln!(table, "{}", row.trim_end());
        }
    }
    if texts.len() > 1 {
        for (way, sum) in ways.iter().zip(sums) {
            let _ = writeln!(table, "{:first$}  {:second$}  {:>10}", "all", way.name, shown(sum));
        }
    }
    table
}

fn shown(counted: Counted) -> String {
    format!("{}{}", if counted.exact { "" } else { "~" }, counted.tokens)
}

fn as_json(text: &Text, ways: &[Way], ids: bool) -> Value {
    let counts: Vec<_> = ways
        .iter()
        .map(|way| {
            let counted = way.count(text);
            let mut count = json!({"encoding": way.name, "tokens": counted.tokens, "exact": counted.exact});
            if ids && let (Some(members), Ok(tokens)) = (count.as_object_mut(), way.tokens(text)) {
                members.insert("ids".to_owned(), tokens.iter().map(|token| token.id).collect());
            }
            count
        })
        .collect();
    json!({"text": text.name, "bytes": text.text.len(), "request": text.request.is_some(), "counts": counts})
}

/// Counts each line of standard input.
fn json_lines(chosen: Vec<Way>) -> anyhow::Result<()> {
    let ways = if chosen.is_empty() { by_default() } else { chosen };
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line.context("could not read standard input as text")?;
        if line.trim().is_empty() {
            continue;
        }
        let name = format!("line {number}");
        let value: Value = serde_json::from_str(&line).with_context(|| format!("{name} is no JSON"))?;
        let text = match value {
            Value::String(text) => Text { name, text, request: None },
            Value::Object(_) => Text::new(name, line),
            _ => bail!("{name} is neither a string nor a request"),
        };
        println!("{}", as_json(&text, &ways, false));
    }
    Ok(())
}
