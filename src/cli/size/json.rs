//! The sheet as JSON: numbers in base units. What is not known is absent.

use serde_json::{Map, Value, json};

use super::candidate::{Candidate, DAYS_A_MONTH, Sheet};
use super::traffic::{DAYS, Traffic};
use crate::account::hardware::{Device, Fleet};

/// All of it.
pub(super) fn of(sheet: &Sheet) -> Value {
    let workload = &sheet.workload;
    let models: Vec<_> = sheet.candidates.iter().map(|candidate| model(sheet, candidate)).collect();
    let mut all = Map::new();
    put(&mut all, "models", Some(models));
    put(&mut all, "device", sheet.device.map(device));
    put(&mut all, "context_tokens", Some(workload.context));
    put(&mut all, "concurrency", Some(workload.concurrency));
    put(&mut all, "tokens_per_day", workload.tokens_a_day);
    put(&mut all, "training_tokens", workload.training_tokens);
    if let Some(traffic) = &sheet.traffic {
        let models: Vec<_> = traffic.iter().map(|one| measured(sheet, one)).collect();
        put(&mut all, "measured", Some(json!({"days": DAYS, "models": models})));
    }
    put(&mut all, "assumptions", Some(sheet.assumptions()));
    Value::Object(all)
}

fn put(into: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        into.insert(name.to_owned(), value.into());
    }
}

fn model(sheet: &Sheet, it: &Candidate) -> Value {
    let workload = &sheet.workload;
    let mut all = Map::new();
    put(&mut all, "name", Some(it.name.as_str()));
    put(&mut all, "parameters", Some(it.architecture.parameters));
    put(&mut all, "active_parameters", Some(it.architecture.active_parameters));
    put(&mut all, "dtype", Some(it.dtype.name()));
    put(&mut all, "source", it.source);
    put(&mut all, "attention_of", it.attention_of);
    put(&mut all, "weights_bytes", Some(it.weights_bytes()));
    put(&mut all, "kv_cache_bytes_per_token", it.kv_token_bytes());
    put(&mut all, "kv_cache_bytes", it.kv_bytes(workload));
    put(&mut all, "flops_per_token", Some(it.architecture.token_flops(workload.context)));
    put(&mut all, "training_flops", it.training_flops(workload));
    put(&mut all, "price_per_million_tokens", it.price.map(|price| price.per_million()));
    let cost = |days: u64| Some(it.cost(workload.tokens_a_day?.saturating_mul(days))?.dollars());
    put(&mut all, "cost_per_day", cost(1));
    put(&mut all, "cost_per_month", cost(DAYS_A_MONTH));
    put(&mut all, "bounds", sheet.device.map(|device| bounds(sheet, it, device)));
    Value::Object(all)
}

/// What the devices that hold a model cannot beat.
fn bounds(sheet: &Sheet, it: &Candidate, device: &'static Device) -> Value {
    let workload = &sheet.workload;
    let fleet = it.fleet(workload, device);
    let batch = it.decode(&fleet, workload, workload.concurrency);
    let mut all = Map::new();
    put(&mut all, "devices_for_weights", Some(Fleet::holding(it.weights_bytes(), device).count));
    put(&mut all, "devices", Some(fleet.count));
    put(&mut all, "min_ttft_seconds", Some(it.first_token(&fleet, workload.context)));
    put(&mut all, "max_tps_alone", Some(it.decode(&fleet, workload, 1).tokens_per_second()));
    put(&mut all, "max_tps", Some(batch.tokens_per_second()));
    put(&mut all, "max_throughput_tps", Some(batch.throughput()));
    put(&mut all, "limit", Some(batch.limit().name()));
    put(&mut all, "flops_per_byte", Some(batch.intensity()));
    put(&mut all, "ridge_flops_per_byte", fleet.ridge(it.dtype));
    Value::Object(all)
}

fn device(device: &'static Device) -> Value {
    let mut all = Map::new();
    put(&mut all, "name", Some(device.name));
    put(&mut all, "fp16_flops", device.fp16_flops);
    put(&mut all, "fp8_flops", device.fp8_flops);
    put(&mut all, "int8_ops", device.int8_ops);
    put(&mut all, "memory_bytes", Some(device.memory_bytes));
    put(&mut all, "memory_bandwidth_bytes_per_second", Some(device.memory_bandwidth));
    put(&mut all, "source", Some(device.source));
    Value::Object(all)
}

fn measured(sheet: &Sheet, traffic: &Traffic) -> Value {
    let costs = sheet
        .candidates
        .iter()
        .filter_map(|it| Some(json!({"model": it.name, "cost": it.cost(traffic.tokens())?.dollars()})));
    json!({
        "model": traffic.model,
        "input_tokens": traffic.input,
        "output_tokens": traffic.output,
        "costs": costs.collect::<Vec<_>>(),
    })
}
