//! Learnable modality calibration, which some checkpoints have after each layer of the language model.

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

use super::Loader;

/// The learnable calibration of images after a layer: `scale * h + shift` at their positions (MoCa; Huang et al. 2024,
/// "Deciphering Cross-Modal Alignment in Large Vision-Language Models with Modality Integration Rate").
pub struct ModalityCalibration {
    scale: Tensor,
    shift: Tensor,
}

/// The names of its tensors below a layer.
pub const CALIBRATION: [&str; 2] = ["modality_layernorm.scale", "modality_layernorm.shift"];

impl ModalityCalibration {
    /// Reads the calibration of the layer at `loader`, if checkpoint or adapter has one.
    ///
    /// # Errors
    /// One of its two tensors is missing.
    pub fn load(loader: &mut Loader, size: usize) -> Result<Option<Self>> {
        let scale = loader.optional(CALIBRATION[0], &[size])?;
        let shift = loader.optional(CALIBRATION[1], &[size])?;
        ensure!(
            scale.is_some() == shift.is_some(),
            "`{}` has one of scale and shift of its calibration; hint: copy the checkpoint again",
            loader.prefix()
        );
        Ok(scale.zip(shift).map(|(scale, shift)| Self { scale, shift }))
    }

    /// Returns `x` `(batch, tokens, hidden)`, calibrated where `is_image` `(batch, tokens)` is 1.
    ///
    /// # Errors
    /// A device failure.
    pub fn forward(&self, x: &Tensor, is_image: &Tensor) -> candle_core::Result<Tensor> {
        let exact = x.to_dtype(DType::F32)?;
        let [scale, shift] = [&self.scale, &self.shift].map(|vector| vector.to_dtype(DType::F32));
        let calibrated = exact.broadcast_mul(&scale?)?.broadcast_add(&shift?)?.to_dtype(x.dtype())?;
        is_image.unsqueeze(2)?.broadcast_as(x.shape())?.where_cond(&calibrated, x)
    }
}
