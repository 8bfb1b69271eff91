//! In how many bits a number is kept.

/// What weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 binary32.
    Fp32,
    /// IEEE 754 binary16.
    Fp16,
    /// The upper half of a binary32.
    Bf16,
    /// 8 bits, E4M3 or E5M2 (Micikevicius et al., arXiv 2209.05433).
    Fp8,
    /// Integers of 8 bits.
    Int8,
    /// Integers of 4 bits; the scales of their groups (GPTQ, AWQ: 3 % more) are not counted.
    Int4,
    /// Floats of 4 bits, 32 of which share a scale of 8 bits (OCP Microscaling Formats 1.0).
    Mxfp4,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Fp32, Self::Fp16, Self::Bf16, Self::Fp8, Self::Int8, Self::Int4, Self::Mxfp4];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name))
    }

    /// All names, for an error's text.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Bytes of so many numbers.
    pub const fn bytes(self, numbers: u64) -> u64 {
        let quarter_bits = match self {
            Self::Fp32 => 4 * 32,
            Self::Fp16 | Self::Bf16 => 4 * 16,
            Self::Fp8 | Self::Int8 => 4 * 8,
            Self::Int4 => 4 * 4,
            Self::Mxfp4 => 4 * 4 + 1, // 4 bits, and 8 for every 32
        };
        let bytes = (numbers as u128 * quarter_bits).div_ceil(4 * 8);
        if bytes > u64::MAX as u128 { u64::MAX } else { bytes as u64 }
    }

    /// What the KV cache is kept in: weights of fewer bits leave it at 16, as engines do unless told otherwise
    /// (vLLM's `--kv-cache-dtype auto`).
    pub const fn of_kv_cache(self) -> Self {
        match self {
            Self::Fp32 => Self::Fp32,
            _ => Self::Fp16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_billion_parameters_are_two_gigabytes_in_fp16_and_double_in_fp32() {
        for (dtype, bytes) in [
            (Dtype::Fp16, 2_000_000_000),
            (Dtype::Bf16, 2_000_000_000),
            (Dtype::Fp32, 4_000_000_000),
            (Dtype::Fp8, 1_000_000_000),
            (Dtype::Int8, 1_000_000_000),
            (Dtype::Int4, 500_000_000),
            (Dtype::Mxfp4, 531_250_000),
        ] {
            assert_eq!(dtype.bytes(1_000_000_000), bytes, "{dtype:?}");
            assert_eq!(Dtype::named(dtype.name()), Some(dtype));
        }
        assert_eq!(Dtype::Int4.bytes(3), 2);
        assert_eq!(Dtype::Fp32.bytes(u64::MAX), u64::MAX);
    }
}
