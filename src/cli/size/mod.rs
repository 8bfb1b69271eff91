//! `streamgauge size`: what a model needs and costs, beside another one.
#![expect(clippy::print_stdout, reason = "a command answers its user")]

mod candidate;
mod figures;
mod json;
mod money;
mod table;
mod traffic;

use std::path::Path;

use anyhow::Context as _;
use http::Uri;

use self::candidate::{Candidate, Sheet, Workload};
use self::traffic::Traffic;
use crate::account::hardware::{self, Architecture, Device, Dtype, Known};
use crate::account::price::Rate;

/// See what a model needs and costs before it is served, beside another one
#[derive(Debug, clap::Args)]
#[command(after_long_help = long_help(), after_help = "See --help for examples, models and devices.")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["model", "params"]))]
pub(super) struct Args {
    /// A model that is known by name, or its config.json of Hugging Face's
    #[arg(long, value_name = "MODEL|FILE")]
    model: Option<String>,

    /// A number of parameters instead: 8b, 70b, 1.5t, 8.03e9
    #[arg(long, value_name = "N", value_parser = count)]
    params: Option<u64>,

    /// Dollars for a million tokens
    #[arg(long, value_name = "PRICE", value_parser = money::rate)]
    price: Option<Rate>,

    /// What weights are kept in: fp32, fp16, bf16, fp8, int8, int4, mxfp4 [default: as published, else fp16]
    #[arg(long, value_name = "DTYPE", value_parser = dtype)]
    dtype: Option<Dtype>,

    /// What it runs on, as a100-40gb: how many it takes, and what they cannot beat
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    gpu: Option<&'static Device>,

    /// Tokens that each stream has before it, prompt and answer
    #[arg(long, value_name = "TOKENS", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    context: u32,

    /// Streams at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,

    /// A second model: a name, a config.json or a number of parameters
    #[arg(long, value_name = "MODEL|FILE|N")]
    compare: Option<String>,

    /// Dollars for a million tokens of the second model
    #[arg(long, value_name = "PRICE", value_parser = money::rate, requires = "compare")]
    compare_price: Option<Rate>,

    /// How many people use it
    #[arg(long, value_name = "N", requires_all = ["tokens_per_user", "price"], conflicts_with = "prometheus")]
    users: Option<u32>,

    /// Tokens of each of them a day, input and output
    #[arg(long, value_name = "TOKENS", requires = "users")]
    tokens_per_user: Option<u32>,

    /// Tokens that it is trained on, as 300e9 or 15t
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    training_tokens: Option<u64>,

    /// Instead of users: the tokens that this Prometheus has seen in the last 7 days; http:// only
    #[arg(long, value_name = "URL", value_parser = crate::cli::Guarded(crate::cli::url))]
    prometheus: Option<Uri>,

    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
EXAMPLES:
  8B or 70B, for a thousand users?
    streamgauge size --params 8b --price 0.15 --compare 70b --compare-price 0.90 \\
      --gpu a100-40gb --users 1000 --tokens-per-user 2000

  What last week's traffic would have cost on the other model:
    streamgauge size --model llama-3.1-8b --price 0.15 --compare llama-3.1-70b \\
      --compare-price 0.90 --prometheus http://127.0.0.1:9090

  A model of one's own, in 4 bits on a laptop:
    streamgauge size --model /models/mine/config.json --dtype int4 --gpu apple-m4 --concurrency 1";

fn long_help() -> String {
    let models = figures::wrapped(&Known::names(), 2);
    let devices = figures::wrapped(&Device::names(), 2);
    format!("{EXAMPLES}\n\nMODELS:\n{models}\n\nDEVICES:\n{devices}")
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let traffic = match &args.prometheus {
        Some(url) => Some(traffic::ask(url)?),
        None => None,
    };
    let sheet = args.sheet(traffic)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json::of(&sheet))?);
    } else {
        print!("{}", table::of(&sheet));
    }
    Ok(())
}

impl Args {
    fn sheet(&self, traffic: Option<Vec<Traffic>>) -> anyhow::Result<Sheet> {
        let first = match (&self.model, self.params) {
            (Some(name), _) => Candidate::named("--model", name, self.dtype, self.price)?,
            (None, parameters) => {
                let parameters = parameters.context("there is neither a --model nor --params")?;
                Candidate::of_size(parameters, self.dtype, self.price)
            }
        };
        let second = self.compare.as_deref().map(|text| match hardware::count(text) {
            Some(parameters) => Ok(Candidate::of_size(parameters, self.dtype, self.compare_price)),
            None => Candidate::named("--compare", text, self.dtype, self.compare_price),
        });
        let tokens_a_day =
            self.users.zip(self.tokens_per_user).map(|(users, each)| u64::from(users) * u64::from(each));
        Ok(Sheet {
            candidates: std::iter::once(Ok(first)).chain(second).collect::<anyhow::Result<_>>()?,
            device: self.gpu,
            workload: Workload {
                context: u64::from(self.context),
                concurrency: self.concurrency,
                tokens_a_day,
                training_tokens: self.training_tokens,
            },
            traffic,
        })
    }
}

impl Candidate {
    /// A model that is known by name, or a file that says what one is made of.
    fn named(flag: &str, name: &str, dtype: Option<Dtype>, price: Option<Rate>) -> anyhow::Result<Self> {
        let (architecture, published, source) = if is_file(name) {
            let json = std::fs::read(name).with_context(|| format!("could not read {name}"))?;
            let read = hardware::read(&json).map_err(|error| anyhow::anyhow!("{name}: could not {error}"));
            let (architecture, dtype) = read?;
            (architecture, dtype, None)
        } else {
            let known = Known::named(name).with_context(|| {
                format!(
                    "{flag}: no model `{name}` is known; give a number of parameters, its config.json, \
                     or one of {}",
                    Known::names()
                )
            })?;
            (known.architecture, Some(known.dtype), Some(known.source))
        };
        let dtype = dtype.or(published).unwrap_or(Dtype::Fp16);
        Ok(Self { name: name.to_owned(), architecture, dtype, price, source, attention_of: None })
    }

