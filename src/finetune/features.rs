//! Hidden states of the frozen tower, computed once per image.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::example::{Item, TrainingSet};
use crate::domain::RgbImage;
use crate::model::Placement;
use crate::model::families::{Model, Seen};
use crate::model::vision::preprocess::ImageInput;
use crate::record::{FeatureCache, FeatureKey};

/// The most bytes of features to keep. Features beyond it are recomputed when needed.
const N_BYTES_KEPT_MAX: usize = 4 << 30;

/// Images in one pass of the tower.
const N_IMAGES_PER_PASS: usize = 32;

/// The tower's outputs for training images.
pub struct Features {
    kept: HashMap<Item, Seen>,
    n_bytes_kept: usize,
    /// The cache on disk, shared with other trainings, and what determines its numbers.
    cache: Option<(Arc<FeatureCache>, String)>,
    placement: Placement,
}

impl Features {
    /// Starts empty. Features in `cache` from the same computation are not recomputed, and new ones are stored there.
    pub fn new(cache: Option<(Arc<FeatureCache>, String)>, placement: &Placement) -> Self {
        Self { kept: HashMap::new(), n_bytes_kept: 0, cache, placement: placement.clone() }
    }

    /// Returns the features of the images of `items`, in order: none of a text.
    ///
    /// # Errors
    /// An image cannot be read. Silently leaving it out would change the training.
    pub fn of(&mut self, items: &[Item], sets: &[TrainingSet], model: &Model) -> Result<Vec<Vec<Seen>>> {
        let has_image = |item: &Item| sets[item.set].images().is_some();
        let is_missing = |item: &Item| has_image(item) && !self.kept.contains_key(item);
        let missing: Vec<Item> = items.iter().copied().filter(is_missing).collect();
        let mut fresh = HashMap::new();
        for chunk in missing.chunks(N_IMAGES_PER_PASS) {
            for (item, seen) in chunk.iter().zip(self.find_or_compute(chunk, sets, model)?) {
                let n_bytes = seen.states.iter().map(|s| s.elem_count() * s.dtype().size_in_bytes()).sum::<usize>();
                if self.n_bytes_kept + n_bytes <= N_BYTES_KEPT_MAX {
                    self.n_bytes_kept += n_bytes;
                    self.kept.insert(*item, seen);
                } else {
                    fresh.insert(*item, seen);
                }
            }
        }
        let found = |item: &Item| match has_image(item) {
            true => self.kept.get(item).or_else(|| fresh.get(item)).map(|seen| vec![seen.clone()]),
            false => Some(Vec::new()),
        };
        items.iter().map(found).collect::<Option<_>>().context("every image was computed")
    }

    fn find_or_compute(&self, items: &[Item], sets: &[TrainingSet], model: &Model) -> Result<Vec<Seen>> {
        let keyed = |image: &RgbImage| {
            let (cache, computed_by) = self.cache.as_ref()?;
            Some((cache, FeatureKey::new(computed_by, &image.content())))
        };
        let preprocessor = &model.preprocessor;
        let find = |item: &Item| {
            let image = read(item, sets)?;
            let keyed = keyed(&image);
            let found = keyed.as_ref().and_then(|(cache, key)| {
                let seen = Seen::from_bytes(&cache.get(key)?, &self.placement);
                // No version of ours wrote a complete entry with invalid content.
                seen.inspect_err(|_| cache.disown(key)).ok()
            });
            let input = if found.is_none() { Some(preprocessor.prepare(&image)) } else { None };
            Ok((found, input, keyed))
        };
        let looked_up = items.par_iter().map(find).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<&ImageInput> = looked_up.iter().filter_map(|(_, input, _)| input.as_ref()).collect();
        let mut computed = if inputs.is_empty() { Vec::new() } else { model.mllm.see(&inputs)? }.into_iter();
        let mut all = Vec::with_capacity(items.len());
        for (found, _, keyed) in &looked_up {
            all.push(match found {
                Some(seen) => seen.clone(),
                None => {
                    let seen = copied(computed.next().context("every image was seen")?)?;
                    if let Some((cache, key)) = keyed {
                        cache.put(key, &seen.to_bytes()?);
                    }
                    seen
                }
            });
        }
        Ok(all)
    }
}

fn read(item: &Item, sets: &[TrainingSet]) -> Result<RgbImage> {
    let set = sets[item.set].images().context("a text has no image")?;
    match set.dataset.read(set.selected[item.index]) {
        Ok(image) => Ok(image),
        Err(error) => bail!("{error}; hint: `emt data verify` names all such images"),
    }
}

/// Copies, because a row of a batch would keep the whole batch in memory.
fn copied(seen: Seen) -> Result<Seen> {
    let states = seen.states.iter().map(|state| state.detach().copy());
    Ok(Seen { states: states.collect::<candle_core::Result<_>>()?, ..seen })
}
