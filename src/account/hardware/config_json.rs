//! A model's `config.json`, as repositories on huggingface.co have it: what it is made of, and how many parameters
//! that makes. The file names no count, but all that it is a product of.

use serde::Deserialize;

use super::architecture::{Architecture, Attention, Experts};
use super::dtype::Dtype;

/// Why a file tells nothing. Completes "could not …".
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is something else.
    #[error("read it as a model's config.json: {0}")]
    NoJson(#[from] serde_json::Error),
    /// A family whose parts are not known here.
    #[error("count the parameters of a `{0}`; known are {types}", types = Family::names())]
    UnknownType(String),
    /// A member that cannot be done without.
    #[error("count its parameters: `{0}` is missing or 0")]
    Missing(&'static str),
}

/// The members that are needed. Others are of no concern.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    model_type: String,
    text_config: Option<Box<Fields>>, // of a model that sees, its language model
    vocab_size: Option<u32>,
    hidden_size: Option<u32>,
    num_hidden_layers: Option<u32>,
    num_attention_heads: Option<u32>,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    intermediate_size: Option<u32>,
    tie_word_embeddings: Option<bool>,
    num_local_experts: Option<u32>,
    num_experts: Option<u32>,
    n_routed_experts: Option<u32>,
    num_experts_per_tok: Option<u32>,
    moe_intermediate_size: Option<u32>,
    shared_expert_intermediate_size: Option<u32>,
    n_shared_experts: Option<u32>,
    first_k_dense_replace: Option<u32>,
    q_lora_rank: Option<u32>,
    kv_lora_rank: Option<u32>,
    qk_nope_head_dim: Option<u32>,
    qk_rope_head_dim: Option<u32>,
    v_head_dim: Option<u32>,
    sliding_window: Option<u32>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<u32>,
    layer_types: Option<Vec<String>>,
    #[serde(alias = "dtype")]
    torch_dtype: Option<String>,
    quantization_config: Option<Quantization>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Quantization {
    quant_method: String,
    bits: Option<u32>,
}

/// Models whose parts are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Mixtral,
    Qwen2,
    Qwen2Moe,
    Qwen3,
    Qwen3Moe,
    Gemma,
    Gemma2,
    Gemma3,
    Phi3,
    Deepseek,
    GptOss,
}

/// By `model_type`.
const FAMILIES: [(&str, Family); 14] = [
    ("llama", Family::Llama),
    ("mistral", Family::Mistral),
    ("mixtral", Family::Mixtral),
    ("qwen2", Family::Qwen2),
    ("qwen2_moe", Family::Qwen2Moe),
    ("qwen3", Family::Qwen3),
    ("qwen3_moe", Family::Qwen3Moe),
    ("gemma", Family::Gemma),
    ("gemma2", Family::Gemma2),
    ("gemma3_text", Family::Gemma3),
    ("phi3", Family::Phi3),
    ("deepseek_v2", Family::Deepseek),
    ("deepseek_v3", Family::Deepseek),
    ("gpt_oss", Family::GptOss),
];

impl Family {
    fn names() -> String {
        FAMILIES.map(|(name, _)| name).join(", ")
    }
}

/// What a `config.json` says: the architecture, and what the weights are kept in where that is told.
///
/// # Errors
/// It is none, is of a family that is not known, or lacks a member.
pub fn read(json: &[u8]) -> Result<(Architecture, Option<Dtype>), Unreadable> {
    let outer: Fields = serde_json::from_slice(json)?;
    let dtype = outer.dtype();
    let fields = match outer.text_config {
        Some(text) => *text,
        None => outer,
    };
    let family = FAMILIES.iter().find(|(name, _)| *name == fields.model_type).map(|(_, family)| *family);
    let family = family.ok_or_else(|| Unreadable::UnknownType(fields.model_type.clone()))?;
    let parts = Parts::of(&fields, family)?;
    Ok((parts.architecture(), dtype.or_else(|| fields.dtype())))
}

