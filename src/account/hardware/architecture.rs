//! What a model is made of, as far as its size and its work depend on it.

use super::dtype::Dtype;

/// A decoder-only transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// All parameters: what memory holds.
    pub parameters: u64,
    /// The parameters that a token meets; fewer in a mixture of experts.
    pub active_parameters: u64,
    /// How the others are chosen among.
    pub experts: Option<Experts>,
    /// What the KV cache and the attention's work depend on.
    pub attention: Option<Attention>,
}

/// A mixture of experts: each token goes to some of them, in each layer anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// How many a layer has.
    pub count: u32,
    /// How many of them a token meets.
    pub chosen: u32,
}

/// Attention over what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    /// Layers.
    pub layers: u32,
    /// Numbers that a layer keeps of a token.
    pub kept: u32,
    /// Query heads × their size; where keys and values differ in size, × the mean of the two.
    pub width: Option<u32>,
    /// Layers that look back a bounded way only.
    pub window: Option<Window>,
}

/// Sliding-window attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many layers have it.
    pub layers: u32,
    /// How many tokens they look back.
    pub tokens: u32,
}

impl Architecture {
    /// A dense model.
    pub const fn dense(parameters: u64, attention: Option<Attention>) -> Self {
        Self { parameters, active_parameters: parameters, experts: None, attention }
    }

    /// Bytes of the weights: each parameter once.
    pub const fn weights_bytes(&self, dtype: Dtype) -> u64 {
        dtype.bytes(self.parameters)
    }

    /// Bytes of weights that one step reads for so many streams at once, as is to be expected where every expert is
    /// as likely as any other: an expert is read unless all streams pass it by, 1 − (1 − chosen / count)^streams.
    /// Without knowing the experts: the active parameters, which is the least.
    pub fn weights_read(&self, dtype: Dtype, streams: u32) -> f64 {
        let (all, active) = (self.parameters as f64, self.active_parameters as f64);
        let read = match self.experts {
            Some(Experts { count, chosen }) if chosen < count => {
                let share = f64::from(chosen) / f64::from(count);
                let in_experts = (all - active) / (1.0 - share);
                let shared = all - in_experts;
                shared + in_experts * (1.0 - (1.0 - share).powf(f64::from(streams)))
            }
            _ => active,
        };
        read * (self.weights_bytes(dtype) as f64 / all)
    }

    /// Floating-point operations of one more token, with so many before it that it looks back on: a multiplication
    /// and an addition with each active parameter (Kaplan et al., arXiv 2001.08361, section 2.1), and in each layer a
    /// product with the keys and one with the values of every token looked at (Chowdhery et al., arXiv 2204.02311,
    /// appendix B, where training's 12·L·H·Q·T is three times this).
    pub fn token_flops(&self, context: u64) -> f64 {
        2.0 * self.active_parameters as f64 + self.attention.map_or(0.0, |it| it.flops(context as f64))
    }

    /// Floating-point operations of a prompt: token by token with ever more before it, none looking ahead.
    pub fn prompt_flops(&self, tokens: u64) -> f64 {
        let n = tokens as f64;
        2.0 * self.active_parameters as f64 * n + self.attention.map_or(0.0, |it| it.prompt_flops(n))
    }

    /// Floating-point operations of serving an exchange: of every token but those whose keys and values a prompt
    /// cache had. Several answers to one prompt are taken for one after the other.
    pub fn serving_flops(&self, cached: u64, tokens: u64) -> f64 {
        self.prompt_flops(tokens) - self.prompt_flops(cached.min(tokens))
    }

    /// Floating-point operations of training on so many tokens: 6·N·D, two forward and four backward (Kaplan et
    /// al., arXiv 2001.08361, section 2.1; Hoffmann et al., arXiv 2203.15556, appendix F).
    pub fn training_flops(&self, tokens: f64) -> f64 {
        6.0 * self.active_parameters as f64 * tokens
    }
}

