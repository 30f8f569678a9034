//! Flamingo's resampler (Alayrac et al. 2022, "Perceiver Resampler"): a fixed number of learned latents attend to the
//! patches of an image, and to each other.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use crate::model::layers::{Activation, CrossAttention, CrossShape, LayerNorm, Loader, Mlp};

/// These sizes are in the authors' code, and in no file.
const N_HEADS: usize = 8;
const HEAD_SIZE: usize = 64;
const EPSILON: f64 = 1e-5;

/// The number of latents of every published resampler.
pub const N_LATENTS: usize = 64;

/// The resampler.
pub struct Perceiver {
    latents: Tensor, // (latents, width)
    /// The embedding of the first frame, if it was made for videos too: `(width)`.
    frame: Option<Tensor>,
    layers: Vec<Layer>,
    norm: LayerNorm,
}

struct Layer {
    norm_media: LayerNorm,
    norm_latents: LayerNorm,
    attention: CrossAttention,
    mlp_norm: LayerNorm,
    mlp: Mlp,
}

impl Perceiver {
    /// Reads a resampler of `width` below `loader`. The files give the numbers of latents and of layers.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(loader: &mut Loader, width: usize) -> Result<Self> {
        let shape = loader.shape("latents").context("the resampler's `latents` are missing")?;
        ensure!(matches!(shape[..], [n, w] if n > 0 && w == width), "`latents` {shape:?} are not {width} wide");
        let latents = loader.tensor("latents", &shape)?;
        let frame = match loader.shape("frame_embs") {
            None => None,
            Some(shape) => {
                ensure!(
                    matches!(shape[..], [n, w] if n > 0 && w == width),
                    "`frame_embs` {shape:?} are not {width} wide"
                );
                // An image is a video of one frame.
                Some(loader.tensor("frame_embs", &shape)?.get(0)?)
            }
        };
        let mut layers = Vec::new();
        while loader.has(&format!("layers.{}.to_q.weight", layers.len())) {
            layers.push(Layer::load(&mut loader.at(&format!("layers.{}", layers.len())), width)?);
        }
        ensure!(!layers.is_empty(), "the resampler has no layers");
        Ok(Self { latents, frame, layers, norm: LayerNorm::load(loader, "norm", width, EPSILON)? })
    }

    /// Maps the patches of images, `(images, patches, width)`, to `(images, latents, width)`.
    ///
    /// # Errors
    /// A device failure.
    pub fn forward(&self, patches: &Tensor) -> candle_core::Result<Tensor> {
        let patches = match &self.frame {
            Some(frame) => patches.broadcast_add(frame)?,
            None => patches.clone(),
        };
        let (n_latents, width) = self.latents.dims2()?;
        let shape = (patches.dim(0)?, n_latents, width);
        let mut x = self.latents.unsqueeze(0)?.broadcast_as(shape)?.contiguous()?;
        for layer in &self.layers {
            x = layer.forward(&x, &patches)?;
        }
        self.norm.forward(&x)
    }
}

impl Layer {
    fn load(loader: &mut Loader, width: usize) -> Result<Self> {
        let shape =
            CrossShape { size: width, n_attended: width, n_heads: N_HEADS, n_kv_heads: N_HEADS, head_size: HEAD_SIZE };
        let norm = |loader: &mut Loader, name| LayerNorm::load(loader, name, width, EPSILON);
        let mut feed_forward = loader.at("feed_forward");
        let mlp_norm = norm(&mut feed_forward, "0")?;
        let widths = [width, 4 * width, width];
        let mlp = Mlp::load_unbiased(&mut feed_forward, ["1", "3"], widths, Activation::Gelu)?;
        Ok(Self {
            norm_media: norm(loader, "norm_media")?,
            norm_latents: norm(loader, "norm_latents")?,
            attention: CrossAttention::load_joined(loader, shape)?,
            mlp_norm,
            mlp,
        })
    }

    fn forward(&self, x: &Tensor, patches: &Tensor) -> candle_core::Result<Tensor> {
        let latents = self.norm_latents.forward(x)?;
        let attended = Tensor::cat(&[&self.norm_media.forward(patches)?, &latents], 1)?;
        let [keys, values] = self.attention.keys_and_values(&attended)?;
        let x = (x + self.attention.forward(&latents, [&keys, &values], None)?)?;
        let added = self.mlp.forward(&self.mlp_norm.forward(&x)?)?;
        x + added
    }
}
