//! Devices that serve models, and their peak rates.
//!
//! Rates are dense. What vendors put first is often twice that, for matrices of which two in four numbers are zero
//! (structured 2:4 sparsity), which weights of language models are not. Memory and bandwidth are decimal, as data
//! sheets give them.

use super::dtype::Dtype;

/// A device's peak figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Device {
    /// What it is called here.
    pub name: &'static str,
    /// What its vendor calls it.
    pub label: &'static str,
    /// What one of them is: a GPU, a chip.
    pub noun: &'static str,
    /// Floating-point operations a second of FP16 or BF16 products, summed in FP32; none: no figure is published.
    pub fp16_flops: Option<f64>,
    /// The same of FP8 products.
    pub fp8_flops: Option<f64>,
    /// Integer operations a second of INT8 products.
    pub int8_ops: Option<f64>,
    /// Bytes of memory; where models differ in it, the largest.
    pub memory_bytes: u64,
    /// Bytes a second between memory and chip.
    pub memory_bandwidth: f64,
    /// Where the figures are from.
    pub source: &'static str,
}

const GIGABYTE: u64 = 1_000_000_000;

/// All that are known, servers' devices first.
pub static DEVICES: &[Device] = &[
    Device {
        fp16_flops: Some(312.0e12),
        int8_ops: Some(624.0e12),
        ..device("a100-40gb", "NVIDIA A100 40GB", 40, 1555.0, "NVIDIA A100 data sheet, 2021")
    },
    Device {
        fp16_flops: Some(312.0e12),
        int8_ops: Some(624.0e12),
        ..device("a100-80gb", "NVIDIA A100 80GB SXM", 80, 2039.0, "NVIDIA A100 data sheet, 2021")
    },
    Device {
        fp16_flops: Some(989.4e12),
        fp8_flops: Some(1978.9e12),
        int8_ops: Some(1978.9e12),
        ..device("h100-sxm", "NVIDIA H100 SXM", 80, 3350.0, "NVIDIA H100 architecture white paper")
    },
    Device {
        fp16_flops: Some(756.0e12),
        fp8_flops: Some(1513.0e12),
        int8_ops: Some(1513.0e12),
        ..device("h100-pcie", "NVIDIA H100 PCIe", 80, 2000.0, "NVIDIA H100 architecture white paper")
    },
    Device {
        fp16_flops: Some(989.4e12),
        fp8_flops: Some(1978.9e12),
        int8_ops: Some(1978.9e12),
        ..device(
            "h200",
            "NVIDIA H200 SXM",
            141,
            4800.0,
            "NVIDIA H200 data sheet, halved: it is with sparsity",
        )
    },
    Device {
        fp16_flops: Some(2250.0e12),
        fp8_flops: Some(4500.0e12),
        int8_ops: Some(4500.0e12),
        ..device(
            "b200",
            "NVIDIA B200",
            192,
            8000.0,
            "NVIDIA Blackwell architecture brief, HGX B200 at 1000 W",
        )
    },
    Device {
        fp16_flops: Some(362.05e12),
        fp8_flops: Some(733.0e12),
        int8_ops: Some(733.0e12),
        ..device("l40s", "NVIDIA L40S", 48, 864.0, "NVIDIA L40S data sheet")
    },
    Device {
        fp16_flops: Some(121.0e12),
        fp8_flops: Some(242.5e12),
        int8_ops: Some(242.5e12),
        ..device("l4", "NVIDIA L4", 24, 300.0, "NVIDIA L4 data sheet, halved: it is with sparsity")
    },
    Device {
        fp16_flops: Some(165.2e12),
        fp8_flops: Some(330.3e12),
        int8_ops: Some(660.6e12),
        ..device("rtx-4090", "NVIDIA RTX 4090", 24, 1008.0, "NVIDIA Ada architecture white paper")
    },
    Device {
        fp16_flops: Some(65.0e12),
        int8_ops: Some(130.0e12),
        ..device("t4", "NVIDIA T4", 16, 320.0, "NVIDIA T4 data sheet; no BF16")
    },
    Device {
        fp16_flops: Some(1307.4e12),
        fp8_flops: Some(2614.9e12),
        int8_ops: Some(2614.9e12),
        ..device("mi300x", "AMD Instinct MI300X", 192, 5300.0, "AMD Instinct MI300X data sheet")
    },
    Device {
        fp16_flops: Some(197.0e12),
        int8_ops: Some(393.0e12),
        noun: "chip",
        ..device("tpu-v5e", "Google TPU v5e", 16, 819.0, "cloud.google.com/tpu/docs/v5e")
    },
    Device {
        int8_ops: Some(137.5e12),
        noun: "module",
        ..device(
            "jetson-agx-orin",
            "NVIDIA Jetson AGX Orin",
            64,
            204.8,
            "NVIDIA Jetson AGX Orin technical brief, halved: its 275 TOPS are with sparsity",
        )
    },
    Device {
        int8_ops: Some(38.0e12),
        noun: "chip",
        ..device(
            "apple-m4",
            "Apple M4",
            32,
            120.0,
            "Apple newsroom, May and October 2024; TOPS of the Neural Engine",
        )
    },
    Device {
        int8_ops: Some(45.0e12),
        noun: "chip",
        ..device(
            "snapdragon-x-elite",
            "Snapdragon X Elite",
            64,
            135.0,
            "Qualcomm Snapdragon X Elite product brief; TOPS of the NPU",
        )
    },
];