    /// A dense model of which nothing but the size is known; its attention is that of a known one near it.
    fn of_size(parameters: u64, dtype: Option<Dtype>, price: Option<Rate>) -> Self {
        let near = hardware::nearest(parameters);
        let attention = near.and_then(|known| known.architecture.attention);
        Self {
            name: figures::size(parameters),
            architecture: Architecture::dense(parameters, attention),
            dtype: dtype.unwrap_or(Dtype::Fp16),
            price,
            source: None,
            attention_of: near.map(|known| known.name),
        }
    }
}

fn is_file(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "json")
}

fn count(text: &str) -> Result<u64, String> {
    hardware::count(text)
        .ok_or_else(|| format!("`{text}` is no such number; write it like 8b, 70b, 1.5t or 8.03e9"))
}

fn dtype(name: &str) -> Result<Dtype, String> {
    Dtype::named(name).ok_or_else(|| format!("there is no such dtype; these are: {}", Dtype::names()))
}

fn device(name: &str) -> Result<&'static Device, String> {
    Device::named(name).ok_or_else(|| format!("no such device is known; these are: {}", Device::names()))
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

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("size").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    fn page(line: &str, traffic: Option<Vec<Traffic>>) -> String {
        table::of(&parse(line).unwrap().sheet(traffic).unwrap())
    }

    const DECISION: &str = "--params 8b --price 0.15 --compare 70b --compare-price 0.90 --gpu a100-40gb \
                            --users 1000 --tokens-per-user 2000";

    #[test]
    fn the_page_of_8b_and_70b_is_the_one_in_the_docs() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sizing.md");
        let docs = std::fs::read_to_string(path).unwrap();
        let page = page(DECISION, None);
        assert!(docs.contains(&format!("```\n{page}```\n")), "docs/sizing.md has another page than:\n{page}");
    }

    #[test]
    fn a_page_fits_a_hundred_columns() {
        let others = "--model meta-llama/Llama-3.1-405B-Instruct-FP8-of-a-long-name --price 1000 \
                      --compare deepseek-r1 --compare-price 0.000001 --gpu jetson-agx-orin \
                      --context 131072 --concurrency 1000 --training-tokens 15.6t";
        let traffic = |n| Traffic { model: format!("a-model-of-a-long-name-{n}"), input: 1 << 40, output: 9 };
        for page in [page(DECISION, None), page(others, Some((0..20).map(traffic).collect()))] {
            for line in page.lines() {
                assert!(line.chars().count() <= 100 && line.trim_end() == line, "{line}");
            }
        }
    }

    #[test]
    fn measured_traffic_is_priced_on_both() {
        let traffic = vec![
            Traffic { model: "llama-3.1-8b".to_owned(), input: 9_000_000, output: 5_000_000 },
            Traffic { model: "llama-3.1-70b".to_owned(), input: 20, output: 1 },
        ];
        let line = "--model llama-3.1-8b --price 0.15 --compare llama-3.1-70b --compare-price 0.90";
        let page = page(line, Some(traffic));
        let (_, measured) = page.split_once("\n\nmeasured").unwrap();
        let measured = measured.split("\n\n").next().unwrap();
        assert_eq!(
            format!("measured{measured}\n"),
            "\
measured in the last 7 days
served by                       input tokens   output tokens   on llama-3.1-8b  on llama-3.1-70b
llama-3.1-8b                       9,000,000       5,000,000             $2.10            $12.60
llama-3.1-70b                             20               1           < $0.01           < $0.01
all                                9,000,020       5,000,001             $2.10            $12.60
  30 days at this rate            38,571,514      21,428,575             $9.00            $54.00
"
        );
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let sheet = parse("--params 8b").unwrap().sheet(None).unwrap();
        let json = json::of(&sheet);
        let members: Vec<_> = json["models"][0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            members,
            [
                "active_parameters",
                "attention_of",
                "dtype",
                "flops_per_token",
                "kv_cache_bytes",
                "kv_cache_bytes_per_token",
                "name",
                "parameters",
                "weights_bytes"
            ]
        );
        assert_eq!(json["models"][0]["weights_bytes"], 16_000_000_000_u64);
        assert_eq!(json.get("measured"), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (line, part) in [
            ("", "<--model <MODEL|FILE>|--params <N>>"),
            ("--params 8b --model llama-3-8b", "cannot be used with"),
            ("--params 8x7b", "write it like 8b"),
            ("--params 8b --gpu a100", "a100-40gb, a100-80gb, h100-sxm"),
            ("--params 8b --dtype fp9", "fp32, fp16, bf16"),
            ("--params 8b --price free", "write it like 0.15"),
            ("--params 8b --users 3 --price 1", "--tokens-per-user"),
            ("--params 8b --compare-price 1", "--compare"),
            ("--params 8b --context 0", "1.."),
        ] {
            let problem = parse(line).unwrap_err();
            assert!(problem.contains(part), "{line}: {problem}");
        }
        let problem = parse("--params 8b --compare llama-4").unwrap().sheet(None).unwrap_err().to_string();
        assert!(problem.starts_with("--compare: no model `llama-4` is known; give a number"), "{problem}");
    }

    #[test]
    fn the_help_has_three_examples() {
        let examples = long_help().lines().filter(|line| line.starts_with("    streamgauge size ")).count();
        assert_eq!(examples, 3);
        assert!(long_help().lines().all(|line| line.chars().count() <= 100));
    }
}
