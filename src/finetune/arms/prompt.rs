//! Soft prompt tuning (Lester et al. 2021): embedded virtual tokens before every prompt.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde_json::{Value, json};

use super::{Arm, Base, Changes, Left, LeftVirtualTokens, Recipe, Start, Variables, normal, prompt_config};
use crate::domain;
use crate::domain::VirtualTokenStart;
use crate::finetune::seeded;
use crate::finetune::trainable::TrainableConfig;
use crate::model::checkpoint::overlay::VIRTUAL_TOKENS;
use crate::model::checkpoint::weights::NamedTensor;

/// Rows `(tokens, hidden)` that are trained themselves.
pub(super) struct Prompt;

impl Arm for Prompt {
    fn arm(&self) -> domain::Arm {
        domain::Arm::Prompt
    }

    fn recipe(&self) -> Recipe {
        Recipe { learning_rate: 3e-2, batch_size: 8, miniature_learning_rate: 3e-2, miniature_n_epochs: 6 }
    }

    fn parameters(&self, base: &Base<'_>, config: &TrainableConfig, start: &mut Start) -> Result<Vec<NamedTensor>> {
        let (n_tokens, size) = (config.virtual_tokens().n_tokens, base.size()?);
        let rows = match start.overlay.take_replaced_whole(VIRTUAL_TOKENS) {
            Some(rows) => checked(rows, [n_tokens, size])?,
            None => Tensor::from_vec(initial(base, config, n_tokens)?, (n_tokens, size), base.device)?,
        };
        Ok(vec![(VIRTUAL_TOKENS.to_owned(), rows)])
    }

    fn put(&self, variables: &Variables<'_>, _: &TrainableConfig, changes: &mut Changes) -> Result<()> {
        changes.replaced.insert(VIRTUAL_TOKENS.to_owned(), variables.get(VIRTUAL_TOKENS)?);
        Ok(())
    }

    fn leave(
        &self,
        variables: &Variables<'_>,
        base: &Base<'_>,
        config: &TrainableConfig,
        left: &mut Left,
    ) -> Result<()> {
        let rows = variables.get(VIRTUAL_TOKENS)?;
        let (n_tokens, size) = rows.dims2()?;
        let mut fields = prompt_config(base, n_tokens, size, base.n_heads[0]);
        let start = match config.virtual_tokens().start {
            VirtualTokenStart::Random => "RANDOM",
            VirtualTokenStart::Vocabulary => "SAMPLE_VOCAB",
            // PEFT asks for the text and its tokenizer only to start a training, and refuses the name without them.
            VirtualTokenStart::Text(_) => "RANDOM",
        };
        fields.insert("prompt_tuning_init".to_owned(), json!(start));
        fields.insert("prompt_tuning_init_text".to_owned(), Value::Null);
        fields.insert("tokenizer_name_or_path".to_owned(), Value::Null);
        left.virtual_tokens = Some(LeftVirtualTokens { peft_type: "PROMPT_TUNING", rows, config: fields });
        Ok(())
    }
}

/// Returns the first values of `n_tokens` rows.
fn initial(base: &Base<'_>, config: &TrainableConfig, n_tokens: usize) -> Result<Vec<f32>> {
    let [n_ids, size] = base.embedding_shape()?;
    match &config.virtual_tokens().start {
        VirtualTokenStart::Random => Ok(normal(config.seed, b"virtual_tokens", n_tokens * size)),
        VirtualTokenStart::Vocabulary => {
            let mut random = fastrand::Rng::with_seed(seeded(config.seed, &[b"virtual_tokens"]));
            let ids: Vec<u32> = (0..n_tokens).map(|_| random.u32(0..n_ids as u32)).collect();
            base.embedded(&ids)
        }
        VirtualTokenStart::Text(text) => {
            let ids = (base.tokenize)(text)?;
            ensure!(
                !ids.is_empty(),
                "the text from which virtual tokens start has no token; hint: --virtual-token-start"
            );
            let ids: Vec<u32> = ids.iter().copied().cycle().take(n_tokens).collect();
            base.embedded(&ids)
        }
    }
}

/// Returns `rows` if they have this shape.
pub(super) fn checked(rows: Tensor, shape: [usize; 2]) -> Result<Tensor> {
    ensure!(
        rows.dims() == shape,
        "the adapter to continue from has virtual tokens of shape {:?}, and this training {shape:?}; hint: give \
         --virtual-tokens {}",
        rows.dims(),
        rows.dims().first().copied().unwrap_or(0)
    );
    Ok(rows)
}
