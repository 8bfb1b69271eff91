//! Models and the devices that serve them.

use super::super::id::Id;
use super::super::labels::Label;
use super::super::row::{Kind, Row, Section};
use Kind::{Counter, Gauge};
use Section::Models;

pub(super) static ROWS: &[Row] = &[
    Row::new(
        Id::ModelParameters,
        "model_parameters",
        Gauge,
        Models,
        &[Label::Model],
        "Parameters of the model, all experts included; where its architecture is configured.",
    ),
    Row::new(
        Id::ModelWeights,
        "model_weights_bytes",
        Gauge,
        Models,
        &[Label::Model],
        "Bytes of the model's weights: parameters times the bytes of the configured dtype. The KV cache comes on top.",
    ),
    Row::new(
        Id::ModelFlops,
        "model_flops_total",
        Counter,
        Models,
        &[Label::Model],
        "Floating-point operations of serving the model, by the arithmetic of its architecture: 2 for each active parameter and token, and attention where layers and heads are configured; tokens read from a prompt cache are not computed. Its rate over hardware_peak_flops is the MFU.",
    )
    .beyond_64_bits(),
    Row::new(
        Id::HardwareFlops,
        "hardware_peak_flops",
        Gauge,
        Models,
        &[Label::Model],
        "Dense FP16 or BF16 floating-point operations a second that all devices configured for the model can do at their peak.",
    ),
    Row::new(
        Id::HardwareInt8Ops,
        "hardware_peak_int8_ops",
        Gauge,
        Models,
        &[Label::Model],
        "Dense INT8 operations a second that all devices configured for the model can do at their peak.",
    ),
    Row::new(
        Id::HardwareMemory,
        "hardware_memory_bytes",
        Gauge,
        Models,
        &[Label::Model],
        "Bytes of memory of all devices configured for the model.",
    ),
    Row::new(
        Id::HardwareBandwidth,
        "hardware_memory_bandwidth_bytes_per_second",
        Gauge,
        Models,
        &[Label::Model],
        "Bytes a second that all devices configured for the model can read from their memory. It bounds decoding long before their peak rates do.",
    ),
];
