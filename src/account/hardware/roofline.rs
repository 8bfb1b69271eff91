//! What devices cannot beat: memory that must hold a model, operations at the peak rate, bytes at the memory's
//! bandwidth (the roofline model: Williams, Waterman, Patterson, CACM 52(4), 2009).
//!
//! Nothing here knows what is lost on the way: kernels that do not reach the peak, traffic between devices, queues.

use super::architecture::Architecture;
use super::device::Device;
use super::dtype::Dtype;

/// How much of a device's memory weights and KV cache can have; the rest is activations and the runtime's. vLLM's
/// default for `--gpu-memory-utilization` was 0.9 for years.
pub const USABLE_PERCENT: u64 = 90;

/// Devices that share a model's weights and work evenly.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// Of which kind.
    pub device: &'static Device,
    /// How many.
    pub count: u64,
}

/// One step of decoding, in which every stream gets a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decode {
    /// Streams.
    pub streams: u32,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read: the weights once for all streams, and each stream's KV cache.
    pub bytes: f64,
    /// The least time that reading takes, in seconds.
    pub bandwidth_seconds: f64,
    /// The least time that computing takes, in seconds; none: the device's rate is not known.
    pub compute_seconds: Option<f64>,
}

/// What bounds a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Reading memory.
    Bandwidth,
    /// Computing.
    Compute,
}

impl Limit {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bandwidth => "bandwidth",
            Self::Compute => "compute",
        }
    }
}

impl Fleet {
    /// As many as hold so many bytes.
    pub fn holding(bytes: u64, device: &'static Device) -> Self {
        let usable = device.memory_bytes / 100 * USABLE_PERCENT;
        Self { device, count: bytes.div_ceil(usable.max(1)).max(1) }
    }

    /// All devices' peak rate.
    pub fn peak(&self, dtype: Dtype) -> Option<f64> {
        Some(self.device.peak(dtype)? * self.count as f64)
    }

    /// All devices' memory bandwidth.
    pub fn bandwidth(&self) -> f64 {
        self.device.memory_bandwidth * self.count as f64
    }

    /// The least seconds until a prompt's first token, alone: its operations at the peak, or the weights at the
    /// memory's bandwidth where that takes longer or the peak is not known.
    pub fn prefill_seconds(&self, model: &Architecture, dtype: Dtype, prompt: u64) -> f64 {
        let streams = u32::try_from(prompt).unwrap_or(u32::MAX); // each token chooses its experts
        let reading = model.weights_read(dtype, streams) / self.bandwidth();
        self.seconds(model.prompt_flops(prompt), dtype).unwrap_or(0.0).max(reading)
    }

    /// The least seconds in which so many operations are done.
    fn seconds(&self, flops: f64, dtype: Dtype) -> Option<f64> {
        Some(flops / self.peak(dtype)?)
    }

    /// Operations for each byte read at which computing takes as long as reading: the roofline's ridge.
    pub fn ridge(&self, dtype: Dtype) -> Option<f64> {
        Some(self.peak(dtype)? / self.bandwidth())
    }

    /// A step of so many streams that each look back on `context` tokens (Pope et al., arXiv 2211.05102, section
    /// 2). A model whose attention is not known has no KV cache here.
    pub fn decode(&self, model: &Architecture, dtype: Dtype, context: u64, streams: u32) -> Decode {
        let kv_bytes = model.attention.map_or(0, |it| it.bytes(context, dtype.of_kv_cache()));
        let bytes = model.weights_read(dtype, streams) + kv_bytes as f64 * f64::from(streams);
        let flops = model.token_flops(context) * f64::from(streams);
        Decode {
            streams,
            flops,
            bytes,
            bandwidth_seconds: bytes / self.bandwidth(),
            compute_seconds: self.seconds(flops, dtype),
        }
    }
}

impl Decode {
    /// The least seconds that it takes: reading and computing overlap at best.
    pub fn seconds(&self) -> f64 {
        self.bandwidth_seconds.max(self.compute_seconds.unwrap_or(0.0))
    }

    /// The most tokens a second of one stream.
    pub fn tokens_per_second(&self) -> f64 {
        1.0 / self.seconds()
    }

