//! Prefix tuning (Li and Liang 2021): virtual keys and values before those of every prompt, in all layers.

use anyhow::{Context, Result};
use candle_core::Tensor;
use serde_json::json;

use super::prompt::checked;
use super::{Arm, Base, Changes, Left, LeftVirtualTokens, Recipe, Start, Variables, normal, prompt_config};
use crate::domain;
use crate::finetune::trainable::TrainableConfig;
use crate::model::checkpoint::overlay::VIRTUAL_KEYS;
use crate::model::checkpoint::weights::NamedTensor;

/// Rows `(positions, layers * 2 * key heads * head size)` that are trained themselves.
pub(super) struct Prefix;

impl Arm for Prefix {
    fn arm(&self) -> domain::Arm {
        domain::Arm::Prefix
    }

    fn recipe(&self) -> Recipe {
        Recipe { learning_rate: 1e-2, batch_size: 8, miniature_learning_rate: 1e-2, miniature_n_epochs: 6 }
    }

    fn parameters(&self, base: &Base<'_>, config: &TrainableConfig, start: &mut Start) -> Result<Vec<NamedTensor>> {
        let shape = [config.virtual_tokens().n_tokens, 2 * base.n_layers * key_width(base)?];
        let rows = match start.overlay.take_replaced_whole(VIRTUAL_KEYS) {
            Some(rows) => checked(rows, shape)?,
            None => Tensor::from_vec(normal(config.seed, b"virtual_keys", shape[0] * shape[1]), &shape, base.device)?,
        };
        Ok(vec![(VIRTUAL_KEYS.to_owned(), rows)])
    }

    fn put(&self, variables: &Variables<'_>, _: &TrainableConfig, changes: &mut Changes) -> Result<()> {
        changes.replaced.insert(VIRTUAL_KEYS.to_owned(), variables.get(VIRTUAL_KEYS)?);
        Ok(())
    }

    fn leave(&self, variables: &Variables<'_>, base: &Base<'_>, _: &TrainableConfig, left: &mut Left) -> Result<()> {
        let rows = variables.get(VIRTUAL_KEYS)?;
        let width = key_width(base)?;
        let mut config = prompt_config(base, rows.dim(0)?, width, base.n_heads[1]);
        config.insert("encoder_hidden_size".to_owned(), json!(width));
        config.insert("prefix_projection".to_owned(), json!(false));
        left.virtual_tokens = Some(LeftVirtualTokens { peft_type: "PREFIX_TUNING", rows, config });
        Ok(())
    }
}

/// The width of all keys of a layer.
fn key_width(base: &Base<'_>) -> Result<usize> {
    let rows = |name: &str, axis: usize| {
        let shape = base.weights.shape(&format!("language_model.layers.0.self_attn.{name}.weight"))?;
        shape.get(axis).copied()
    };
    // Where the three maps are one, it has the queries' rows and twice the keys'.
    let joined = || Some((rows("qkv_proj", 0)? - rows("o_proj", 1)?) / 2);
    rows("k_proj", 0).or_else(joined).context("the base has no map to keys")
}
