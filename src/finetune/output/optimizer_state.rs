//! What a training needs to go on, as files next to an adapter: the optimizer's state, and the network of P-tuning.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use crate::finetune::arms::ENCODER_FILE;
use crate::finetune::optimizer::AdamW;
use crate::finetune::trainable::Trainable;
use crate::model::checkpoint::weights::{read_tensors, safetensors_bytes};
use crate::record::OutputFile;

const OPTIMIZER: &str = "optimizer.safetensors";
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// Returns the optimizer's state as a file next to the adapter.
pub fn optimizer_file(trainable: &Trainable, optimizer: &AdamW) -> Result<OutputFile> {
    let mut tensors = Vec::new();
    for (parameter, (first, second)) in trainable.parameters().iter().zip(optimizer.moments()) {
        for (which, moment) in MOMENTS.iter().zip([first, second]) {
            tensors.push((format!("{which}.{}", parameter.name), moment.clone()));
        }
    }
    Ok((OPTIMIZER.to_owned(), safetensors_bytes(&tensors)?))
}

/// Reads the moments of `trainable`'s tensors from a checkpoint.
pub fn read_optimizer(dir: &Path, trainable: &Trainable, device: &Device) -> Result<Vec<(Tensor, Tensor)>> {
    let path = dir.join(OPTIMIZER);
    let mut found = read_tensors(&path, DType::F32, device)?;
    let mut take = |which: &str, name: &str| {
        let found = found.remove(&format!("{which}.{name}"));
        found.with_context(|| {
            format!(
                "`{}` lacks the {which} of `{name}`; hint: remove the folder to continue from the checkpoint before it",
                path.display()
            )
        })
    };
    let names = trainable.parameters().iter().map(|parameter| parameter.name.as_str());
    names.map(|name| Ok((take(MOMENTS[0], name)?, take(MOMENTS[1], name)?))).collect()
}

/// Reads the network of P-tuning in `dir`, by PEFT's names; it is empty if there is none.
///
/// # Errors
/// The file cannot be read.
pub fn read_encoder(dir: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let path = dir.join(ENCODER_FILE);
    match path.is_file() {
        true => Ok(read_tensors(&path, DType::F32, device)?.into_iter().collect()),
        false => Ok(BTreeMap::new()),
    }
}
