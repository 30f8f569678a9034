//! P-tuning (Liu et al. 2021): virtual tokens that a small network computes while they train.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use serde_json::json;

use super::prompt::checked;
use super::{Arm, Base, Changes, Left, LeftVirtualTokens, Recipe, Start, Variables, normal, prompt_config, uniform};
use crate::domain;
use crate::domain::{EncoderKind, VirtualTokenSettings};
use crate::finetune::trainable::TrainableConfig;
use crate::model::checkpoint::overlay::VIRTUAL_TOKENS;
use crate::model::checkpoint::weights::{NamedTensor, safetensors_bytes};
use crate::model::layers::PromptEncoder;

/// The file of the network, which PEFT does not save, and from which training continues.
pub const ENCODER_FILE: &str = "prompt_encoder.safetensors";

/// The prefix of the network's tensors.
const ENCODER: &str = "prompt_encoder.";

/// An embedding and the network that turns it into virtual tokens.
pub(super) struct PTuning;

impl Arm for PTuning {
    fn arm(&self) -> domain::Arm {
        domain::Arm::PTuning
    }

    fn recipe(&self) -> Recipe {
        Recipe { learning_rate: 1e-3, batch_size: 8, miniature_learning_rate: 1e-3, miniature_n_epochs: 6 }
    }

    fn parameters(&self, base: &Base<'_>, config: &TrainableConfig, start: &mut Start) -> Result<Vec<NamedTensor>> {
        let settings = config.virtual_tokens();
        ensure!(
            settings.encoder == EncoderKind::Mlp || settings.n_tokens > 1,
            "an LSTM over one virtual token has nothing to remember; hint: --virtual-tokens 2 or more, or --prompt-encoder mlp"
        );
        let size = base.size()?;
        let rows = start.overlay.take_replaced_whole(VIRTUAL_TOKENS);
        if let Some(rows) = rows {
            checked(rows, [settings.n_tokens, size])?;
            ensure!(
                !start.encoder.is_empty(),
                "the adapter to continue from has no {ENCODER_FILE}, from which its virtual tokens are computed: PEFT does \
                 not save it; hint: --method prompt goes on with the virtual tokens themselves"
            );
        }
        let mut given = std::mem::take(&mut start.encoder);
        let is_new = given.is_empty();
        let mut parameters = Vec::new();
        for (name, shape, kind) in shapes(&settings, size) {
            let value = match given.remove(&name) {
                Some(value) => value,
                None if is_new => kind.values(&name, &shape, config.seed, base)?,
                None => bail!("`{ENCODER_FILE}` lacks `{name}`; hint: is it of another --prompt-encoder?"),
            };
            ensure!(
                value.dims() == shape,
                "`{name}` of `{ENCODER_FILE}` has shape {:?}, and this training {shape:?}; hint: give the same \
                 --virtual-tokens, --prompt-encoder and --prompt-encoder-size",
                value.dims()
            );
            parameters.push((format!("{ENCODER}{name}"), value));
        }
        if let Some(name) = given.keys().next() {
            bail!(
                "`{ENCODER_FILE}` has `{name}`, which this training has not; hint: is it of another --prompt-encoder?"
            );
        }
        Ok(parameters)
    }

    fn put(&self, variables: &Variables<'_>, _: &TrainableConfig, changes: &mut Changes) -> Result<()> {
        changes.encoder = Some(encoder(variables)?);
        Ok(())
    }

    fn leave(
        &self,
        variables: &Variables<'_>,
        base: &Base<'_>,
        config: &TrainableConfig,
        left: &mut Left,
    ) -> Result<()> {
        let settings = config.virtual_tokens();
        let rows = encoder(variables)?.rows()?.detach();
        let (n_tokens, size) = rows.dims2()?;
        let mut fields = prompt_config(base, n_tokens, size, base.n_heads[0]);
        let kind = match settings.encoder {
            EncoderKind::Mlp => "MLP",
            EncoderKind::Lstm => "LSTM",
        };
        fields.insert("encoder_reparameterization_type".to_owned(), json!(kind));
        fields.insert("encoder_hidden_size".to_owned(), json!(settings.encoder_size.unwrap_or(size)));
        fields.insert("encoder_num_layers".to_owned(), json!(settings.n_encoder_layers));
        fields.insert("encoder_dropout".to_owned(), json!(0.0));
        left.virtual_tokens = Some(LeftVirtualTokens { peft_type: "P_TUNING", rows, config: fields });
        let tensors: Vec<NamedTensor> = named(variables).into_iter().collect();
        left.files.push((ENCODER_FILE.to_owned(), safetensors_bytes(&tensors)?));
        Ok(())
    }
}

/// The network's tensors by PEFT's names.
fn named(variables: &Variables<'_>) -> BTreeMap<String, Tensor> {
    let own = variables.where_name(|name| name.starts_with(ENCODER));
    own.map(|(name, tensor)| (name.trim_start_matches(ENCODER).to_owned(), tensor)).collect()
}

fn encoder(variables: &Variables<'_>) -> Result<PromptEncoder> {
    PromptEncoder::new(named(variables)).context("the prompt encoder trains")
}

/// How a tensor of the network starts, as PyTorch's layers do.
#[derive(Clone, Copy)]
enum First {
    Normal,
    /// Uniform in ±1/√n.
    UniformOver(usize),
}

impl First {
    fn values(self, name: &str, shape: &[usize], seed: u64, base: &Base<'_>) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let values = match self {
            Self::Normal => normal(seed, name.as_bytes(), n),
            Self::UniformOver(fan_in) => {
                uniform(seed, &[b"prompt_encoder", name.as_bytes()], n, 1.0 / (fan_in as f32).sqrt())
            }
        };
        Ok(Tensor::from_vec(values, shape, base.device)?)
    }
}

/// Returns names, shapes and first values of the network's tensors, for virtual tokens of width `size`.
fn shapes(settings: &VirtualTokenSettings, size: usize) -> Vec<(String, Vec<usize>, First)> {
    let inner = settings.encoder_size.unwrap_or(size);
    let mut shapes = vec![("embedding.weight".to_owned(), vec![settings.n_tokens, size], First::Normal)];
    let maps: Vec<(usize, usize)> = match settings.encoder {
        EncoderKind::Mlp => vec![(size, inner), (inner, inner), (inner, size)],
        EncoderKind::Lstm => {
            for layer in 0..settings.n_encoder_layers {
                let n_in = if layer == 0 { size } else { 2 * inner };
                for end in ["", "_reverse"] {
                    let of = First::UniformOver(inner);
                    shapes.push((format!("lstm_head.weight_ih_l{layer}{end}"), vec![4 * inner, n_in], of));
                    shapes.push((format!("lstm_head.weight_hh_l{layer}{end}"), vec![4 * inner, inner], of));
                    shapes.push((format!("lstm_head.bias_ih_l{layer}{end}"), vec![4 * inner], of));
                    shapes.push((format!("lstm_head.bias_hh_l{layer}{end}"), vec![4 * inner], of));
                }
            }
            vec![(2 * inner, 2 * inner), (2 * inner, size)]
        }
    };
    for (index, (n_in, n_out)) in maps.into_iter().enumerate() {
        let of = First::UniformOver(n_in);
        shapes.push((format!("mlp_head.{}.weight", 2 * index), vec![n_out, n_in], of));
        shapes.push((format!("mlp_head.{}.bias", 2 * index), vec![n_out], of));
    }
    shapes
}