    /// The most tokens a second of all streams.
    pub fn throughput(&self) -> f64 {
        f64::from(self.streams) * self.tokens_per_second()
    }

    /// Operations for each byte read.
    pub fn intensity(&self) -> f64 {
        self.flops / self.bytes
    }

    /// What takes longer.
    pub fn limit(&self) -> Limit {
        match self.compute_seconds {
            Some(seconds) if seconds > self.bandwidth_seconds => Limit::Compute,
            _ => Limit::Bandwidth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::Known;
    use super::*;

    fn fleet(device: &str, count: u64) -> Fleet {
        Fleet { device: Device::named(device).unwrap(), count }
    }

    #[test]
    fn an_8b_fits_one_a100_and_a_70b_takes_four() {
        let holding = |bytes| Fleet::holding(bytes, Device::named("a100-40gb").unwrap()).count;
        assert_eq!(holding(16_000_000_000), 1);
        assert_eq!(holding(140_000_000_000), 4);
        assert_eq!(holding(36_000_000_000), 1);
        assert_eq!(holding(36_000_000_001), 2);
        assert_eq!(holding(0), 1);
    }

    #[test]
    fn one_stream_reads_all_weights_for_each_token() {
        let model = Architecture::dense(8_000_000_000, None);
        let decode = fleet("a100-40gb", 1).decode(&model, Dtype::Fp16, 0, 1);
        assert!((decode.tokens_per_second() - 1555.0 / 16.0).abs() < 1e-6);
        assert_eq!(decode.limit(), Limit::Bandwidth);
        assert!((decode.intensity() - 1.0).abs() < 1e-9); // two operations on the two bytes of each parameter
        let both = fleet("a100-40gb", 2).decode(&model, Dtype::Fp16, 0, 1);
        assert!((both.tokens_per_second() / decode.tokens_per_second() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_batch_is_bound_by_compute_beyond_the_ridge() {
        let (model, fleet) = (Architecture::dense(8_000_000_000, None), fleet("a100-40gb", 1));
        let ridge = fleet.ridge(Dtype::Fp16).unwrap();
        assert!((ridge - 312.0 / 1.555).abs() < 1e-6);
        assert_eq!(fleet.decode(&model, Dtype::Fp16, 0, 200).limit(), Limit::Bandwidth);
        let beyond = fleet.decode(&model, Dtype::Fp16, 0, 201);
        assert_eq!(beyond.limit(), Limit::Compute);
        assert!((beyond.throughput() - 312e12 / 16e9).abs() < 1e-6);
    }

    #[test]
    fn long_contexts_keep_a_batch_bound_by_bandwidth() {
        let llama = Known::named("llama-3-8b").unwrap().architecture;
        let decode = fleet("a100-40gb", 1).decode(&llama, Dtype::Bf16, 8192, 400);
        assert_eq!(decode.limit(), Limit::Bandwidth);
    }

    #[test]
    fn an_npu_has_operations_to_spare_and_waits_for_memory() {
        let llama = Known::named("llama-3-8b").unwrap().architecture;
        let decode = fleet("apple-m4", 1).decode(&llama, Dtype::Int4, 1024, 1);
        assert_eq!(decode.limit(), Limit::Bandwidth);
        assert!(decode.bandwidth_seconds > 50.0 * decode.compute_seconds.unwrap());
    }

    #[test]
    fn a_prompt_is_bound_by_compute_and_one_token_by_bandwidth() {
        let model = Architecture::dense(70_000_000_000, None);
        let four = fleet("a100-40gb", 4);
        let seconds = |prompt, dtype| four.prefill_seconds(&model, dtype, prompt);
        assert!((seconds(1000, Dtype::Fp16) - 140e12 / (4.0 * 312e12)).abs() < 1e-9);
        assert!((seconds(1, Dtype::Fp16) - 140e9 / (4.0 * 1.555e12)).abs() < 1e-9);
        assert!((seconds(1000, Dtype::Fp32) - 280e9 / (4.0 * 1.555e12)).abs() < 1e-9); // no peak is known
    }
}
