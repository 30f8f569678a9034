//! A whole checkpoint, in the base's layout.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

use super::{Output, json_bytes, second_projector};
use crate::finetune::arms::Left;
use crate::model::checkpoint::weights::{COMPANIONS, NamedTensor, SOFT_PROMPT, Weights, safetensors_bytes};
use crate::model::layers::CALIBRATION;
use crate::record::OutputFile;

impl Output {
    /// The base with what was trained, and virtual tokens in a folder beside it.
    pub(super) fn checkpoint(&self, left: &Left, base: &Weights) -> Result<Vec<OutputFile>> {
        let trained: BTreeMap<&str, &Tensor> =
            left.whole.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut tensors = Vec::new();
        for name in base.names() {
            let stored = base.stored_name(name).context("a listed tensor has a name")?.to_owned();
            let is_calibrated = left.calibration.iter().any(|(calibrated, _)| calibrated == name);
            let tensor = match trained.get(name) {
                _ if is_calibrated => continue,
                Some(&tensor) => tensor.clone(),
                None => {
                    let shape = base.shape(name).context("a listed tensor has a shape")?;
                    Tensor::from_vec(base.values(name)?, shape, &Device::Cpu)?
                }
            };
            tensors.push((stored, tensor));
        }
        tensors.extend(calibration_in(left, base)?);
        tensors.extend(second_projector(left)?);
        let mut config = self.base.config().clone();
        let key = if config.get("torch_dtype").is_some() { "torch_dtype" } else { "dtype" };
        config[key] = "float32".into();
        let mut files = vec![
            ("config.json".to_owned(), json_bytes(&config)?),
            ("model.safetensors".to_owned(), safetensors_bytes(&tensors)?),
        ];
        for name in COMPANIONS {
            files.extend(self.base.read_file(name)?.map(|bytes| (name.to_owned(), bytes)));
        }
        if let Some(tokens) = &left.virtual_tokens {
            let beside = self.virtual_tokens_alone(tokens)?;
            files.extend(beside.into_iter().map(|(name, bytes)| (format!("{SOFT_PROMPT}/{name}"), bytes)));
        }
        Ok(files)
    }
}

/// The calibration below the stems that the checkpoint's own layers have.
fn calibration_in(left: &Left, base: &Weights) -> Result<Vec<NamedTensor>> {
    let mut named = Vec::new();
    for (name, tensor) in &left.calibration {
        let leaf = CALIBRATION.iter().find(|leaf| name.ends_with(*leaf)).context("a calibration has two tensors")?;
        let layer = name.trim_end_matches(leaf);
        let neighbour = base.names().find(|other| other.starts_with(layer)).context("a layer has tensors")?;
        let stored = base.stored_name(neighbour).context("a listed tensor has a name")?;
        let end = neighbour.trim_start_matches(layer);
        let stem = stored.strip_suffix(end).with_context(|| format!("`{stored}` does not end with `{end}`"))?;
        named.push((format!("{stem}{leaf}"), tensor.clone()));
    }
    Ok(named)
}
