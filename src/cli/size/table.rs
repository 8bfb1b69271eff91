//! The sheet as a page of text, a column for each model.

use std::fmt::Write as _;

use super::candidate::{Candidate, DAYS_A_MONTH, Sheet};
use super::figures::{cut, ratio, scaled, seconds, three, whole, wrapped};
use super::money::per_million;
use super::traffic::{DAYS, Traffic};
use crate::account::hardware::{Device, Fleet};

const LABEL: usize = 37;
const COLUMN: usize = 25;
const TOKENS: usize = 16;
const MODELS: usize = 12; // of measured traffic; the others are one row

/// A figure, and what it is worth where two of them make a ratio.
struct Cell {
    text: String,
    worth: Option<f64>,
}

impl Cell {
    fn new(text: String, worth: f64) -> Self {
        Self { text, worth: Some(worth) }
    }

    /// A word, or a figure whose ratio says nothing.
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), worth: None }
    }
}

/// The page.
pub(super) fn of(sheet: &Sheet) -> String {
    let mut page = Page { sheet, text: String::new() };
    page.heads();
    page.memory();
    if let Some(device) = sheet.device {
        page.devices(device);
    }
    page.work();
    page.cost();
    if let Some(traffic) = &sheet.traffic {
        page.traffic(traffic);
    }
    page.text.push('\n');
    for assumption in sheet.assumptions() {
        page.line(&wrapped(&format!("- {assumption}"), 0).replace('\n', "\n  "));
    }
    page.text
}