impl Fields {
    fn dtype(&self) -> Option<Dtype> {
        if let Some(quantization) = &self.quantization_config {
            return match (quantization.quant_method.as_str(), quantization.bits) {
                ("fp8", _) => Some(Dtype::Fp8),
                ("mxfp4", _) => Some(Dtype::Mxfp4),
                (_, Some(4)) => Some(Dtype::Int4),
                (_, Some(8)) => Some(Dtype::Int8),
                _ => None,
            };
        }
        match self.torch_dtype.as_deref()? {
            "float32" => Some(Dtype::Fp32),
            "float16" => Some(Dtype::Fp16),
            "bfloat16" => Some(Dtype::Bf16),
            _ => None,
        }
    }

    /// How many layers look back a bounded way, and how far.
    fn window(&self, family: Family, layers: u32) -> Option<(u32, u32)> {
        let listed = self.layer_types.as_ref().map(|types| {
            let sliding = types.iter().filter(|kind| *kind == "sliding_attention").count();
            u32::try_from(sliding).unwrap_or(layers)
        });
        let by_family = || match family {
            Family::Gemma2 | Family::GptOss => layers.div_ceil(2), // every other one
            Family::Gemma3 => layers - layers / 6,                 // five, then a global one
            Family::Mistral | Family::Phi3 | Family::Mixtral => layers,
            Family::Qwen2 | Family::Qwen2Moe | Family::Qwen3 | Family::Qwen3Moe
                if self.use_sliding_window == Some(true) =>
            {
                layers.saturating_sub(self.max_window_layers.unwrap_or(0))
            }
            _ => 0,
        };
        let window = self.sliding_window?;
        let sliding = listed.unwrap_or_else(by_family).min(layers);
        (sliding > 0).then_some((sliding, window))
    }
}

/// Parameters, part by part. They are whole numbers below 2⁵³, which an `f64` holds exactly.
struct Parts {
    attention: Attention,
    experts: Option<Experts>,
    /// Embeddings, attention, norms, dense layers: what every token meets.
    shared: f64,
    /// All experts.
    in_experts: f64,
    /// What is looked up and not multiplied, where published counts of active parameters leave it out.
    looked_up: f64,
}

impl Parts {
    fn of(fields: &Fields, family: Family) -> Result<Self, Unreadable> {
        // Gemma 3's files leave out what is the library's default for it.
        let default = |value: u32| (family == Family::Gemma3).then_some(value);
        let hidden = number(fields.hidden_size, "hidden_size")?;
        let layers = needed(fields.num_hidden_layers, "num_hidden_layers")?;
        let vocabulary = number(fields.vocab_size.or_else(|| default(262_208)), "vocab_size")?;
        let heads = needed(fields.num_attention_heads.or_else(|| default(8)), "num_attention_heads")?;
        let (attention, in_attention) = match family {
            Family::Deepseek => latent(fields, layers, heads, hidden)?,
            _ => {
                let own = needed(fields.hidden_size, "hidden_size")? / heads;
                let head_dim = needed(fields.head_dim.or_else(|| default(256)).or(Some(own)), "head_dim")?;
                let kv_heads = fields.num_key_value_heads.or_else(|| default(4)).unwrap_or(heads);
                let kv_heads = needed(Some(kv_heads), "num_key_value_heads")?;
                grouped(family, layers, heads, kv_heads, head_dim, hidden)
            }
        };
        let attention = match fields.window(family, layers) {
            Some((sliding, tokens)) => attention.sliding(sliding, tokens),
            None => attention,
        };
        let norms = match family {
            Family::Gemma2 | Family::Gemma3 => 4.0,
            _ => 2.0,
        };
        let ties_by_itself = matches!(family, Family::Gemma | Family::Gemma2 | Family::Gemma3);
        let embeddings = if fields.tie_word_embeddings.unwrap_or(ties_by_itself) { 1.0 } else { 2.0 };
        let Feeding { experts, dense, in_experts } = Feeding::of(fields, family, f64::from(layers), hidden)?;
        Ok(Self {
            attention,
            experts,
            shared: embeddings * vocabulary * hidden
                + f64::from(layers) * (in_attention + norms * hidden)
                + hidden // the last norm
                + dense,
            in_experts,
            looked_up: if family == Family::GptOss { vocabulary * hidden } else { 0.0 },
        })
    }

    fn architecture(&self) -> Architecture {
        let share = self.experts.map_or(1.0, |it| f64::from(it.chosen) / f64::from(it.count));
        let active = self.shared - self.looked_up + self.in_experts * share;
        Architecture {
            parameters: (self.shared + self.in_experts) as u64,
            active_parameters: active as u64,
            experts: self.experts,
            attention: Some(self.attention),
        }
    }
}

