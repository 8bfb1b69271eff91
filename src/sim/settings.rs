//! How the server behaves: settings for all, a profile for each model, headers for one request.

use std::str::FromStr;
use std::time::Duration;

use http::HeaderMap;

use super::fault::{Fault, Mishap};

/// How the whole server behaves. Changed while it runs through [`super::Sim::update`].
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The models; the first also answers for names that are not here.
    pub models: Vec<Profile>,
    /// Whether a model that is not here is refused with 404.
    pub strict: bool,
    /// When usage is reported.
    pub usage: UsagePolicy,
    /// What goes wrong, unless the model has its own.
    pub mishap: Option<Mishap>,
    /// Tokens per minute, of each key or tenant over all models, as providers limit them; no limit where nothing.
    pub tokens_per_minute: Option<u64>,
    /// How many requests are worked on at once, as an engine's batch is full: the others wait in the order in which they
    /// came. No bound where nothing. Fixed when the server is made.
    pub slots: Option<usize>,
    /// A comment goes out this often while a stream has no token yet; never where nothing.
    pub comments: Option<Duration>,
    /// Decides texts, ids, jitter and which requests a mishap strikes.
    pub seed: u64,
    /// How many of the last answers [`super::Sim::answers`] remembers.
    pub remember: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            models: vec![Profile::new("sim")],
            strict: false,
            usage: UsagePolicy::Asked,
            mishap: None,
            tokens_per_minute: None,
            slots: None,
            comments: None,
            seed: 1,
            remember: 0,
        }
    }
}

impl Settings {
    /// Settings with these models and nothing else unusual.
    pub fn with_models(models: impl IntoIterator<Item = Profile>) -> Self {
        Self { models: models.into_iter().collect(), ..Self::default() }
    }

    /// The model of that name, to change it.
    pub fn model_mut(&mut self, name: &str) -> Option<&mut Profile> {
        self.models.iter_mut().find(|model| model.name == name)
    }
}

/// How a model answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// From the request's last byte to the first token.
    pub ttft: Duration,
    /// Decode speed of each choice; 0 or infinite: as fast as it can.
    pub tokens_per_second: f64,
    /// Tokens in an event; at least 1.
    pub tokens_per_chunk: u32,
    /// How far TTFT and the time of a token spread, as a share of themselves.
    pub jitter: f64,
    /// How many tokens an answer has; `max_tokens` can make it shorter.
    pub output_tokens: u32,
    /// Where given, a prompt adds its length over this to the TTFT.
    pub prefill_tokens_per_second: Option<f64>,
    /// What goes wrong with this model; instead of the server's.
    pub mishap: Option<Mishap>,
}

impl Profile {
    /// A model of middling speed, without jitter.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ttft: Duration::from_millis(150),
            tokens_per_second: 100.0,
            tokens_per_chunk: 1,
            jitter: 0.0,
            output_tokens: 128,
            prefill_tokens_per_second: None,
            mishap: None,
        }
    }

    /// An 8B model on one GPU: TTFT about 150 ms, 80 to 120 tokens a second.
    pub fn llama_8b() -> Self {
        Self {
            ttft: Duration::from_millis(130),
            jitter: 0.3,
            prefill_tokens_per_second: Some(12_000.0),
            ..Self::new("llama-3.1-8b")
        }
    }

    /// A 70B model on four GPUs: TTFT about 400 ms, 15 to 30 tokens a second.
    pub fn llama_70b() -> Self {
        Self {
            ttft: Duration::from_millis(350),
            tokens_per_second: 24.0,
            jitter: 0.3,
            prefill_tokens_per_second: Some(4_000.0),
            ..Self::new("llama-3.1-70b")
        }
    }
}

/// When usage is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsagePolicy {
    /// In whole answers, and in streams that ask for it.
    Asked,
    /// In whole answers and at the end of every stream.
    On,
    /// Never, asked for or not.
    Off,
    /// In whole answers, in every event and at the end of every stream.
    Continuous,
}

impl FromStr for UsagePolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "asked" => Ok(Self::Asked),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            "continuous" => Ok(Self::Continuous),
            _ => Err(format!("`{text}` is no usage policy; allowed: asked, on, off, continuous")),
        }
    }
}

/// What a request's `x-sim-*` headers change for it alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Overrides {
    pub(crate) ttft: Option<Duration>,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) tokens: Option<u32>,
    pub(crate) tokens_per_chunk: Option<u32>,
    pub(crate) jitter: Option<f64>,
    pub(crate) usage: Option<UsagePolicy>,
    pub(crate) role_delay: Duration,
    pub(crate) reasoning: u32,
    pub(crate) comments: Option<Duration>,
    /// `Some(None)`: this request is spared.
    pub(crate) fault: Option<Option<Fault>>,
}

impl Overrides {
    /// Reads the headers; the error names the one that is wrong.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, String> {
        let span =
            |text: &str| humantime::parse_duration(text).map_err(|_| format!("`{text}` is no duration"));
        Ok(Self {
            ttft: header(headers, "x-sim-ttft", span)?,
            tokens_per_second: header(headers, "x-sim-tps", number)?,
            tokens: header(headers, "x-sim-tokens", number)?,
            tokens_per_chunk: header(headers, "x-sim-tokens-per-chunk", number)?,
            jitter: header(headers, "x-sim-jitter", number)?,
            usage: header(headers, "x-sim-usage", str::parse)?,
            role_delay: header(headers, "x-sim-role-delay", span)?.unwrap_or_default(),
            reasoning: header(headers, "x-sim-reasoning", number)?.unwrap_or_default(),
            comments: header(headers, "x-sim-comments", span)?,
            fault: header(headers, "x-sim-fault", |text| match text {
                "none" => Ok(None),
                text => text.parse().map(Some),
            })?,
        })
    }
}

fn header<T>(
    headers: &HeaderMap,
    name: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| format!("{name}: not text"))?;
    read(text.trim()).map(Some).map_err(|problem| format!("{name}: {problem}"))
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn headers_change_what_they_name_and_nothing_else() {
        let read = Overrides::read(&headers(&[("x-sim-ttft", "300ms"), ("x-sim-fault", "cut@5")])).unwrap();
        let expected = Overrides {
            ttft: Some(Duration::from_millis(300)),
            fault: Some(Some(Fault::Cut { after: Some(5) })),
            ..Overrides::default()
        };
        assert_eq!(read, expected);
        assert_eq!(Overrides::read(&headers(&[("x-sim-fault", "none")])).unwrap().fault, Some(None));
    }

    #[test]
    fn a_wrong_header_is_named() {
        let problem = Overrides::read(&headers(&[("x-sim-ttft", "soon")])).unwrap_err();
        assert_eq!(problem, "x-sim-ttft: `soon` is no duration");
    }
}
