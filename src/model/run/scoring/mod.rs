//! Label scoring: which of the labels is the model's most probable complete answer?
//!
//! The score of a label is the sum of the log-probabilities of its tokens and of the terminator after them. Without the
//! terminator, "cat" would be at least as probable as "caterpillar". All labels share the prompt's cache and, as a
//! [`LabelTrie`], their common tokens. Each node attends to the prompt and its own ancestors (tree attention, as in
//! SpecInfer, Miao et al. 2024), so one pass reads many nodes.

mod trie;

use std::ops::Range;

use anyhow::Result;
use candle_core::{D, DType, Tensor};

use super::prefix::{Prefix, distinct_padding};
use crate::domain::Mode;
use crate::model::language::{LanguageModel, Pass, TokenInput};
use crate::model::layers::tree_mask;
pub use trie::LabelTrie;

/// A row with a label whose log-probability is not finite, because of an overflow or broken weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model's log-probability of label {label} is not finite; hint: weights out of range for this --dtype, try \
     --dtype f32"
)]
pub struct ScoreNotFinite {
    /// The first such label, counted from 0.
    pub label: usize,
}

/// The version of label scoring, which is part of a run's identity. It is raised when the same logits may choose
/// another label.
const VERSION: u32 = 1;

/// Returns the version of the code that decides a model's answers in `modes`; 1 if no labels are scored.
pub fn version_in(modes: &[Mode]) -> u32 {
    if modes.contains(&Mode::Score) { VERSION } else { 1 }
}

/// The maximum number of logits held at once, unless a single node has more.
const N_LOGITS_MAX: usize = 1 << 24;

/// A pass reads at most as many nodes as the prompt has tokens, or this many if that is more.
const N_NODES_PER_PASS_MIN: usize = 64;

/// Returns the log-probability of every label of `trie`, by row of `prefix`. The prefix must have room for
/// [`LabelTrie::n_nodes`] positions, and is restored afterwards.
pub fn score(
    model: &dyn LanguageModel,
    prefix: &mut Prefix,
    trie: &LabelTrie,
) -> Result<Vec<Result<Vec<f32>, ScoreNotFinite>>> {
    let mut edges = vec![vec![0f32; trie.n_edges()]; prefix.lengths.len()];
    fill(model, &prefix.last, 0, trie, &mut edges)?;
    let n_nodes_per_pass = prefix.n_tokens.max(N_NODES_PER_PASS_MIN);
    let mut start = 0;
    while start < trie.n_nodes() {
        let end = trie.n_nodes().min(start + n_nodes_per_pass);
        let hidden = read(model, prefix, trie, start..end)?;
        fill(model, &hidden, start + 1, trie, &mut edges)?;
        start = end;
    }
    prefix.state.truncate(prefix.n_tokens);
    let of_row = |edges: Vec<f32>| {
        let scores = trie.sums(&edges);
        match scores.iter().position(|score| !score.is_finite()) {
            Some(label) => Err(ScoreNotFinite { label }),
            None => Ok(scores),
        }
    };
    Ok(edges.into_iter().map(of_row).collect())
}

/// Returns hidden states `(batch, nodes, hidden)` of the inner nodes `new`. All earlier nodes are in the caches.
fn read(model: &dyn LanguageModel, prefix: &mut Prefix, trie: &LabelTrie, new: Range<usize>) -> Result<Tensor> {
    let (batch, n_new) = (prefix.lengths.len(), new.len());
    let embeddings = model.embed(&trie.tokens()[new.clone()])?.unsqueeze(0)?;
    let embeddings = embeddings.repeat((batch, 1, 1))?; // (batch, nodes, hidden)
    let device = embeddings.device();
    let depths = &trie.depths()[new.clone()];
    let positions: Vec<u32> =
        prefix.next_positions.iter().flat_map(|next| depths.iter().map(move |depth| (next + depth) as u32)).collect();
    let positions = Tensor::from_vec(positions, (batch, n_new), device)?;
    let padding = distinct_padding(&prefix.lengths, prefix.n_tokens);
    let mask = tree_mask(&padding, prefix.n_tokens, trie.parents(), new, embeddings.dtype(), device)?;
    let input = TokenInput::new(embeddings, positions);
    Ok(model.forward(Pass::new(&input).masked(&mask).after(&mut prefix.state))?)
}

/// Writes the log-probability of every edge from the sources with hidden states `(batch, sources, hidden)`, the first
/// of which is `first`. `edges` are by row and edge.
fn fill(
    model: &dyn LanguageModel,
    hidden: &Tensor,
    first: usize,
    trie: &LabelTrie,
    edges: &mut [Vec<f32>],
) -> Result<()> {
    let (batch, n_sources, _) = hidden.dims3()?;
    let mut start = 0;
    let mut n_at_once = 1;
    while start < n_sources {
        let n = n_at_once.min(n_sources - start);
        let here = hidden.narrow(1, start, n)?.contiguous()?.flatten(0, 1)?; // (batch * n, hidden)
        let logits = model.logits(&here)?.to_dtype(DType::F32)?;
        let vocabulary = logits.dim(1)?;
        let normalisers = logits.log_sum_exp(D::Minus1)?.to_vec1::<f32>()?;
        let (numbers, wanted) = trie.edges_from(first + start..first + start + n);
        let rows_and_tokens = (0..batch)
            .flat_map(|row| wanted.iter().map(move |edge| (row * n + edge.source - first - start, edge.token)));
        let places: Vec<u32> = rows_and_tokens.clone().map(|(row, token)| (row * vocabulary) as u32 + token).collect();
        let chosen = logits.flatten_all()?.index_select(&Tensor::new(places, logits.device())?, 0)?;
        let chosen = chosen.to_vec1::<f32>()?;
        for (index, ((row, _), logit)) in rows_and_tokens.zip(chosen).enumerate() {
            edges[index / wanted.len()][numbers.start + index % wanted.len()] = logit - normalisers[row];
        }
        start += n;
        // The first source gives the size of the vocabulary.
        n_at_once = (N_LOGITS_MAX / (batch * vocabulary).max(1)).max(1);
    }
    Ok(())
}

/// Returns labels by score, the highest first. Equal scores keep the order of labels, as in argmax.
pub fn ranking(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// Returns each label's share of the softmax over the label set.
pub fn shares(scores: &[f32]) -> Vec<f32> {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = scores.iter().map(|&score| f64::from(score - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| (weight / sum) as f32).collect()
}

#[cfg(test)]
mod tests;
