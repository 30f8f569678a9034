//! The input of a vision transformer (Dosovitskiy et al. 2021, equation 1): patches are flattened to rows and mapped, a
//! class token is prepended, and positions are added.

use anyhow::Result;
use candle_core::{DType, Device, Tensor, WithDType};
use rayon::prelude::*;

use super::fused::{self, by_type};
use super::{Linear, Loader};

/// Sizes of a patch embedding.
#[derive(Clone, Copy, Debug)]
pub struct PatchEmbeddingShape {
    /// Width of the residual stream.
    pub size: usize,
    /// Channels of a picture.
    pub n_channels: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Positions, including the class token's.
    pub n_tokens: usize,
    /// Whether a class token comes first.
    pub has_class_token: bool,
    /// Whether patches have a bias.
    pub has_bias: bool,
}

/// Turns pictures into rows.
pub struct PatchEmbedding {
    patches: Linear,
    class_token: Option<Tensor>, // (1, 1, hidden)
    positions: Tensor,           // (1, tokens, hidden)
    shape: PatchEmbeddingShape,
}

impl PatchEmbedding {
    /// Reads `patch_embedding`, `position_embedding` and, if there is one, `class_embedding`.
    pub fn load(loader: &mut Loader, shape: PatchEmbeddingShape) -> Result<Self> {
        let PatchEmbeddingShape { size, n_channels, patch_size, n_tokens, has_class_token, has_bias } = shape;
        // A convolution whose stride equals its kernel size is one product over flattened patches.
        let kernel = [size, n_channels, patch_size, patch_size];
        let patches = Linear::load_shaped(loader, "patch_embedding", &kernel, has_bias)?;
        let class_token = match has_class_token {
            true => {
                // BLIP-2 stores the dimensions of a batch.
                let is_batch = loader.shape("class_embedding").is_some_and(|shape| shape.len() == 3);
                let shape: &[usize] = if is_batch { &[1, 1, size] } else { &[size] };
                Some(loader.tensor("class_embedding", shape)?.reshape((1, 1, size))?)
            }
            false => None,
        };
        let name = "position_embedding.weight";
        let is_batch = loader.shape(name).is_some_and(|shape| shape.len() == 3);
        let stored: &[usize] = if is_batch { &[1, n_tokens, size] } else { &[n_tokens, size] };
        let positions = loader.tensor(name, stored)?.reshape((1, n_tokens, size))?;
        Ok(Self { patches, class_token, positions, shape })
    }

    /// Builds an embedding from tensors under other names: a map of flattened patches, a class token `(1, 1, hidden)`,
    /// and positions `(1, tokens, hidden)` that include the class token's.
    pub fn from_parts(patches: Linear, class_token: Tensor, positions: Tensor, shape: PatchEmbeddingShape) -> Self {
        Self { patches, class_token: Some(class_token), positions, shape }
    }

    /// The device on which it computes.
    pub fn device(&self) -> &Device {
        self.positions.device()
    }