/// Attention whose heads share keys and values, and its parameters in a layer.
fn grouped(
    family: Family,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    hidden: f64,
) -> (Attention, f64) {
    let size = f64::from(head_dim);
    let (queries, keys) = (f64::from(heads) * size, f64::from(kv_heads) * size);
    let biases = match family {
        Family::Qwen2 | Family::Qwen2Moe => queries + 2.0 * keys,
        Family::GptOss => queries + 2.0 * keys + hidden + f64::from(heads), // and a sink for each head
        _ => 0.0,
    };
    let norms = match family {
        Family::Qwen3 | Family::Qwen3Moe | Family::Gemma3 => 2.0 * size,
        _ => 0.0,
    };
    let parameters = 2.0 * hidden * queries + 2.0 * hidden * keys + biases + norms;
    (Attention::grouped(layers, heads, kv_heads, head_dim), parameters)
}

/// Multi-head latent attention, and its parameters in a layer.
fn latent(fields: &Fields, layers: u32, heads: u32, hidden: f64) -> Result<(Attention, f64), Unreadable> {
    let kept = needed(fields.kv_lora_rank, "kv_lora_rank")?;
    let rotary = needed(fields.qk_rope_head_dim, "qk_rope_head_dim")?;
    let plain = needed(fields.qk_nope_head_dim, "qk_nope_head_dim")?;
    let value = needed(fields.v_head_dim, "v_head_dim")?;
    let (key, per_token) = (plain.saturating_add(rotary), kept.saturating_add(rotary));
    let attention = Attention::latent(layers, heads, per_token, key, value);
    let [all, kept, plain, value] = [heads, kept, plain, value].map(f64::from);
    let queries = all * f64::from(key);
    let to_queries = match fields.q_lora_rank.map(f64::from) {
        Some(rank) => hidden * rank + rank + rank * queries, // with a norm between
        None => hidden * queries,
    };
    let to_keys = hidden * f64::from(per_token) + kept + kept * all * (plain + value);
    Ok((attention, to_queries + to_keys + all * value * hidden))
}

/// The feed-forward layers.
struct Feeding {
    experts: Option<Experts>,
    /// What every token meets: dense layers, experts for all, routers.
    dense: f64,
    in_experts: f64,
}

impl Feeding {
    fn of(fields: &Fields, family: Family, layers: f64, hidden: f64) -> Result<Self, Unreadable> {
        let gated = |inner: f64| 3.0 * hidden * inner; // gate, up and down
        let count = fields.num_local_experts.or(fields.num_experts).or(fields.n_routed_experts);
        let is_mixture = matches!(
            family,
            Family::Mixtral | Family::Qwen2Moe | Family::Qwen3Moe | Family::Deepseek | Family::GptOss
        );
        if !is_mixture {
            let inner = number(fields.intermediate_size, "intermediate_size")?;
            return Ok(Self { experts: None, dense: layers * gated(inner), in_experts: 0.0 });
        }
        let count = needed(count, "num_experts")?;
        let chosen = needed(fields.num_experts_per_tok, "num_experts_per_tok")?.min(count);
        let inner = fields.moe_intermediate_size.or(fields.intermediate_size);
        let inner = number(inner, "moe_intermediate_size")?;
        let all = f64::from(count);
        let dense_layers = fields.first_k_dense_replace.map_or(0.0, f64::from).min(layers);
        let dense_inner = fields.intermediate_size.map_or(0.0, f64::from);
        let for_all = fields.n_shared_experts.map_or(0.0, f64::from) * gated(inner)
            + fields.shared_expert_intermediate_size.map_or(0.0, |inner| gated(f64::from(inner)) + hidden);
        let (router_bias, expert_bias) = match family {
            Family::GptOss => (all, 2.0 * inner + hidden),
            Family::Deepseek => (all, 0.0),
            _ => (0.0, 0.0),
        };
        let router = hidden * all + router_bias;
        Ok(Self {
            experts: Some(Experts { count, chosen }),
            dense: dense_layers * gated(dense_inner) + (layers - dense_layers) * (for_all + router),
            in_experts: (layers - dense_layers) * all * (gated(inner) + expert_bias),
        })
    }
}