impl Attention {
    /// Heads that share keys and values in groups (Ainslie et al., arXiv 2305.13245); as many of these as query
    /// heads: each its own.
    pub const fn grouped(layers: u32, heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        let width = Some(heads.saturating_mul(head_dim));
        Self { layers, kept: kept_by_heads(kv_heads, head_dim), width, window: None }
    }

    /// The same where the query heads are not known.
    pub const fn of_kv_heads(layers: u32, kv_heads: u32, head_dim: u32) -> Self {
        Self { layers, kept: kept_by_heads(kv_heads, head_dim), width: None, window: None }
    }

    /// Multi-head latent attention: of a token is kept one compressed vector for all heads (DeepSeek-AI, arXiv
    /// 2405.04434, section 2.1).
    pub const fn latent(layers: u32, heads: u32, kept: u32, key_dim: u32, value_dim: u32) -> Self {
        let width = Some(heads.saturating_mul(key_dim.saturating_add(value_dim) / 2));
        Self { layers, kept, width, window: None }
    }

    /// With so many layers that look back so many tokens only.
    #[must_use]
    pub const fn sliding(mut self, layers: u32, tokens: u32) -> Self {
        self.window = Some(Window { layers, tokens });
        self
    }

    /// Bytes that the KV cache grows by with a token: 2 × layers × KV heads × head size × bytes (Kwon et al., arXiv
    /// 2309.06180, section 3), while no window is full.
    pub fn token_bytes(&self, dtype: Dtype) -> u64 {
        dtype.bytes(u64::from(self.layers) * u64::from(self.kept))
    }

    /// Bytes of the KV cache of one stream; a layer with a window keeps the window.
    pub fn bytes(&self, context: u64, dtype: Dtype) -> u64 {
        let (window, tokens) =
            self.window.map_or((0, 0), |window| (u64::from(window.layers), u64::from(window.tokens)));
        let full = u64::from(self.layers).saturating_sub(window).saturating_mul(context);
        let bounded = window.saturating_mul(context.min(tokens));
        dtype.bytes(full.saturating_add(bounded).saturating_mul(u64::from(self.kept)))
    }

    fn flops(&self, context: f64) -> f64 {
        let looked_at = self.over_layers(|reach| context.min(reach));
        4.0 * f64::from(self.width.unwrap_or(0)) * looked_at
    }

    fn prompt_flops(&self, tokens: f64) -> f64 {
        let looked_at = self.over_layers(|reach| {
            let growing = tokens.min(reach);
            growing * (growing + 1.0) / 2.0 + (tokens - growing) * growing
        });
        4.0 * f64::from(self.width.unwrap_or(0)) * looked_at
    }

    /// What a layer has that looks back so far, summed over the layers.
    fn over_layers(&self, of_reach: impl Fn(f64) -> f64) -> f64 {
        let window = self.window.unwrap_or(Window { layers: 0, tokens: 0 });
        let bounded = f64::from(window.layers);
        (f64::from(self.layers) - bounded) * of_reach(f64::INFINITY)
            + bounded * of_reach(f64::from(window.tokens))
    }
}

const fn kept_by_heads(kv_heads: u32, head_dim: u32) -> u32 {
    kv_heads.saturating_mul(head_dim).saturating_mul(2) // a key and a value
}

#[cfg(test)]
mod tests {
    use super::super::known::Known;
    use super::*;

    fn known(name: &str) -> Architecture {
        Known::named(name).unwrap().architecture
    }

    #[test]
    fn weights_of_8b_and_70b() {
        let weights = |parameters, dtype| Architecture::dense(parameters, None).weights_bytes(dtype);
        assert_eq!(weights(8_000_000_000, Dtype::Fp16), 16_000_000_000);
        assert_eq!(weights(70_000_000_000, Dtype::Fp16), 140_000_000_000);
        assert_eq!(weights(70_000_000_000, Dtype::Fp32), 280_000_000_000);
    }

