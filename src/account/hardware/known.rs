//! Models that are known by name.
//!
//! Layers, heads and windows are those of each repository's `config.json` on huggingface.co; parameters follow from
//! the same fields and are what the published weights hold, tied embeddings counted once (both are checked for one model
//! of each family in `config_json`). Gemma 3 from 4B is counted without its vision tower of 0.4 billion.

use super::architecture::{Architecture, Attention, Experts};
use super::dtype::Dtype;

/// A model that is known by name.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// Where its figures are from.
    pub source: &'static str,
    /// What it is made of.
    pub architecture: Architecture,
    /// What its weights are published in.
    pub dtype: Dtype,
}

/// All of them; of two of a size the one to stand for that size comes first.
pub static KNOWN: &[Known] = &[
    Known::new(
        "llama-2-7b",
        "huggingface.co/meta-llama/Llama-2-7b-hf",
        Architecture::dense(6_738_415_616, Some(Attention::grouped(32, 32, 32, 128))),
    ),
    Known::new(
        "llama-2-13b",
        "huggingface.co/meta-llama/Llama-2-13b-hf",
        Architecture::dense(13_015_864_320, Some(Attention::grouped(40, 40, 40, 128))),
    ),
    Known::new(
        "llama-2-70b",
        "huggingface.co/meta-llama/Llama-2-70b-hf",
        Architecture::dense(68_976_648_192, Some(Attention::grouped(80, 64, 8, 128))),
    ),
    Known::new(
        "llama-3-8b",
        "huggingface.co/meta-llama/Meta-Llama-3-8B",
        Architecture::dense(8_030_261_248, Some(Attention::grouped(32, 32, 8, 128))),
    ),
    Known::new(
        "llama-3-70b",
        "huggingface.co/meta-llama/Meta-Llama-3-70B",
        Architecture::dense(70_553_706_496, Some(Attention::grouped(80, 64, 8, 128))),
    ),
    Known::new(
        "llama-3.1-8b",
        "huggingface.co/meta-llama/Llama-3.1-8B",
        Architecture::dense(8_030_261_248, Some(Attention::grouped(32, 32, 8, 128))),
    ),
    Known::new(
        "llama-3.1-70b",
        "huggingface.co/meta-llama/Llama-3.1-70B",
        Architecture::dense(70_553_706_496, Some(Attention::grouped(80, 64, 8, 128))),
    ),
    Known::new(
        "llama-3.1-405b",
        "huggingface.co/meta-llama/Llama-3.1-405B",
        Architecture::dense(405_853_388_800, Some(Attention::grouped(126, 128, 8, 128))),
    ),
    Known::new(
        "llama-3.2-1b",
        "huggingface.co/meta-llama/Llama-3.2-1B",
        Architecture::dense(1_235_814_400, Some(Attention::grouped(16, 32, 8, 64))),
    ),
    Known::new(
        "llama-3.2-3b",
        "huggingface.co/meta-llama/Llama-3.2-3B",
        Architecture::dense(3_212_749_824, Some(Attention::grouped(28, 24, 8, 128))),
    ),
    Known::new(
        "llama-3.3-70b",
        "huggingface.co/meta-llama/Llama-3.3-70B-Instruct",
        Architecture::dense(70_553_706_496, Some(Attention::grouped(80, 64, 8, 128))),
    ),
    Known::new(
        "mistral-7b",
        "huggingface.co/mistralai/Mistral-7B-v0.3",
        Architecture::dense(7_248_023_552, Some(Attention::grouped(32, 32, 8, 128))),
    ),
    Known::new(
        "mixtral-8x7b",
        "huggingface.co/mistralai/Mixtral-8x7B-v0.1",
        mixture(46_702_792_704, 12_879_925_248, 8, 2, Attention::grouped(32, 32, 8, 128)),
    ),
    Known::new(
        "mixtral-8x22b",
        "huggingface.co/mistralai/Mixtral-8x22B-v0.1",
        mixture(140_620_634_112, 39_152_031_744, 8, 2, Attention::grouped(56, 48, 8, 128)),
    ),
    Known::new(
        "qwen2.5-0.5b",
        "huggingface.co/Qwen/Qwen2.5-0.5B",
        Architecture::dense(494_032_768, Some(Attention::grouped(24, 14, 2, 64))),
    ),
    Known::new(
        "qwen2.5-1.5b",
        "huggingface.co/Qwen/Qwen2.5-1.5B",
        Architecture::dense(1_543_714_304, Some(Attention::grouped(28, 12, 2, 128))),
    ),
    Known::new(
        "qwen2.5-3b",
        "huggingface.co/Qwen/Qwen2.5-3B",
        Architecture::dense(3_085_938_688, Some(Attention::grouped(36, 16, 2, 128))),
    ),
    Known::new(
        "qwen2.5-7b",
        "huggingface.co/Qwen/Qwen2.5-7B",
        Architecture::dense(7_615_616_512, Some(Attention::grouped(28, 28, 4, 128))),
    ),
    Known::new(
        "qwen2.5-14b",
        "huggingface.co/Qwen/Qwen2.5-14B",
        Architecture::dense(14_770_033_664, Some(Attention::grouped(48, 40, 8, 128))),
    ),
    Known::new(
        "qwen2.5-32b",
        "huggingface.co/Qwen/Qwen2.5-32B",
        Architecture::dense(32_763_876_352, Some(Attention::grouped(64, 40, 8, 128))),
    ),
    Known::new(
        "qwen2.5-72b",
        "huggingface.co/Qwen/Qwen2.5-72B",
        Architecture::dense(72_706_203_648, Some(Attention::grouped(80, 64, 8, 128))),
    ),
    Known::new(
        "qwen3-0.6b",
        "huggingface.co/Qwen/Qwen3-0.6B",
        Architecture::dense(596_049_920, Some(Attention::grouped(28, 16, 8, 128))),
    ),
    Known::new(
        "qwen3-1.7b",
        "huggingface.co/Qwen/Qwen3-1.7B",
        Architecture::dense(1_720_574_976, Some(Attention::grouped(28, 16, 8, 128))),
    ),
    Known::new(
        "qwen3-4b",
        "huggingface.co/Qwen/Qwen3-4B",
        Architecture::dense(4_022_468_096, Some(Attention::grouped(36, 32, 8, 128))),
    ),
    Known::new(
        "qwen3-8b",
        "huggingface.co/Qwen/Qwen3-8B",
        Architecture::dense(8_190_735_360, Some(Attention::grouped(36, 32, 8, 128))),
    ),
    Known::new(
        "qwen3-14b",
        "huggingface.co/Qwen/Qwen3-14B",
        Architecture::dense(14_768_307_200, Some(Attention::grouped(40, 40, 8, 128))),
    ),
    Known::new(
        "qwen3-32b",
        "huggingface.co/Qwen/Qwen3-32B",
        Architecture::dense(32_762_123_264, Some(Attention::grouped(64, 64, 8, 128))),
    ),
    Known::new(
        "qwen3-30b-a3b",
        "huggingface.co/Qwen/Qwen3-30B-A3B",
        mixture(30_532_122_624, 3_353_032_704, 128, 8, Attention::grouped(48, 32, 4, 128)),
    ),
    Known::new(
        "qwen3-235b-a22b",
        "huggingface.co/Qwen/Qwen3-235B-A22B",
        mixture(235_093_634_560, 22_190_763_520, 128, 8, Attention::grouped(94, 64, 4, 128)),
    ),
    Known::new(
        "gemma-2-2b",
        "huggingface.co/google/gemma-2-2b",
        Architecture::dense(2_614_341_888, Some(Attention::grouped(26, 8, 4, 256).sliding(13, 4096))),
    ),
    Known::new(
        "gemma-2-9b",
        "huggingface.co/google/gemma-2-9b",
        Architecture::dense(9_241_705_984, Some(Attention::grouped(42, 16, 8, 256).sliding(21, 4096))),
    ),
    Known::new(
        "gemma-2-27b",
        "huggingface.co/google/gemma-2-27b",
        Architecture::dense(27_227_128_320, Some(Attention::grouped(46, 32, 16, 128).sliding(23, 4096))),
    ),
    Known::new(
        "gemma-3-270m",
        "huggingface.co/google/gemma-3-270m",
        Architecture::dense(268_098_176, Some(Attention::grouped(18, 4, 1, 256).sliding(15, 512))),
    ),
    Known::new(
        "gemma-3-1b",
        "huggingface.co/google/gemma-3-1b-pt",
        Architecture::dense(999_885_952, Some(Attention::grouped(26, 4, 1, 256).sliding(22, 512))),
    ),
    Known::new(
        "gemma-3-4b",
        "huggingface.co/google/gemma-3-4b-pt",
        Architecture::dense(3_880_263_168, Some(Attention::grouped(34, 8, 4, 256).sliding(29, 1024))),
    ),
    Known::new(
        "gemma-3-12b",
        "huggingface.co/google/gemma-3-12b-pt",
        Architecture::dense(11_766_034_176, Some(Attention::grouped(48, 16, 8, 256).sliding(40, 1024))),
    ),
    Known::new(
        "gemma-3-27b",
        "huggingface.co/google/gemma-3-27b-pt",
        Architecture::dense(27_009_346_304, Some(Attention::grouped(62, 32, 16, 128).sliding(52, 1024))),
    ),
    Known::new(
        "phi-3-mini",
        "huggingface.co/microsoft/Phi-3-mini-128k-instruct",
        Architecture::dense(3_821_079_552, Some(Attention::grouped(32, 32, 32, 96))),
    ),
    Known::new(
        "phi-3-medium",
        "huggingface.co/microsoft/Phi-3-medium-128k-instruct",
        Architecture::dense(13_960_238_080, Some(Attention::grouped(40, 40, 10, 128))),
    ),
    Known::new(
        "phi-4",
        "huggingface.co/microsoft/phi-4",
        Architecture::dense(14_659_507_200, Some(Attention::grouped(40, 40, 10, 128))),
    ),
    Known::new(
        "phi-4-mini",
        "huggingface.co/microsoft/Phi-4-mini-instruct",
        Architecture::dense(3_836_021_760, Some(Attention::grouped(32, 24, 8, 128))),
    ),
    Known::new(
        "deepseek-v3",
        "huggingface.co/deepseek-ai/DeepSeek-V3",
        mixture(671_026_419_200, 37_552_297_472, 256, 8, Attention::latent(61, 128, 512 + 64, 128 + 64, 128)),
    )
    .published_in(Dtype::Fp8),
    Known::new(
        "deepseek-r1",
        "huggingface.co/deepseek-ai/DeepSeek-R1",
        mixture(671_026_419_200, 37_552_297_472, 256, 8, Attention::latent(61, 128, 512 + 64, 128 + 64, 128)),
    )
    .published_in(Dtype::Fp8),
    Known::new(
        "gpt-oss-20b",
        "huggingface.co/openai/gpt-oss-20b",
        mixture(20_914_757_184, 3_608_307_264, 32, 4, Attention::grouped(24, 64, 8, 64).sliding(12, 128)),
    )
    .published_in(Dtype::Mxfp4),
    Known::new(
        "gpt-oss-120b",
        "huggingface.co/openai/gpt-oss-120b",
        mixture(116_829_156_672, 5_132_849_472, 128, 4, Attention::grouped(36, 64, 8, 64).sliding(18, 128)),
    )
    .published_in(Dtype::Mxfp4),
    Known::new(
        "gpt-3",
        "arxiv.org/abs/2005.14165 (tables 2.1 and D.1)",
        Architecture::dense(174_600_000_000, Some(Attention::grouped(96, 96, 96, 128))),
    )
    .published_in(Dtype::Fp16),
];

