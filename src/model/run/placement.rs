//! The device that holds tensors, and the compute type.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};

/// A device and a compute type.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The device that holds tensors.
    pub device: Device,
    /// The type in which tensors are computed.
    pub dtype: DType,
    /// Whether the matrices of a language model's layers are rounded to 8 bits when they are read. Only on a CPU.
    pub rounds_to_int8: bool,
}

/// The prefix of the names of a language model's layers.
const ROUNDED: &str = "language_model.layers.";
/// The suffix of a compute type.
const INT8: &str = "+int8";

impl Placement {
    /// `device` is `auto`, `cpu`, `cuda`, `cuda:1` or `metal`. `dtype` is `auto`, `f32`, `bf16` or `f16`, on a CPU also
    /// with the suffix `+int8`.
    ///
    /// The device `auto` is the GPU that the binary was built for, or else the CPU. The type `auto` is bf16 on a GPU
    /// and f32 on a CPU, whatever type the weights are stored in: without matrix instructions for bf16, a CPU is slower
    /// in bf16.
    ///
    /// # Errors
    /// The device or type does not exist, or the device cannot be used.
    pub fn new(device: &str, dtype: &str) -> Result<Self> {
        let device = parse_device(device)?;
        let (computed, rounds_to_int8) = match dtype.strip_suffix(INT8) {
            Some(_) if !device.is_cpu() => {
                bail!("--dtype {dtype} is for a CPU; hint: give --device cpu, or leave `{INT8}` out")
            }
            Some(computed) => (computed, true),
            None => (dtype, false),
        };
        let dtype = match computed {
            "auto" if device.is_cpu() => DType::F32,
            "auto" => DType::BF16,
            "f32" => DType::F32,
            "bf16" => DType::BF16,
            "f16" => DType::F16,
            _ => bail!(
                "unknown --dtype `{dtype}`; hint: auto, f32, bf16 or f16; on a CPU f32+int8 or bf16+int8 halve a 16-bit checkpoint"
            ),
        };
        Ok(Self { device, dtype, rounds_to_int8 })
    }

    /// f32 on the CPU.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32, rounds_to_int8: false }
    }

    /// Returns `f32`, `bf16` or `f16`, with the suffix `+int8` if weights are rounded.
    pub fn compute_type(&self) -> String {
        format!("{}{}", self.dtype.as_str(), if self.rounds_to_int8 { INT8 } else { "" })
    }

    /// Returns whether the tensor of that canonical name and shape is rounded to 8 bits. Towers, projector, embedding,
    /// head, norms and biases are not: they are few, and answers depend on them most.
    pub fn rounds(&self, name: &str, shape: &[usize]) -> bool {
        self.rounds_to_int8 && shape.len() == 2 && name.starts_with(ROUNDED)
    }

    /// Returns `cpu`, `cuda` or `metal`.
    pub fn device_kind(&self) -> &'static str {
        match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        }
    }
}

fn parse_device(text: &str) -> Result<Device> {
    let index = |rest: &str| rest.parse::<usize>().with_context(|| format!("`{rest}` is not a device number"));
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
mod tests;