    /// Maps `(batch, channels, height, width)` to `(batch, tokens, hidden)`. Pixels that fill no patch are dropped.
    pub fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        self.placed(&self.patches.forward(&self.rows(pixels)?)?)
    }

    /// Returns the patches as rows, `(batch, patches, channels * patch * patch)`.
    fn rows(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, n_channels, height, width) = pixels.dims4()?;
        let patch = self.shape.patch_size;
        let (n_rows, n_columns) = (height / patch, width / patch);
        let shape = (batch, n_rows * n_columns, n_channels * patch * patch);
        if fused::serves(&[pixels]) {
            let picture = Picture { n_channels, height, width, patch };
            return by_type!(self.positions, T => {
                let gather = |pixels: &[f32]| picture.patches::<T>(pixels);
                fused::tensor(fused::with_numbers(&pixels.to_dtype(DType::F32)?, gather)?, shape)
            });
        }
        pixels
            .to_dtype(self.positions.dtype())?
            .narrow(2, 0, n_rows * patch)?
            .narrow(3, 0, n_columns * patch)?
            .reshape(&[batch, n_channels, n_rows, patch, n_columns, patch][..])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape(shape)
    }

    /// Prepends the class token to `patches` `(batch, patches, hidden)` and adds the positions.
    fn placed(&self, patches: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, _, size) = patches.dims3()?;
        let shape = (batch, self.positions.dim(1)?, size);
        if patches.dim(1)? + usize::from(self.class_token.is_some()) != shape.1 {
            candle_core::bail!("{} patches are not those of {} positions", patches.dim(1)?, shape.1);
        }
        let is_served = [Some(patches), Some(&self.positions), self.class_token.as_ref()];
        if fused::serves(&is_served.into_iter().flatten().collect::<Vec<_>>()) {
            return by_type!(patches, T => {
                let first = match &self.class_token {
                    Some(token) => fused::with_numbers::<T, _>(token, <[T]>::to_vec)?,
                    None => Vec::new(),
                };
                let placed = fused::with_numbers::<T, _>(&self.positions, |positions| {
                    fused::with_numbers(patches, |patches| placed(patches, &first, positions, size))
                });
                fused::tensor(placed??, shape)
            });
        }
        let x = match &self.class_token {
            Some(token) => Tensor::cat(&[&token.broadcast_as((batch, 1, size))?.contiguous()?, patches], 1)?,
            None => patches.clone(),
        };
        x.broadcast_add(&self.positions)
    }
}

/// Sizes of a picture and its patches.
#[derive(Clone, Copy)]
struct Picture {
    n_channels: usize,
    height: usize,
    width: usize,
    patch: usize,
}

impl Picture {
    /// Returns the numbers of each patch in order of channel, then line.
    fn patches<T: WithDType>(self, pixels: &[f32]) -> Vec<T> {
        let Self { n_channels, height, width, patch } = self;
        let (n_rows, n_columns) = (height / patch, width / patch);
        let n_of_patch = n_channels * patch * patch;
        let n_images = pixels.len() / (n_channels * height * width).max(1);
        let mut gathered = vec![T::from_f64(0.0); n_images * n_rows * n_columns * n_of_patch];
        let of_row = (n_columns * n_of_patch).max(1);
        gathered.par_chunks_mut(of_row).enumerate().for_each(|(index, patches)| {
            let (image, row) = (index / n_rows, index % n_rows);
            for line in 0..n_channels * patch {
                let (channel, y) = (line / patch, line % patch);
                let start = ((image * n_channels + channel) * height + row * patch + y) * width;
                let numbers = pixels[start..start + n_columns * patch].chunks_exact(patch);
                for (patches, numbers) in patches.chunks_exact_mut(n_of_patch).zip(numbers) {
                    for (to, from) in patches[line * patch..].iter_mut().zip(numbers) {
                        *to = T::from_f64(f64::from(*from));
                    }
                }
            }
        });
        gathered
    }
}

/// Returns `first`, if it is a row of `size`, and the rows of each picture, plus `positions`.
fn placed<T: WithDType>(patches: &[T], first: &[T], positions: &[T], size: usize) -> Vec<T> {
    let n_tokens = positions.len() / size.max(1);
    let n_first = usize::from(!first.is_empty());
    let n_patches = n_tokens - n_first;
    let n_images = patches.len() / (n_patches * size).max(1);
    let mut placed = vec![T::from_f64(0.0); n_images * n_tokens * size];
    placed.par_chunks_mut(size.max(1)).enumerate().for_each(|(index, row)| {
        let (image, token) = (index / n_tokens, index % n_tokens);
        let from = match token < n_first {
            true => first,
            false => &patches[(image * n_patches + token - n_first) * size..][..size],
        };
        for ((to, x), position) in row.iter_mut().zip(from).zip(&positions[token * size..]) {
            *to = *x + *position;
        }
    });
    placed
}

#[cfg(test)]
mod tests;