/// The dense model whose size is nearest, by the factor between them.
pub fn nearest(parameters: u64) -> Option<&'static Known> {
    let distance = |known: &Known| (known.architecture.parameters as f64 / parameters as f64).ln().abs();
    let dense = KNOWN.iter().filter(|known| known.architecture.experts.is_none());
    dense.min_by(|one, other| distance(one).total_cmp(&distance(other)))
}

impl Known {
    const fn new(name: &'static str, source: &'static str, architecture: Architecture) -> Self {
        Self { name, source, architecture, dtype: Dtype::Bf16 }
    }

    const fn published_in(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// The model of this name, written as its makers, a server or a person may: `meta-llama/Llama-3.1-8B-Instruct`,
    /// `llama-3.1-8b`, `qwen2.5:7b`. What follows the size tells variants of the same architecture; a model distilled
    /// into another one is not the one that its name begins with.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase().replace([':', '_', ' '], "-");
        let name = name.strip_prefix("meta-").unwrap_or(&name);
        let is_variant = |known: &&Self| {
            name.strip_prefix(known.name)
                .is_some_and(|rest| rest.is_empty() || (rest.starts_with('-') && !rest.contains("distill")))
        };
        KNOWN.iter().filter(is_variant).max_by_key(|known| known.name.len())
    }

