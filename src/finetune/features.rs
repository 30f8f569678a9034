//! Hidden states of the frozen tower, computed once an image.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::example::{Item, TrainingSet};
use crate::model::mllm::Model;

/// Bytes of features that are kept; what does not fit is computed anew each time it is needed.
const N_BYTES_KEPT_MAX: usize = 4 << 30;

/// Images in one pass of the tower.
const N_IMAGES_PER_PASS: usize = 32;

/// The tower's hidden states `(tokens, width)` of training images.
#[derive(Default)]
pub struct Features {
    kept: HashMap<Item, Tensor>,
    n_bytes_kept: usize,
}

impl Features {
    /// The features of `items`, in their order.
    ///
    /// # Errors
    /// An image cannot be read: nothing can be learnt from it, and leaving it out silently would be another training.
    pub fn of(&mut self, items: &[Item], sets: &[TrainingSet], model: &Model, device: &Device) -> Result<Vec<Tensor>> {
        let missing: Vec<Item> = items.iter().copied().filter(|item| !self.kept.contains_key(item)).collect();
        let mut fresh = HashMap::new();
        for chunk in missing.chunks(N_IMAGES_PER_PASS) {
            for (item, states) in chunk.iter().zip(compute(chunk, sets, model, device)?) {
                let n_bytes = states.elem_count() * DType::F32.size_in_bytes();
                if self.n_bytes_kept + n_bytes <= N_BYTES_KEPT_MAX {
                    self.n_bytes_kept += n_bytes;
                    self.kept.insert(*item, states);
                } else {
                    fresh.insert(*item, states);
                }
            }
        }
        let found = items.iter().map(|item| self.kept.get(item).or_else(|| fresh.get(item)).cloned());
        found.collect::<Option<_>>().context("every image was computed")
    }
}

fn compute(items: &[Item], sets: &[TrainingSet], model: &Model, device: &Device) -> Result<Vec<Tensor>> {
    let preprocessor = &model.preprocessor;
    let pixels = items.par_iter().map(|item| {
        let set = &sets[item.set];
        match set.dataset.read(set.selected[item.index]) {
            Ok(image) => Ok(preprocessor.pixels(&image)),
            Err(error) => bail!("{error}; hint: `emt data verify` names all such images"),
        }
    });
    let pixels: Vec<Vec<f32>> = pixels.collect::<Result<_>>()?;
    let tower = model.mllm.tower();
    let side = tower.config().image_size();
    let pixels = Tensor::from_vec(pixels.concat(), (items.len(), 3, side, side), device)?;
    let states = tower.hidden_states(&pixels, &[model.mllm.tower_state()])?.swap_remove(0);
    // Copies, since a row of a batch would keep the whole batch in memory.
    let rows = (0..items.len()).map(|row| states.get(row)?.detach().copy());
    Ok(rows.collect::<candle_core::Result<_>>()?)
}