const fn device(
    name: &'static str,
    label: &'static str,
    gigabytes: u64,
    gigabytes_a_second: f64,
    source: &'static str,
) -> Device {
    Device {
        name,
        label,
        noun: "GPU",
        fp16_flops: None,
        fp8_flops: None,
        int8_ops: None,
        memory_bytes: gigabytes * GIGABYTE,
        memory_bandwidth: gigabytes_a_second * 1e9,
        source,
    }
}

impl Device {
    /// The device of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase().replace(['_', ' '], "-");
        DEVICES.iter().find(|device| device.name == name)
    }

    /// All names, for an error's text.
    pub fn names() -> String {
        DEVICES.iter().map(|device| device.name).collect::<Vec<_>>().join(", ")
    }

    /// Operations a second that weights of this kind are multiplied at. Weights of 4 bits, and of 8 where the device
    /// has no such products, are widened first; a chip that has INT8 alone multiplies all of 8 bits or fewer so.
    pub fn peak(&self, dtype: Dtype) -> Option<f64> {
        match dtype {
            Dtype::Fp32 => None, // neither on tensor cores nor as TF32 is it the same product
            Dtype::Fp16 | Dtype::Bf16 => self.fp16_flops,
            Dtype::Fp8 => self.fp8_flops.or(self.fp16_flops),
            Dtype::Int8 => self.int8_ops.or(self.fp16_flops),
            Dtype::Int4 | Dtype::Mxfp4 => self.fp16_flops.or(self.int8_ops),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_that_of_the_products() {
        let peak = |device, dtype| Device::named(device).unwrap().peak(dtype).map(|peak| peak / 1e12);
        assert_eq!(peak("a100-40gb", Dtype::Fp16), Some(312.0));
        assert_eq!(peak("a100-40gb", Dtype::Int8), Some(624.0));
        assert_eq!(peak("a100-40gb", Dtype::Fp8), Some(312.0)); // Ampere has no FP8
        assert_eq!(peak("H100_SXM", Dtype::Fp8), Some(1978.9));
        assert_eq!(peak("apple-m4", Dtype::Int4), Some(38.0));
        assert_eq!(peak("apple-m4", Dtype::Fp16), None);
        assert_eq!(peak("a100-40gb", Dtype::Fp32), None);
    }

    #[test]
    fn the_table_is_dense() {
        // Integer products are as fast as those of half their width twice over, never four times: that would be a
        // sparse figure. GeForce cards sum FP16 products in FP32 at half the rate.
        for device in DEVICES.iter().filter(|device| device.name != "rtx-4090") {
            if let (Some(fp16), Some(int8)) = (device.fp16_flops, device.int8_ops) {
                assert!((1.9..2.1).contains(&(int8 / fp16)), "{}", device.name);
            }
            assert!(device.fp16_flops.or(device.int8_ops).is_some() && !device.source.is_empty());
        }
    }

    #[test]
    fn the_docs_have_every_device() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sizing.md");
        let docs = std::fs::read_to_string(path).unwrap();
        for device in DEVICES {
            let tera =
                |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| (rate / 1e12).to_string());
            let row = format!(
                "| `{}` | {} | {} | {} | {} | {} | {} | {} |",
                device.name,
                device.label,
                tera(device.fp16_flops),
                tera(device.fp8_flops),
                tera(device.int8_ops),
                device.memory_bytes / GIGABYTE,
                device.memory_bandwidth / 1e9,
                device.source,
            );
            assert!(docs.contains(&row), "docs/sizing.md lacks: {row}");
        }
    }
}
