//! Quantised weights: how they are recognised, and what to do instead of reading them.

use std::path::Path;

use anyhow::bail;
use serde_json::Value;

use super::stored::StoredTensor;

/// The advice for a quantised checkpoint.
const MEND: &str = "give the unquantised checkpoint that it was made from, or serve it and evaluate the server \
                    (--model http://HOST/v1 --served-model NAME)";

/// The advice for GGUF.
pub(super) const GGUF: &str = "GGUF is not read; hint: give the checkpoint it was converted from (`config.json` and safetensors), or serve the \
     GGUF file and evaluate the server (--model http://HOST/v1 --served-model NAME)";

/// The last parts of tensor names that only quantised weights have, with the method that writes them.
const LEAVES: &[(&str, &str)] = &[
    ("qweight", "GPTQ or AWQ"),
    ("qzeros", "GPTQ or AWQ"),
    ("absmax", "bitsandbytes, 4 bits"),
    ("quant_map", "bitsandbytes, 4 bits"),
    ("SCB", "bitsandbytes, 8 bits"),
    ("weight_packed", "compressed-tensors"),
    ("weight_scale", "FP8 or compressed-tensors"),
    ("weight_scale_inv", "FP8"),
];

/// Suffixes of the names of quantised checkpoints on the hub, longest first, with their method.
const SUFFIXES: &[(&str, &str)] = &[
    ("-unsloth-bnb-4bit", "bitsandbytes, 4 bits"),
    ("-bnb-4bit", "bitsandbytes, 4 bits"),
    ("-bnb-8bit", "bitsandbytes, 8 bits"),
    ("-gptq-int4", "GPTQ, 4 bits"),
    ("-gptq-int8", "GPTQ, 8 bits"),
    ("-gptq", "GPTQ"),
    ("-awq", "AWQ"),
    ("-fp8-dynamic", "FP8"),
    ("-fp8", "FP8"),
    ("-4bit", "4 bits"),
    ("-8bit", "8 bits"),
    ("-int4", "4 bits"),
    ("-int8", "8 bits"),
    ("-w4a16", "compressed-tensors, 4 bits"),
    ("-w8a8", "compressed-tensors, 8 bits"),
    ("-gguf", "GGUF"),
];

/// A checkpoint whose name shows that it is quantised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QuantisedName<'a> {
    /// The name of the checkpoint that it was made from, derived from its own name.
    pub unquantised: &'a str,
    /// How it was quantised.
    pub method: &'static str,
}

impl<'a> QuantisedName<'a> {
    /// Parses `org/name` or a path. `None` if the name does not show a method.
    pub fn parse(name: &'a str) -> Option<Self> {
        let name = name.trim_end_matches('/');
        SUFFIXES.iter().find_map(|(suffix, method)| {
            let at = name.len().checked_sub(suffix.len()).filter(|&at| at > 0 && name.is_char_boundary(at))?;
            let (unquantised, end) = name.split_at(at);
            end.eq_ignore_ascii_case(suffix).then_some(Self { unquantised, method })
        })
    }
}

/// Returns how weights are quantised according to `config.json`, such as `bitsandbytes, 4 bits`. `None` if they are
/// not.
pub(super) fn method_of(config: &Value) -> Option<String> {
    let nested = ["text_config", "vision_config", "llm_config"].into_iter().filter_map(|key| config.get(key));
    let parts = std::iter::once(config).chain(nested);
    let mut found = parts.flat_map(|part| [part.get("quantization_config"), part.get("compression_config")]).flatten();
    let quantisation = found.find(|found| found.as_object().is_some_and(|fields| !fields.is_empty()))?;
    let is_set = |key: &str| quantisation.get(key).and_then(Value::as_bool).unwrap_or(false);
    let n_bits = match quantisation.get("bits").or_else(|| quantisation.get("w_bit")).and_then(Value::as_u64) {
        None if is_set("load_in_4bit") || is_set("_load_in_4bit") => Some(4),
        None if is_set("load_in_8bit") || is_set("_load_in_8bit") => Some(8),
        n_bits => n_bits,
    };
    let method = quantisation.get("quant_method").and_then(Value::as_str);
    // Early versions of bitsandbytes' integration name no method.
    let method =
        method.unwrap_or(if is_set("load_in_4bit") || is_set("load_in_8bit") { "bitsandbytes" } else { "unnamed" });
    Some(match n_bits {
        Some(n_bits) => format!("{method}, {n_bits} bits"),
        None => method.to_owned(),
    })
}

/// Refuses the checkpoint if its configuration at `path` says that the weights are quantised.
pub(super) fn refuse_config(path: &Path, config: &Value) -> anyhow::Result<()> {
    let Some(method) = method_of(config) else { return Ok(()) };
    bail!(
        "failed to open `{}`: the weights are quantised (`quantization_config`: {method}), which is not read; hint: {MEND}",
        path.display()
    )
}

/// Refuses tensors that are quantised, whatever the configuration says: by their names, or because a weight matrix
/// holds integers or 8-bit floats.
pub(super) fn refuse_tensors(tensors: &[StoredTensor]) -> anyhow::Result<()> {
    let leaf = |tensor: &StoredTensor| tensor.key.rsplit('.').next().unwrap_or_default().to_owned();
    let by_name = |tensor| Some((tensor, LEAVES.iter().find(|(name, _)| *name == leaf(tensor))?.1.to_owned()));
    let is_narrow = |tensor: &&StoredTensor| {
        leaf(tensor) == "weight" && ["U8", "I8", "F8_E4M3", "F8_E5M2"].contains(&tensor.element.name())
    };
    let by_type =
        || tensors.iter().find(is_narrow).map(|tensor| (tensor, format!("stored as {}", tensor.element.name())));
    let found = tensors.iter().find_map(by_name).or_else(by_type);
    let Some((tensor, method)) = found else { return Ok(()) };
    bail!(
        "failed to read `{}`: the weights are quantised (`{}`: {method}), which is not read; hint: {MEND}",
        tensor.file.path().display(),
        tensor.key
    )
}

#[cfg(test)]
mod tests;