    #[test]
    fn a_token_in_the_kv_cache() {
        let bytes = |name: &str| known(name).attention.unwrap().token_bytes(Dtype::Bf16);
        assert_eq!(bytes("llama-3-8b"), 131_072);
        assert_eq!(bytes("llama-3-70b"), 327_680);
        assert_eq!(bytes("llama-2-7b"), 524_288); // multi-head: a key and a value for each of 32 heads
        // DeepSeek-AI, arXiv 2505.09343, table 1: 70.272 KB for DeepSeek-V3, 327.680 for Qwen2.5-72B, 516.096 for
        // Llama-3.1 405B.
        assert_eq!(bytes("deepseek-v3"), 70_272);
        assert_eq!(bytes("qwen2.5-72b"), 327_680);
        assert_eq!(bytes("llama-3.1-405b"), 516_096);
    }

    #[test]
    fn a_window_bounds_the_cache_of_its_layers() {
        let attention = Attention::grouped(6, 8, 1, 64).sliding(5, 1024);
        let token = 2 * 64 * 2;
        assert_eq!(attention.bytes(1000, Dtype::Bf16), 1000 * 6 * token);
        assert_eq!(attention.bytes(8192, Dtype::Bf16), (8192 + 5 * 1024) * token);
    }

    #[test]
    fn gpt_3_was_trained_with_3_14e23_operations() {
        // Brown et al., arXiv 2005.14165, table D.1: 174,600 M parameters, 300 B tokens, 3.14E+23 flops.
        let by_rule = Architecture::dense(175_000_000_000, None).training_flops(300e9);
        assert!((by_rule / 3.15e23 - 1.0).abs() < 1e-9, "{by_rule:e}");
        let of_the_paper = known("gpt-3").training_flops(300e9);
        assert!((of_the_paper / 3.14e23 - 1.0).abs() < 0.002, "{of_the_paper:e}");
    }

    #[test]
    fn a_token_costs_two_operations_a_parameter_and_its_attention() {
        let model = Architecture::dense(1000, Some(Attention::grouped(2, 4, 1, 8)));
        assert!((model.token_flops(0) - 2000.0).abs() < 1e-9);
        assert!((model.token_flops(10) - (2000.0 + 4.0 * 2.0 * 32.0 * 10.0)).abs() < 1e-9);
        let one_by_one: f64 = (1..=10).map(|context| model.token_flops(context)).sum();
        assert!((model.prompt_flops(10) - one_by_one).abs() < 1e-6);
        let windowed = Architecture::dense(1000, Some(Attention::grouped(2, 4, 1, 8).sliding(1, 3)));
        let one_by_one: f64 = (1..=10).map(|context| windowed.token_flops(context)).sum();
        assert!((windowed.prompt_flops(10) - one_by_one).abs() < 1e-6);
    }

    #[test]
    fn what_a_cache_had_is_not_computed_again() {
        let model = known("llama-3-8b");
        let after = (101..=120).map(|context| model.token_flops(context)).sum::<f64>();
        assert!((model.serving_flops(100, 120) / after - 1.0).abs() < 1e-9);
        assert!(model.serving_flops(120, 100).abs() < 1e-9);
    }

    #[test]
    fn a_batch_reads_more_of_the_experts() {
        let mixtral = known("mixtral-8x7b");
        let read = |streams| mixtral.weights_read(Dtype::Bf16, streams) / 2.0;
        assert!((read(1) / mixtral.active_parameters as f64 - 1.0).abs() < 1e-9);
        assert!(read(2) > read(1) && read(64) > 0.99 * mixtral.parameters as f64);
        assert!(read(64) <= mixtral.parameters as f64);
        let dense = known("llama-3-8b");
        assert!((dense.weights_read(Dtype::Bf16, 64) - dense.weights_bytes(Dtype::Bf16) as f64).abs() < 1.0);
    }
}
