//! An encoder alone: the caption that is nearest to an image.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::encoders::Encoder;
use super::preprocess::{ImageInput, Preprocessor};
use crate::domain::{N_SCORES_KEPT, ScoredLabel};
use crate::model::run::scoring::ranking;

/// An encoder beside a model that is somewhere else.
pub struct ZeroShot {
    encoder: Encoder,
}

/// The labels of a dataset, embedded in its captions.
pub struct EmbeddedLabels {
    /// Of unit length, `(dimension, labels)`.
    embeddings: Tensor,
    names: Vec<String>,
}

impl ZeroShot {
    /// Checks that images are prepared at the tower's size.
    pub fn new(encoder: Encoder) -> Result<Self> {
        encoder.preprocessor.check_side(encoder.towers.tower().config().image_size(), "encoder")?;
        Ok(Self { encoder })
    }

    /// How images are prepared for it.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.encoder.preprocessor
    }

    /// Embeds `labels` in `captions`, templates with `{}` for the label.
    pub fn embed(&self, captions: &[String], labels: &[&str]) -> Result<EmbeddedLabels> {
        let embeddings = self.encoder.label_embeddings(captions, labels)?.t()?.contiguous()?;
        Ok(EmbeddedLabels { embeddings, names: labels.iter().map(|&label| label.to_owned()).collect() })
    }

    /// The best labels by cosine of each image, best first.
    pub fn rank(&self, labels: &EmbeddedLabels, images: &[&ImageInput]) -> Result<Vec<Vec<ScoredLabel>>> {
        let tower = self.encoder.towers.tower();
        let hidden = tower.hidden_states(&tower.pixels(images)?, &[tower.state_before_last()])?.swap_remove(0);
        rank(&labels.embeddings, &labels.names, &self.encoder.towers.image_embeddings(&hidden)?)
    }
}

/// The best labels by cosine of each row of `images` `(rows, dimension)`; `labels` is `(dimension, labels)`.
pub(in crate::model) fn rank(labels: &Tensor, names: &[String], images: &Tensor) -> Result<Vec<Vec<ScoredLabel>>> {
    let cosines = images.matmul(labels)?.to_dtype(DType::F32)?.to_vec2::<f32>()?; // (rows, labels)
    Ok(cosines
        .into_iter()
        .map(|row| {
            let scored = |i: usize| ScoredLabel { label: names[i].clone(), score: row[i], share: None };
            ranking(&row).into_iter().take(N_SCORES_KEPT).map(scored).collect()
        })
        .collect())
}
