//! Where tensors live, and in which type they are computed.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};

/// A device and a compute type.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Where tensors live.
    pub device: Device,
    /// In which type they are computed.
    pub dtype: DType,
}

impl Placement {
    /// `device` is `auto`, `cpu`, `cuda`, `cuda:1` or `metal`; `dtype` is `auto`, `f32`, `bf16` or `f16`.
    ///
    /// `auto` is the GPU that the binary was built for, else the CPU; and f32 on a CPU, since without matrix
    /// instructions for bf16 a CPU is slower in it, whatever type the weights are stored in; bf16 on a GPU.
    pub fn new(device: &str, dtype: &str) -> Result<Self> {
        let device = parse_device(device)?;
        let dtype = match dtype {
            "auto" if device.is_cpu() => DType::F32,
            "auto" => DType::BF16,
            "f32" => DType::F32,
            "bf16" => DType::BF16,
            "f16" => DType::F16,
            other => bail!("unknown --dtype `{other}`; hint: auto, f32, bf16 or f16"),
        };
        Ok(Self { device, dtype })
    }

    /// f32 on the CPU.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32 }
    }

    /// `f32`, `bf16` or `f16`.
    pub fn compute_type(&self) -> &'static str {
        self.dtype.as_str()
    }

    /// `cpu`, `cuda` or `metal`.
    pub fn device_kind(&self) -> &'static str {
        match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        }
    }
}

fn parse_device(text: &str) -> Result<Device> {
    let index = |rest: &str| rest.parse::<usize>().with_context(|| format!("`{rest}` is no device number"));
    match text.split_once(':') {
        None if text == "auto" => auto_device(),
        None if text == "cpu" => Ok(Device::Cpu),
        None if text == "cuda" => Device::new_cuda(0).context(NO_CUDA),
        Some(("cuda", rest)) => Device::new_cuda(index(rest)?).context(NO_CUDA),
        None if text == "metal" => Device::new_metal(0).context(NO_METAL),
        _ => bail!("unknown --device `{text}`; hint: auto, cpu, cuda, cuda:1 or metal"),
    }
}

fn auto_device() -> Result<Device> {
    if cfg!(feature = "cuda") {
        return Device::new_cuda(0).context(NO_CUDA);
    }
    if cfg!(feature = "metal") {
        return Device::new_metal(0).context(NO_METAL);
    }
    Ok(Device::Cpu)
}

const NO_CUDA: &str =
    "no CUDA device can be used; hint: build with `--features cuda` on a machine with a GPU, or give --device cpu";
const NO_METAL: &str =
    "no Metal device can be used; hint: build with `--features metal` on a Mac, or give --device cpu";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_or_type_is_named_with_the_choices() {
        assert!(Placement::new("gpu", "auto").unwrap_err().to_string().contains("cuda:1"));
        assert!(Placement::new("cpu", "int8").unwrap_err().to_string().contains("bf16"));
    }

    #[test]
    fn a_cpu_computes_in_f32_by_default() {
        assert_eq!(Placement::new("cpu", "auto").unwrap().compute_type(), "f32");
    }
}
