//! Mixture of features (Tong et al. 2024, "Eyes Wide Shut?", section 4): a DINOv2 beside a LLaVA's tower.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::Serialize;

use super::llava::{Projector, ProjectorConfig, config_of};
use crate::domain::Mixing;
use crate::model::checkpoint::weights::{Checkpoint, MixtureConfig, Weights, canonical_llava};
use crate::model::layers::Loader;
use crate::model::vision::dinov2::{Dinov2Config, Dinov2Tower};

/// What a configuration decides about the second tower.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MixturePlan {
    mixing: Mixing,
    second_tower: Dinov2Config,
}

/// The first tower, as the second must fit it.
#[derive(Clone, Copy)]
pub(super) struct FirstTower {
    /// The side of its images, in pixels. The second tower reads the same pixels.
    pub side: usize,
    /// The tokens that the projector reads.
    pub n_tokens: usize,
    /// The width of what the projector reads.
    pub size: usize,
}

impl MixturePlan {
    /// Reads the mixture of `checkpoint`, if it has one.
    ///
    /// # Errors
    /// The second tower does not fit the first.
    pub(super) fn read(checkpoint: &Checkpoint, first: FirstTower) -> Result<Option<Self>> {
        let Some(mixture) = MixtureConfig::of(checkpoint)? else { return Ok(None) };
        let tower = match mixture.open_tower()? {
            Some(tower) => Dinov2Config::from_config(&config_of(&tower))?,
            None => Dinov2Config::from_weights(&Weights::new(checkpoint, canonical_llava)?)?,
        };
        let (n_patches, place) = (tower.n_patches(first.side), checkpoint.dir.display());
        ensure!(
            n_patches == first.n_tokens,
            "the towers of `{place}` give {} and {n_patches} features of an image of {} pixels, which cannot be mixed; hint: both \
             need patches of one size, and the first one's class token is left out",
            first.n_tokens,
            first.side
        );
        ensure!(
            mixture.mixing == Mixing::Interleaved || tower.size() == first.size,
            "the towers of `{place}` have features of widths {} and {}, which have no sum; hint: interleaved",
            first.size,
            tower.size()
        );
        Ok(Some(Self { mixing: mixture.mixing, second_tower: tower }))
    }

    /// The positions of an image of `n_tokens` features of each tower.
    pub(super) fn n_positions(&self, n_tokens: usize) -> usize {
        match self.mixing {
            Mixing::Interleaved => 2 * n_tokens,
            Mixing::Additive(_) => n_tokens,
        }
    }

    /// As [`Dinov2Config::n_activations`].
    pub(super) fn n_activations(&self, side: usize) -> usize {
        self.second_tower.n_activations(side)
    }

    /// Loads the second tower for images of `side` pixels, and its projector to a width of `n_out`, if it has one.
    pub(super) fn load(
        &self,
        loader: &mut Loader,
        projector: &ProjectorConfig,
        side: usize,
        n_out: usize,
    ) -> Result<Mixture> {
        let tower = Dinov2Tower::load(&mut loader.at("vision_tower.dino"), &self.second_tower, side)?;
        let mix = match self.mixing {
            Mixing::Interleaved => {
                let mut here = loader.at("multi_modal_projector.dino");
                Mix::Interleaved(Projector::load_at(&mut here, projector, self.second_tower.size(), n_out)?)
            }
            Mixing::Additive(share) => Mix::Additive(share),
        };
        Ok(Mixture { tower, mix })
    }
}

/// The second tower, and how its features are mixed.
pub(super) struct Mixture {
    /// The tower.
    pub tower: Dinov2Tower,
    mix: Mix,
}

enum Mix {
    Interleaved(Projector),
    Additive(f64),
}

impl Mixture {
    /// Projects features of both towers, each `(images, tokens, width)`: `(images, positions, hidden)`. Gradients flow.
    ///
    /// # Errors
    /// A device failure.
    pub(super) fn project(&self, projector: &Projector, first: &Tensor, second: &Tensor) -> Result<Tensor> {
        match &self.mix {
            Mix::Interleaved(of_second) => {
                let both = [projector.forward(first)?, of_second.forward(second)?];
                Ok(Tensor::stack(&both, 2)?.flatten(1, 2)?)
            }
            Mix::Additive(_) => Ok(projector.forward(&self.mixed(first, second)?[0])?),
        }
    }

    /// What projectors read: both, or their sum.
    ///
    /// # Errors
    /// A device failure.
    pub(super) fn mixed(&self, first: &Tensor, second: &Tensor) -> Result<Vec<Tensor>> {
        match self.mix {
            Mix::Interleaved(_) => Ok(vec![first.clone(), second.clone()]),
            Mix::Additive(share) => Ok(vec![((first * (1.0 - share))? + (second * share)?)?]),
        }
    }
}

#[cfg(test)]
mod tests;
