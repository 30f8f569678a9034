//! Hidden states of the frozen tower, computed once an image.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::example::{Item, TrainingSet};
use crate::model::mllm::{Model, Seen};
use crate::model::preprocess::ImageInput;

/// Bytes of features that are kept; what does not fit is computed anew each time it is needed.
const N_BYTES_KEPT_MAX: usize = 4 << 30;

/// Images in one pass of the tower.
const N_IMAGES_PER_PASS: usize = 32;

/// What the tower made of training images.
#[derive(Default)]
pub struct Features {
    kept: HashMap<Item, Seen>,
    n_bytes_kept: usize,
}

impl Features {
    /// The features of `items`, in their order.
    ///
    /// # Errors
    /// An image cannot be read: nothing can be learnt from it, and leaving it out silently would be another training.
    pub fn of(&mut self, items: &[Item], sets: &[TrainingSet], model: &Model) -> Result<Vec<Seen>> {
        let missing: Vec<Item> = items.iter().copied().filter(|item| !self.kept.contains_key(item)).collect();
        let mut fresh = HashMap::new();
        for chunk in missing.chunks(N_IMAGES_PER_PASS) {
            for (item, seen) in chunk.iter().zip(compute(chunk, sets, model)?) {
                let n_bytes = seen.states.iter().map(|s| s.elem_count() * s.dtype().size_in_bytes()).sum::<usize>();
                if self.n_bytes_kept + n_bytes <= N_BYTES_KEPT_MAX {
                    self.n_bytes_kept += n_bytes;
                    self.kept.insert(*item, seen);
                } else {
                    fresh.insert(*item, seen);
                }
            }
        }
        let found = items.iter().map(|item| self.kept.get(item).or_else(|| fresh.get(item)).cloned());
        found.collect::<Option<_>>().context("every image was computed")
    }
}

fn compute(items: &[Item], sets: &[TrainingSet], model: &Model) -> Result<Vec<Seen>> {
    let preprocessor = &model.preprocessor;
    let images = items.par_iter().map(|item| {
        let set = &sets[item.set];
        match set.dataset.read(set.selected[item.index]) {
            Ok(image) => Ok(preprocessor.prepare(&image)),
            Err(error) => bail!("{error}; hint: `emt data verify` names all such images"),
        }
    });
    let images: Vec<ImageInput> = images.collect::<Result<_>>()?;
    let seen = model.mllm.see(&images.iter().collect::<Vec<_>>())?;
    // Copies, since a row of a batch would keep the whole batch in memory.
    let copied = |seen: Seen| -> Result<Seen> {
        let states = seen.states.iter().map(|state| state.detach().copy());
        Ok(Seen { states: states.collect::<candle_core::Result<_>>()?, ..seen })
    };
    seen.into_iter().map(copied).collect()
}
