//! What is asked: models, work and a device; and what follows for each model.

use super::money::Money;
use super::traffic::Traffic;
use crate::account::hardware::{Architecture, Decode, Device, Dtype, Fleet, USABLE_PERCENT};
use crate::account::price::Rate;

/// Everything that was asked.
#[derive(Debug)]
pub(super) struct Sheet {
    /// One model, or two.
    pub(super) candidates: Vec<Candidate>,
    pub(super) device: Option<&'static Device>,
    pub(super) workload: Workload,
    /// What was measured, where that was asked for.
    pub(super) traffic: Option<Vec<Traffic>>,
}

/// A model that may be served.
#[derive(Debug)]
pub(super) struct Candidate {
    /// As it was asked for.
    pub(super) name: String,
    pub(super) architecture: Architecture,
    pub(super) dtype: Dtype,
    pub(super) price: Option<Rate>,
    /// Where its figures are from, where it is known by name.
    pub(super) source: Option<&'static str>,
    /// The known model whose attention stands for its own.
    pub(super) attention_of: Option<&'static str>,
}

/// What it is to do.
#[derive(Debug)]
pub(super) struct Workload {
    /// Tokens that each stream has before it.
    pub(super) context: u64,
    /// Streams at once.
    pub(super) concurrency: u32,
    pub(super) tokens_a_day: Option<u64>,
    pub(super) training_tokens: Option<u64>,
}

pub(super) const DAYS_A_MONTH: u64 = 30;
const SHORT_PROMPT: u64 = 1000; // what a chat sends: most are shorter

impl Workload {
    /// Lengths of prompts whose TTFT is told.
    pub(super) fn prompts(&self) -> impl Iterator<Item = u64> {
        [SHORT_PROMPT].into_iter().filter(|short| *short < self.context).chain([self.context])
    }
}

impl Candidate {
    pub(super) fn weights_bytes(&self) -> u64 {
        self.architecture.weights_bytes(self.dtype)
    }

    pub(super) fn kv_token_bytes(&self) -> Option<u64> {
        Some(self.architecture.attention?.token_bytes(self.dtype.of_kv_cache()))
    }

    /// The KV cache of all streams.
    pub(super) fn kv_bytes(&self, workload: &Workload) -> Option<u64> {
        let stream = self.architecture.attention?.bytes(workload.context, self.dtype.of_kv_cache());
        Some(stream.saturating_mul(u64::from(workload.concurrency)))
    }

    /// Weights and KV cache.
    pub(super) fn memory_bytes(&self, workload: &Workload) -> u64 {
        self.weights_bytes().saturating_add(self.kv_bytes(workload).unwrap_or(0))
    }

    /// The devices that hold it with its KV cache.
    pub(super) fn fleet(&self, workload: &Workload, device: &'static Device) -> Fleet {
        Fleet::holding(self.memory_bytes(workload), device)
    }

    /// The least seconds to the first token of a prompt.
    pub(super) fn first_token(&self, fleet: &Fleet, prompt: u64) -> f64 {
        fleet.prefill_seconds(&self.architecture, self.dtype, prompt)
    }

    pub(super) fn decode(&self, fleet: &Fleet, workload: &Workload, streams: u32) -> Decode {
        fleet.decode(&self.architecture, self.dtype, workload.context, streams)
    }

    pub(super) fn training_flops(&self, workload: &Workload) -> Option<f64> {
        Some(self.architecture.training_flops(workload.training_tokens? as f64))
    }

    /// What so many tokens cost.
    pub(super) fn cost(&self, tokens: u64) -> Option<Money> {
        Some(Money::of(self.price?, tokens))
    }
}

impl Sheet {
    /// What a reader must know of how the figures came about.
    pub(super) fn assumptions(&self) -> Vec<String> {
        let mut all = vec!["1 GB is 10⁹ bytes; FLOPs are operations, FLOPS operations a second.".to_owned()];
        for candidate in &self.candidates {
            if let Some(source) = candidate.source {
                all.push(format!("{}: {source}.", candidate.name));
            }
            if let Some(of) = candidate.attention_of {
                all.push(format!(
                    "{}: layers and heads are those of {of}, the known dense model nearest in size.",
                    candidate.name
                ));
            }
            if candidate.architecture.experts.is_some() {
                all.push(format!(
                    "{}: a mixture of experts holds all parameters and computes with the active ones; a step reads \
                     the experts that its streams can be expected to choose.",
                    candidate.name
                ));
            }
        }
        all.push(
            "KV cache in 16 bits, 32 with fp32; every stream at its full context; layers with a sliding window keep \
             the window."
                .to_owned(),
        );
        all.extend(self.device.into_iter().flat_map(|device| self.of_device(device)));
        if self.candidates.iter().any(|candidate| candidate.price.is_some()) {
            all.push(format!(
                "Prices are for a million tokens, input and output alike; a month is {DAYS_A_MONTH} days."
            ));
        }
        if self.workload.training_tokens.is_some() {
            all.push("Training is 6 FLOPs for each parameter and token, forward and backward.".to_owned());
        }
        all
    }

    fn of_device(&self, device: &'static Device) -> Vec<String> {
        let mut all = vec![
            format!(
                "{USABLE_PERCENT} % of a device's memory is for weights and KV cache. Peak rates are dense; headlines \
                 are often for 2:4 sparsity, twice as high. {}: {}.",
                device.label, device.source
            ),
            "TTFT and TPS are bounds at those rates: no queue, nothing lost between devices. Servers stay \
             short of them; how far is what `streamgauge run` measures."
                .to_owned(),
        ];
        let odd = |candidate: &Candidate| !candidate.fleet(&self.workload, device).count.is_power_of_two();
        if self.candidates.iter().any(odd) {
            all.push("Engines share a model among 1, 2, 4 or 8 devices, as its heads divide.".to_owned());
        }
        if self.candidates.iter().any(|candidate| device.peak(candidate.dtype).is_none()) {
            all.push(format!(
                "{} has no published rate for these weights: bounds are those of its bandwidth.",
                device.label
            ));
        }
        all
    }
}
