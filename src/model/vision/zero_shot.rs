//! Zero-shot classification by an encoder: the caption nearest to an image.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::encoders::Encoder;
use super::preprocess::{ImageInput, Preprocessor};
use crate::domain::{N_SCORES_KEPT, ScoredLabel};
use crate::model::run::scoring::ranking;

/// An encoder that runs without the compared model, which is elsewhere.
pub struct ZeroShot {
    encoder: Encoder,
}

/// The labels of a dataset, embedded with its captions.
pub struct EmbeddedLabels {
    /// Unit length, `(dimension, labels)`.
    embeddings: Tensor,
    names: Vec<String>,
}

impl ZeroShot {
    /// Checks that images are prepared at the tower's size.
    pub fn new(encoder: Encoder) -> Result<Self> {
        encoder.preprocessor.check_side(encoder.towers.tower().config().image_size(), "encoder")?;
        Ok(Self { encoder })
    }

    /// Returns the preprocessor of the encoder's images.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.encoder.preprocessor
    }

    /// Embeds `labels` in `captions`, templates with `{}` for the label.
    pub fn embed(&self, captions: &[String], labels: &[&str]) -> Result<EmbeddedLabels> {
        let embeddings = self.encoder.label_embeddings(captions, labels)?.t()?.contiguous()?;
        Ok(EmbeddedLabels { embeddings, names: labels.iter().map(|&label| label.to_owned()).collect() })
    }

    /// Returns the best labels of each image by cosine, best first.
    pub fn rank(&self, labels: &EmbeddedLabels, images: &[&ImageInput]) -> Result<Vec<Vec<ScoredLabel>>> {
        let tower = self.encoder.towers.tower();
        let hidden = tower.hidden_states(&tower.pixels(images)?, &[tower.state_before_last()])?.swap_remove(0);
        rank(&labels.embeddings, &labels.names, &self.encoder.towers.image_embeddings(&hidden)?)
    }
}

/// Returns the best labels by cosine of each row of `images` `(rows, dimension)`; `labels` is `(dimension, labels)`.
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