fn needed(value: Option<u32>, name: &'static str) -> Result<u32, Unreadable> {
    value.filter(|value| *value > 0).ok_or(Unreadable::Missing(name))
}

fn number(value: Option<u32>, name: &'static str) -> Result<f64, Unreadable> {
    needed(value, name).map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::super::known::Known;
    use super::*;

    /// The file is of the known model, down to the last parameter.
    fn check(json: &str, name: &str, dtype: Dtype) {
        let (architecture, told) = read(json.as_bytes()).unwrap();
        assert_eq!(architecture, Known::named(name).unwrap().architecture, "{name}");
        assert_eq!(told, Some(dtype), "{name}");
    }

    #[test]
    fn dense_families() {
        check(
            r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
                "tie_word_embeddings": false, "torch_dtype": "bfloat16", "rope_theta": 500000.0}"#,
            "llama-3-8b",
            Dtype::Bf16,
        );
        check(
            r#"{"model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
                "sliding_window": null, "torch_dtype": "bfloat16"}"#,
            "mistral-7b",
            Dtype::Bf16,
        );
        check(
            r#"{"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "num_hidden_layers": 28,
                "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
                "sliding_window": 131072, "use_sliding_window": false, "torch_dtype": "bfloat16"}"#,
            "qwen2.5-7b",
            Dtype::Bf16,
        );
        check(
            r#"{"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 2560, "num_hidden_layers": 36,
                "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728,
                "tie_word_embeddings": true, "torch_dtype": "bfloat16"}"#,
            "qwen3-4b",
            Dtype::Bf16,
        );
        check(
            r#"{"model_type": "phi3", "vocab_size": 100352, "hidden_size": 5120, "num_hidden_layers": 40,
                "num_attention_heads": 40, "num_key_value_heads": 10, "intermediate_size": 17920,
                "sliding_window": null, "torch_dtype": "bfloat16"}"#,
            "phi-4",
            Dtype::Bf16,
        );
    }

    #[test]
    fn windows() {
        check(
            r#"{"model_type": "gemma2", "vocab_size": 256000, "hidden_size": 3584, "num_hidden_layers": 42,
                "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "intermediate_size": 14336,
                "sliding_window": 4096, "torch_dtype": "bfloat16"}"#,
            "gemma-2-9b",
            Dtype::Bf16,
        );
        check(
            r#"{"model_type": "gemma3", "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152},
                "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34,
                "intermediate_size": 10240, "sliding_window": 1024}}"#,
            "gemma-3-4b",
            Dtype::Bf16,
        );
    }

    #[test]
    fn mixtures() {
        check(
            r#"{"model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
                "num_local_experts": 8, "num_experts_per_tok": 2, "torch_dtype": "bfloat16"}"#,
            "mixtral-8x7b",
            Dtype::Bf16,
        );
        check(
            r#"{"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 48,
                "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144,
                "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
                "torch_dtype": "bfloat16"}"#,
            "qwen3-30b-a3b",
            Dtype::Bf16,
        );
        check(
            r#"{"model_type": "gpt_oss", "vocab_size": 201088, "hidden_size": 2880, "num_hidden_layers": 36,
                "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880,
                "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
                "quantization_config": {"quant_method": "mxfp4"}}"#,
            "gpt-oss-120b",
            Dtype::Mxfp4,
        );
        check(
            r#"{"model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61,
                "num_attention_heads": 128, "num_key_value_heads": 128, "intermediate_size": 18432,
                "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
                "num_experts_per_tok": 8, "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512,
                "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "torch_dtype": "bfloat16",
                "quantization_config": {"quant_method": "fp8"}}"#,
            "deepseek-v3",
            Dtype::Fp8,
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let problem = |json: &str| read(json.as_bytes()).unwrap_err().to_string();
        assert!(problem("{").starts_with("read it as a model's config.json: EOF"));
        assert!(problem("{}").contains("a ``; known are llama, mistral"));
        assert!(problem(r#"{"model_type": "bert"}"#).contains("count the parameters of a `bert`"));
        assert!(
            problem(r#"{"model_type": "llama", "hidden_size": 8}"#)
                .contains("`num_hidden_layers` is missing")
        );
        let zero = r#"{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9, "num_attention_heads": 0}"#;
        assert!(problem(zero).contains("`num_attention_heads` is missing or 0"));
    }
}
