//! Dual encoders: the bare vision encoders with which a model is compared. One file per family.

mod clip;
mod open_clip;
mod siglip;

use std::sync::Arc;

use anyhow::{Result, bail};
use candle_core::Tensor;

use super::preprocess::Preprocessor;
use crate::domain::closest;
use crate::model::Placement;
use crate::model::checkpoint::weights::{Checkpoint, Weights, config_hash};
use crate::model::layers::Loader;
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::square_tower::{VisionConfig, VisionTower};

/// An image encoder with its text encoder, together a zero-shot classifier.
pub trait DualEncoder: Send {
    /// The vision tower, which may be shared with a model.
    fn tower(&self) -> &Arc<VisionTower>;

    /// Returns image embeddings of unit length `(batch, dimension)` from the tower's hidden state before its last block
    /// ([`VisionTower::state_before_last`]). A family computes only the tokens of the last state that it reads.
    fn image_embeddings(&self, before_last: &Tensor) -> candle_core::Result<Tensor>;

    /// Returns text embeddings of unit length `(texts, dimension)` of token ids `(texts, context)`.
    fn text_embeddings(&self, ids: &[Vec<u32>]) -> Result<Tensor>;

    /// Returns the token ids of a text, of the length that the text tower takes.
    fn text_ids(&self, tokenizer: &TextTokenizer, text: &str) -> Result<Vec<u32>>;
}

/// A family of encoders: one line in [`ENCODERS`].
pub struct EncoderFamily {
    /// The name in reports.
    pub name: &'static str,
    /// A one-sentence description for lists.
    pub about: &'static str,
    /// What the family was verified against, for lists.
    pub verified: &'static str,
    /// Whether a checkpoint is of this family.
    pub recognises: fn(&Checkpoint) -> bool,
    /// Names the checkpoint's tensors.
    pub weights: fn(&Checkpoint) -> Result<Weights>,
    /// Sizes of the vision tower.
    pub vision_config: fn(&Checkpoint) -> Result<VisionConfig>,
    /// Reads everything except the tower; fails if a tensor is left over.
    pub load: LoadFn,
}

/// Reads an encoder around its tower.
pub type LoadFn = fn(&Checkpoint, &mut Weights, &Placement, Arc<VisionTower>) -> Result<Box<dyn DualEncoder>>;

/// All families; the first that recognises a checkpoint reads it.
pub const ENCODERS: &[EncoderFamily] = &[clip::FAMILY, open_clip::FAMILY, siglip::FAMILY];

/// Returns the family of a checkpoint, or an error that lists the known families.
pub fn family_of(checkpoint: &Checkpoint) -> Result<&'static EncoderFamily> {
    if let Some(family) = ENCODERS.iter().find(|family| (family.recognises)(checkpoint)) {
        return Ok(family);
    }
    let known: Vec<_> = ENCODERS.iter().map(|family| family.name).collect();
    let kind = checkpoint.config().get("model_type").and_then(|v| v.as_str()).unwrap_or("?");
    bail!(
        "`{}` is not an encoder that emt reads (model_type `{kind}`); hint: {}give --encoder a folder of {}, or `none`",
        checkpoint.dir.display(),
        closest(kind, &known),
        known.join(", ")
    )
}

/// The prefix of the canonical names of the vision side.
const VISION: &str = "vision_model";

/// An opened encoder checkpoint; no weight is read yet.
pub struct OpenedEncoder {
    checkpoint: Checkpoint,
    family: &'static EncoderFamily,
    /// The location of every tensor.
    pub weights: Weights,
    /// The tokenizer of captions.
    pub tokenizer: TextTokenizer,
    /// The preprocessor of images.
    pub preprocessor: Preprocessor,
}