    /// All names, for an error's text.
    pub fn names() -> String {
        KNOWN.iter().map(|known| known.name).collect::<Vec<_>>().join(", ")
    }
}

const fn mixture(
    parameters: u64,
    active: u64,
    count: u32,
    chosen: u32,
    attention: Attention,
) -> Architecture {
    Architecture {
        parameters,
        active_parameters: active,
        experts: Some(Experts { count, chosen }),
        attention: Some(attention),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_they_are_written() {
        for (name, want) in [
            ("meta-llama/Meta-Llama-3-8B-Instruct", Some("llama-3-8b")),
            ("meta-llama/Llama-3.1-8B", Some("llama-3.1-8b")),
            ("llama-3.3-70b-instruct-awq", Some("llama-3.3-70b")),
            ("qwen2.5:7b", Some("qwen2.5-7b")),
            ("Qwen/Qwen3-30B-A3B-Instruct-2507", Some("qwen3-30b-a3b")),
            ("microsoft/phi-4", Some("phi-4")),
            ("microsoft/Phi-4-mini-instruct", Some("phi-4-mini")),
            ("deepseek-ai/DeepSeek-R1", Some("deepseek-r1")),
            ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", None),
            ("deepseek-v3.1", None),
            ("llama-3.1-8bit", None),
            ("gpt-4o", None),
        ] {
            assert_eq!(Known::named(name).map(|known| known.name), want, "{name}");
        }
    }

    #[test]
    fn sizes_are_stood_for_by_a_model_near_them() {
        for (parameters, want) in [
            (8_000_000_000, "llama-3-8b"),
            (70_000_000_000, "llama-3-70b"),
            (7_000_000_000, "mistral-7b"),
            (1_000_000_000, "gemma-3-1b"),
            (1_000_000_000_000, "llama-3.1-405b"),
        ] {
            assert_eq!(nearest(parameters).unwrap().name, want);
        }
    }

    #[test]
    fn the_table_holds_together() {
        for known in KNOWN {
            assert_eq!(Known::named(known.name).unwrap().name, known.name);
            let Architecture { parameters, active_parameters, experts, attention } = known.architecture;
            assert_eq!(active_parameters < parameters, experts.is_some(), "{}", known.name);
            let attention = attention.unwrap();
            assert!(attention.window.is_none_or(|window| window.layers < attention.layers), "{}", known.name);
            assert!(known.source.contains('/'), "{}", known.name);
        }
    }
}