struct Page<'s> {
    sheet: &'s Sheet,
    text: String,
}

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn section(&mut self, title: &str) {
        self.line("");
        self.line(title);
    }

    fn row(&mut self, label: &str, cell: impl Fn(&Candidate) -> Option<Cell>) {
        let cells: Vec<_> = self.sheet.candidates.iter().map(cell).collect();
        if cells.iter().all(Option::is_none) {
            return;
        }
        let mut line = format!("{label:LABEL$}");
        for cell in &cells {
            let text = cell.as_ref().map_or("-", |cell| &cell.text);
            let _ = write!(line, "{text:>COLUMN$}");
        }
        let worths: Vec<_> = cells.iter().flatten().filter_map(|cell| cell.worth).collect();
        if let [first, second] = worths.as_slice()
            && *first > 0.0
        {
            let _ = write!(line, "{:>10}", ratio(second / first));
        }
        self.line(&line);
    }

    fn heads(&mut self) {
        let mut line = format!("{:LABEL$}", "");
        for candidate in &self.sheet.candidates {
            let _ = write!(line, "{:>COLUMN$}", cut(&candidate.name, COLUMN - 1));
        }
        self.line(&line);
    }

    fn memory(&mut self) {
        let workload = &self.sheet.workload;
        let bytes = |bytes: u64| Cell::new(scaled(bytes as f64, "B"), bytes as f64);
        let count = |count: u64| Cell::new(format!("{} billion", three(count as f64 / 1e9)), count as f64);
        let is_mixture = |it: &Candidate| it.architecture.experts.is_some();
        let any_mixture = self.sheet.candidates.iter().any(is_mixture);
        self.row("parameters", |it| Some(count(it.architecture.parameters)));
        self.row("  active for a token", |it| any_mixture.then(|| count(it.architecture.active_parameters)));
        self.row("weights", |it| {
            let weights = bytes(it.weights_bytes());
            Some(Cell { text: format!("{} {}", it.dtype.name(), weights.text), ..weights })
        });
        self.row("KV cache, a token", |it| {
            let token = it.kv_token_bytes()?;
            Some(Cell::new(format!("{} B", whole(u128::from(token))), token as f64))
        });
        let label = format!(
            "KV cache, {} × {} tokens",
            whole(u128::from(workload.concurrency)),
            whole(u128::from(workload.context))
        );
        self.row(&label, |it| Some(bytes(it.kv_bytes(workload)?)));
        self.row("weights and KV cache", |it| {
            it.kv_bytes(workload).map(|_| bytes(it.memory_bytes(workload)))
        });
    }

    fn devices(&mut self, device: &'static Device) {
        let workload = &self.sheet.workload;
        let number = |fleet: Fleet| Cell::new(counted(&fleet), fleet.count as f64);
        self.section(&format!("on {}", described(device)));
        self.row("for the weights", |it| Some(number(Fleet::holding(it.weights_bytes(), device))));
        self.row("with the KV cache", |it| Some(number(it.fleet(workload, device))));
        let fleets = self.sheet.candidates.iter().map(|it| counted(&it.fleet(workload, device)));
        self.section(&format!("bounds, on {}", fleets.collect::<Vec<_>>().join(" and ")));
        for prompt in workload.prompts() {
            let label = format!("TTFT, prompt of {} tokens", whole(u128::from(prompt)));
            self.row(&label, |it| {
                let floor = it.first_token(&it.fleet(workload, device), prompt);
                Some(Cell::new(format!("≥ {}", seconds(floor)), floor))
            });
        }
        let at_most = |tokens: f64| Some(Cell::new(format!("≤ {}", three(tokens)), tokens));
        self.row("TPS of one stream alone", |it| {
            at_most(it.decode(&it.fleet(workload, device), workload, 1).tokens_per_second())
        });
        let batch = |it: &Candidate| it.decode(&it.fleet(workload, device), workload, workload.concurrency);
        let streams = whole(u128::from(workload.concurrency));
        if workload.concurrency > 1 {
            self.row(&format!("TPS of each of {streams} streams"), |it| {
                at_most(batch(it).tokens_per_second())
            });
            self.row(&format!("TPS of all {streams}"), |it| at_most(batch(it).throughput()));
            self.row(&format!("  for each {}", device.noun), |it| {
                at_most(batch(it).throughput() / it.fleet(workload, device).count as f64)
            });
        }
        self.row("decode is limited by", |it| Some(Cell::plain(batch(it).limit().name())));
        self.row("  FLOPs a byte read (ridge)", |it| {
            let ridge = it.fleet(workload, device).ridge(it.dtype)?;
            Some(Cell::plain(format!("{} ({})", three(batch(it).intensity()), three(ridge))))
        });
    }

    fn work(&mut self) {
        let workload = &self.sheet.workload;
        self.section("work");
        self.row(&format!("FLOPs of a token after {}", whole(u128::from(workload.context))), |it| {
            let flops = it.architecture.token_flops(workload.context);
            Some(Cell::new(scaled(flops, "FLOPs"), flops))
        });
        let Some(tokens) = workload.training_tokens else { return };
        self.row(&format!("FLOPs of training on {:e} tokens", tokens as f64), |it| {
            let flops = it.training_flops(workload)?;
            Some(Cell::new(format!("{flops:.2e}"), flops))
        });
        let Some(device) = self.sheet.device else { return };
        self.row(&format!("  {}-days at the peak", device.noun), |it| {
            let days = it.training_flops(workload)? / device.peak(it.dtype)? / 86_400.0;
            Some(Cell::new(format!("≥ {}", three(days)), days))
        });
    }

    fn cost(&mut self) {
        if self.sheet.candidates.iter().all(|candidate| candidate.price.is_none()) {
            return;
        }
        self.section("cost");
        self.row("a million tokens", |it| {
            let price = it.price?;
            Some(Cell::new(per_million(price), price.per_million()))
        });
        let Some(tokens) = self.sheet.workload.tokens_a_day else { return };
        let cost = |it: &Candidate, tokens: u64| {
            let cost = it.cost(tokens)?;
            Some(Cell::new(cost.to_string(), cost.dollars()))
        };
        self.row(&format!("a day, {} tokens", whole(u128::from(tokens))), |it| cost(it, tokens));
        let tokens = tokens.saturating_mul(DAYS_A_MONTH);
        self.row(&format!("a month, {} tokens", whole(u128::from(tokens))), |it| cost(it, tokens));
    }

    /// What was measured, model by model, and what it would have cost on each candidate.
    fn traffic(&mut self, traffic: &[Traffic]) {
        self.section(&format!("measured in the last {DAYS} days"));
        let mut head = format!("{:28}{:>TOKENS$}{:>TOKENS$}", "served by", "input tokens", "output tokens");
        let priced: Vec<_> = self.sheet.candidates.iter().filter(|it| it.price.is_some()).collect();
        for candidate in &priced {
            let _ = write!(head, "{:>18}", format!("on {}", cut(&candidate.name, 13)));
        }
        self.line(&head);
        let mut row = |name: &str, input: u64, output: u64, part: u128, days: u128| {
            let tokens = |count: u64| whole(u128::from(count) * part / days);
            let mut line =
                format!("{:28}{:>TOKENS$}{:>TOKENS$}", cut(name, 27), tokens(input), tokens(output));
            for candidate in &priced {
                let cost = candidate.cost(input.saturating_add(output)).map(|cost| cost.share(part, days));
                let _ = write!(line, "{:>18}", cost.map_or_else(String::new, |cost| cost.to_string()));
            }
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        };
        let sum = |of: &[Traffic]| {
            of.iter().fold((0_u64, 0_u64), |(input, output), it| {
                (input.saturating_add(it.input), output.saturating_add(it.output))
            })
        };
        let shown = traffic.len().min(MODELS);
        let (first, others) = traffic.split_at(shown);
        for one in first {
            row(&one.model, one.input, one.output, 1, 1);
        }
        if !others.is_empty() {
            let (input, output) = sum(others);
            row(&format!("{} others", others.len()), input, output, 1, 1);
        }
        let (input, output) = sum(traffic);
        row("all", input, output, 1, 1);
        row(
            &format!("  {DAYS_A_MONTH} days at this rate"),
            input,
            output,
            u128::from(DAYS_A_MONTH),
            u128::from(DAYS),
        );
    }
}

/// How many devices: `4 GPUs`.
fn counted(fleet: &Fleet) -> String {
    let plural = if fleet.count == 1 { "" } else { "s" };
    format!("{} {}{plural}", whole(u128::from(fleet.count)), fleet.device.noun)
}

/// A device and its rates.
fn described(device: &Device) -> String {
    let flops = device.fp16_flops.map(|rate| format!("{} TFLOPS FP16", three(rate / 1e12)));
    let ops = device.int8_ops.map(|rate| format!("{} TOPS INT8", three(rate / 1e12)));
    let memory = scaled(device.memory_bytes as f64, "B");
    let bandwidth = format!("{} GB/s", whole((device.memory_bandwidth / 1e9).round() as u128));
    let rates: Vec<_> = flops.into_iter().chain(ops).chain([memory, bandwidth]).collect();
    format!("{}: {}", device.label, rates.join(", "))
}