impl OpenedEncoder {
    /// Opens a checkpoint folder.
    pub fn open(checkpoint: Checkpoint) -> Result<Self> {
        let family = family_of(&checkpoint)?;
        Ok(Self {
            weights: (family.weights)(&checkpoint)?,
            tokenizer: TextTokenizer::open(&checkpoint)?,
            preprocessor: Preprocessor::from_checkpoint(&checkpoint)?,
            checkpoint,
            family,
        })
    }

    /// The family's name.
    pub fn family(&self) -> &'static str {
        self.family.name
    }

    /// The checkpoint's name.
    pub fn name(&self) -> String {
        self.checkpoint.name()
    }

    /// Returns the hash of the checkpoint's configuration.
    pub fn config_hash(&self) -> String {
        config_hash(std::iter::once(&self.checkpoint))
    }

    /// Sizes of the vision tower.
    pub fn vision_config(&self) -> Result<VisionConfig> {
        (self.family.vision_config)(&self.checkpoint)
    }

    /// Returns the bytes of the weights outside the tower, as stored.
    pub fn n_bytes_beside_tower(&self) -> usize {
        self.weights.n_bytes_where(|name| !name.starts_with(VISION))
    }

    /// Reads the weights; fails if a tensor is left over.
    pub fn load(self, placement: &Placement) -> Result<Encoder> {
        self.load_around(None, placement)
    }

    /// Like [`load`](Self::load), but reuses `tower` if it is given; it must equal the encoder's own.
    pub fn load_around(mut self, tower: Option<Arc<VisionTower>>, placement: &Placement) -> Result<Encoder> {
        let config = self.vision_config()?;
        let mut loader = Loader::new(&mut self.weights, placement);
        let mut vision = loader.at(VISION);
        let tower = match tower {
            Some(tower) => {
                VisionTower::pass_over(&mut vision);
                tower
            }
            None => Arc::new(VisionTower::load(&mut vision, config)?),
        };
        let towers = (self.family.load)(&self.checkpoint, &mut self.weights, placement, tower)?;
        self.weights.finish()?;
        Ok(Encoder { towers, tokenizer: self.tokenizer, preprocessor: self.preprocessor })
    }
}

/// A loaded encoder with its text and image preparation.
pub struct Encoder {
    /// The towers.
    pub towers: Box<dyn DualEncoder>,
    /// The tokenizer of captions.
    pub tokenizer: TextTokenizer,
    /// The preprocessor of images.
    pub preprocessor: Preprocessor,
}

impl Encoder {
    /// Returns one embedding of unit length per label, `(labels, dimension)`: the normalised mean over `templates`,
    /// each with `{}` for the label (Radford et al. 2021, section 3.1.4).
    pub fn label_embeddings(&self, templates: &[String], labels: &[&str]) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for template in templates {
            let ids = labels
                .iter()
                .map(|label| self.towers.text_ids(&self.tokenizer, &template.replace("{}", label)))
                .collect::<Result<Vec<_>>>()?;
            let mut parts = Vec::new();
            for chunk in ids.chunks(TEXTS_PER_BATCH) {
                parts.push(self.towers.text_embeddings(chunk)?);
            }
            let embeddings = Tensor::cat(&parts, 0)?;
            sum = Some(match sum {
                Some(sum) => (sum + embeddings)?,
                None => embeddings,
            });
        }
        match sum {
            Some(sum) => Ok(unit_length(&sum)?),
            None => bail!("the dataset has no caption template"),
        }
    }
}

const TEXTS_PER_BATCH: usize = 64;

/// Scales the rows of `(rows, dimension)` to unit length.
pub fn unit_length(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?)
}

/// Returns the rows at `positions[row]` of `(rows, tokens, size)`: `(rows, size)`.
fn rows_at(x: &Tensor, positions: &[usize]) -> candle_core::Result<Tensor> {
    let picked: Vec<Tensor> = positions
        .iter()
        .enumerate()
        .map(|(row, &position)| x.get(row)?.get(position))
        .collect::<candle_core::Result<_>>()?;
    Tensor::stack(&picked, 0)
}

#[cfg(test)]
mod tests;
