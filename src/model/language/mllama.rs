//! The language model of Llama-3.2-Vision: Llama 3, with layers that attend to the image in place of some of its own.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::config::{DecoderConfig, Defaults};
use super::cross::{CrossConfig, CrossKind};
use crate::model::checkpoint::config::Config;

/// The rows of the embedding for tokens that are never answered: the image's token and others.
const N_MORE_EMBEDDED: usize = 8;

/// The layers that attend to images, unless the configuration says otherwise.
const CROSS_LAYERS: [usize; 8] = [3, 8, 13, 18, 23, 28, 33, 38];

/// Reads a `text_config` of Llama-3.2-Vision. Its layers attend to features of the decoder's own width.
pub fn read_mllama(config: &Config) -> Result<DecoderConfig> {
    let kind = config.str_or("model_type", "mllama_text_model")?;
    ensure!(kind == "mllama_text_model", "{}: the language model `{kind}` is not supported here", config.place());
    let read = DecoderConfig::read(config, &DEFAULTS)?;
    ensure!(
        !read.is_tied,
        "{}: `tie_word_embeddings` is true, but the head has fewer tokens than the embedding; hint: Llama-3.2-Vision \
         has a head of its own",
        config.place()
    );
    let layers = match config.get("cross_attention_layers") {
        None => CROSS_LAYERS.to_vec(),
        Some(list) => indices(list, read.n_layers)
            .with_context(|| format!("`cross_attention_layers` in {} cannot be read", config.place()))?,
    };
    let cross = CrossConfig { kind: CrossKind::Llama, layers, width: read.size };
    Ok(DecoderConfig { cross: Some(cross), n_more_embedded: N_MORE_EMBEDDED, ..read })
}

/// Reads ascending indices of `n_layers` layers.
fn indices(list: &Value, n_layers: usize) -> Result<Vec<usize>> {
    let index = |value: &Value| value.as_u64().map(|index| index as usize).filter(|&index| index < n_layers);
    let indices: Option<Vec<usize>> = list.as_array().and_then(|list| list.iter().map(index).collect());
    indices
        .filter(|indices| indices.is_sorted_by(|a, b| a < b))
        .with_context(|| format!("{list} is not a list of ascending indices of {n_layers} layers"))
}

const DEFAULTS: Defaults = Defaults {
    size: 4096,
    n_hidden: 14336,
    n_layers: 40,
    n_heads: 32,
    n_kv_heads: Some(8),
    head_size: None,
    vocabulary_size: 128_256,
    n_positions: 131_072,
    epsilon: 1e-5,
    activation: "silu",
    is_tied: false,
};
