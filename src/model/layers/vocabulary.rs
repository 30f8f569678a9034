//! Input embedding and head, which may be one tensor.
//!
//! If they are one, an adapter may change it or give one of the two its own copy, as PEFT does (0.21). A module named
//! in `modules_to_save` is copied, and the other keeps the base's tensor. An unmerged update belongs only to its
//! module. A merged update goes into the shared tensor, and so into both.

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;

use super::embedding::check_update;
use super::linear::check_shapes;
use super::low_rank::{merged, merged_bias};
use super::{Embedding, Linear, Loader};
use crate::model::checkpoint::overlay::rounded;

const EMBEDDING: &str = "language_model.embed_tokens";
const HEAD: &str = "lm_head";
const EMBEDDING_WEIGHT: &str = "language_model.embed_tokens.weight";
/// Rows of the head that are stored apart, for tokens that were added.
const MORE_OF_HEAD: &str = "lm_head.more";
const HEAD_WEIGHT: &str = "lm_head.weight";

/// Reads embedding and head of `n_tokens` tokens and `size` numbers. The embedding has `n_more` more tokens, which are
/// never answered unless the files hold their rows of the head apart. `is_tied` means that the configuration makes them
/// one tensor. As in transformers, a stored head that differs from the embedding is a separate head even then.
///
/// # Errors
/// A tensor is missing or of another shape.
pub fn load_vocabulary(
    loader: &mut Loader,
    [n_tokens, n_more]: [usize; 2],
    size: usize,
    is_tied: bool,
) -> Result<(Embedding, Linear)> {
    if n_more > 0 {
        ensure!(!is_tied, "a head with fewer tokens than the embedding cannot be tied to it");
        let embedding = Embedding::load(loader, EMBEDDING, n_tokens + n_more, size)?;
        let Some(more) = loader.optional(MORE_OF_HEAD, &[n_more, size])? else {
            return Ok((embedding, Linear::load(loader, HEAD, size, n_tokens, false)?));
        };
        let mut here = loader.at(HEAD);
        let weight = Tensor::cat(&[here.tensor("weight", &[n_tokens, size])?, more], 0)?;
        return Ok((embedding, Linear::updated(&mut here, weight, None)?));
    }
    let is_touched = [EMBEDDING, HEAD].iter().any(|module| loader.is_touched(module));
    if is_touched && is_tied && loader.is_one_tensor(EMBEDDING_WEIGHT, HEAD_WEIGHT)? {
        return load_tied(loader, n_tokens, size);
    }
    let embedding = Embedding::load(loader, EMBEDDING, n_tokens, size)?;
    let head = if loader.has(HEAD_WEIGHT) {
        Linear::load(loader, HEAD, size, n_tokens, false)?
    } else if is_tied {
        Linear::updated(&mut loader.at(HEAD), embedding.weight().clone(), None)?
    } else {
        bail!("lm_head.weight is missing, and config.json does not tie it to the embedding")
    };
    Ok((embedding, head))
}

/// Like [`load_vocabulary`], for one tensor that an adapter changes.
fn load_tied(loader: &mut Loader, n_tokens: usize, size: usize) -> Result<(Embedding, Linear)> {
    let shape = [n_tokens, size];
    let own_embedding = loader.take_copy(EMBEDDING_WEIGHT, &shape)?;
    let own_head = loader.take_copy(HEAD_WEIGHT, &shape)?;
    let mut shared = loader.one_tensor(EMBEDDING_WEIGHT, HEAD_WEIGHT, &shape)?;
    let mut bias = None;
    if loader.is_merged() {
        let dtype = loader.placement().dtype;
        if own_embedding.is_none()
            && let Some(update) = loader.at(EMBEDDING).take_update()
        {
            check_update(&update, &shape, EMBEDDING)?;
            // The update of an embedding is of the transposed weight.
            let added = (update.b.matmul(&update.a)?.t()? * update.scale)?;
            shared = (shared.to_dtype(dtype)? + added)?;
        }
        if own_head.is_none()
            && let Some(update) = loader.at(HEAD).take_update()
        {
            check_shapes(&update, shape, HEAD)?;
            shared = merged(&update, &shared.to_dtype(dtype)?)?;
            bias = merged_bias(&update)?;
        }
        shared = rounded(&shared, loader.merged_type())?;
    }
    let of = |own: Option<Tensor>| own.unwrap_or_else(|| shared.clone());
    let embedding = Embedding::updated(&mut loader.at(EMBEDDING), of(own_embedding), &shape)?;
    let head = Linear::updated(&mut loader.at(HEAD), of(own_head), bias)?;
    Ok((embedding, head))
}

#[cfg(test)]
mod tests;
