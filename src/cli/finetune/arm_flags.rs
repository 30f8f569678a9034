//! Flags of `emt finetune` about what trains, and about what holds it back from forgetting.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::domain::{Arm, ArmSettings, EncoderKind, Method, Mixing, Targets, VirtualTokenSettings, VirtualTokenStart};
use crate::study::OLD_ANSWER;

/// What the arms train.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What trains")]
pub(in crate::cli) struct ArmOptions {
    /// Maps that `lora` updates: all, attention, gate-up, or a regular expression [default: all]
    ///
    /// An expression is searched in names like `language_model.layers.0.self_attn.q_proj`.
    #[arg(long, value_name = "all|attention|gate-up|REGEX", hide_short_help = true)]
    lora_targets: Option<String>,
    /// Maps that `full` trains: all, attention, gate-up, or a regular expression [default: all]
    ///
    /// Embeddings, norms and head train only with `all`.
    #[arg(long, value_name = "all|attention|gate-up|REGEX", hide_short_help = true)]
    full_targets: Option<String>,
    /// Train nothing in the lowest N layers of the language model [default: 0]
    ///
    /// With N above 0, embeddings, the last norm and the head do not train either.
    #[arg(long, value_name = "N", hide_short_help = true)]
    freeze_layers: Option<usize>,
    /// Whether the projector trains [default: train with linear, lora and full; else frozen]
    #[arg(long, value_enum, value_name = "train|frozen", hide_short_help = true)]
    pub projector: Option<ProjectorChoice>,
    /// Virtual tokens before every prompt (prompt, p-tuning, prefix) [default: 20]
    #[arg(long, value_name = "N", hide_short_help = true)]
    virtual_tokens: Option<usize>,
    /// From what virtual tokens start: random, vocabulary, or text:TEXT (prompt) [default: a text]
    #[arg(long, value_name = "random|vocabulary|text:TEXT", hide_short_help = true)]
    virtual_token_start: Option<String>,
    /// The network of p-tuning: mlp or lstm [default: mlp]
    #[arg(long, value_enum, value_name = "mlp|lstm", hide_short_help = true)]
    prompt_encoder: Option<EncoderName>,
    /// Width inside the network of p-tuning [default: the language model's]
    #[arg(long, value_name = "N", hide_short_help = true)]
    prompt_encoder_size: Option<usize>,
    /// Layers of the LSTM of p-tuning [default: 2]
    #[arg(long, value_name = "N", hide_short_help = true)]
    prompt_encoder_layers: Option<usize>,
    /// DINOv2 whose features are mixed with the tower's (mof): a folder, or ORG/NAME on the hub
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    second_tower: Option<PathBuf>,
    /// How the features are mixed (mof): interleaved, or additive:SHARE of the second tower [default: interleaved]
    #[arg(long, value_name = "interleaved|additive:SHARE", hide_short_help = true)]
    mixing: Option<Mixing>,
}

/// Whether the projector trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ProjectorChoice {
    Train,
    Frozen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EncoderName {
    Mlp,
    Lstm,
}

impl ArmOptions {
    /// What the arms of `method` train.
    pub fn settings(&self, method: Method) -> Result<ArmSettings> {
        let targets = |text: &Option<String>| text.clone().map(Targets::from).unwrap_or_default();
        let virtual_tokens = match method.prompt_learning() {
            Some(_) => Some(self.virtual_tokens()?),
            None => None,
        };
        Ok(ArmSettings {
            lora_targets: targets(&self.lora_targets),
            full_targets: targets(&self.full_targets),
            n_frozen_layers: self.freeze_layers.unwrap_or(0),
            virtual_tokens,
            mixture: None,
        })
    }

    /// The second tower, and how its features are mixed.
    pub fn second_tower(&self) -> Result<Option<(&Path, Mixing)>> {
        ensure!(
            self.second_tower.is_some() || self.mixing.is_none(),
            "--mixing says how the features of --second-tower are mixed, and none is given; hint: --second-tower DIR"
        );
        Ok(self.second_tower.as_deref().map(|dir| (dir, self.mixing.unwrap_or(Mixing::Interleaved))))
    }

    fn virtual_tokens(&self) -> Result<VirtualTokenSettings> {
        let defaults = VirtualTokenSettings::default();
        let settings = VirtualTokenSettings {
            n_tokens: self.virtual_tokens.unwrap_or(defaults.n_tokens),
            start: match self.virtual_token_start.as_deref() {
                None => defaults.start,
                Some("random") => VirtualTokenStart::Random,
                Some("vocabulary") => VirtualTokenStart::Vocabulary,
                Some(text) => VirtualTokenStart::Text(
                    text.strip_prefix("text:")
                        .with_context(|| {
                            format!("--virtual-token-start {text}; hint: random, vocabulary, or text:TEXT")
                        })?
                        .to_owned(),
                ),
            },
            encoder: match self.prompt_encoder {
                None => defaults.encoder,
                Some(EncoderName::Mlp) => EncoderKind::Mlp,
                Some(EncoderName::Lstm) => EncoderKind::Lstm,
            },
            encoder_size: self.prompt_encoder_size,
            n_encoder_layers: self.prompt_encoder_layers.unwrap_or(defaults.n_encoder_layers),
        };
        let counts = [settings.n_tokens, settings.n_encoder_layers, settings.encoder_size.unwrap_or(1)];
        ensure!(
            counts.iter().all(|&n| n > 0),
            "--virtual-tokens, --prompt-encoder-size and --prompt-encoder-layers must be at least 1"
        );
        Ok(settings)
    }

    /// Whether the projector trains with `method`.
    pub fn trains_projector(&self, method: Method) -> Result<bool> {
        let trains = match self.projector {
            None => method.trains_projector() || matches!(self.mixing, Some(Mixing::Additive(_))),
            Some(choice) => choice == ProjectorChoice::Train,
        };
        ensure!(
            trains || !method.has(Arm::Linear),
            "`linear` trains the projector, and --projector frozen leaves it; hint: leave one of them out"
        );
        Ok(trains)
    }
}

/// What holds a training back from forgetting.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Against forgetting")]
pub(in crate::cli) struct RestraintOptions {
    /// Mix an earlier task into each batch, as in mnist:0.25; may be repeated
    #[arg(long, value_name = "DATASET:SHARE")]
    pub replay: Vec<String>,
    /// Weight of the mean loss on earlier tasks [default: one mean over all tokens]
    #[arg(long, value_name = "W", hide_short_help = true)]
    pub replay_weight: Option<f64>,
    /// Answer to earlier tasks (--replay, --ewc), with {label}
    #[arg(long, value_name = "TEXT", default_value = OLD_ANSWER, hide_short_help = true)]
    pub old_answer_template: String,
    /// Hold answers to the base's: W times their divergence on what is learnt
    #[arg(long, value_name = "W")]
    pub keep_base: Option<f64>,
    /// Hold weights to the base's where earlier tasks need them (elastic weight consolidation)
    #[arg(long, value_name = "W", hide_short_help = true)]
    pub ewc: Option<f64>,
    /// Datasets on which --ewc measures what earlier tasks need [default: those of --replay]
    #[arg(long, value_name = "A,B", hide_short_help = true)]
    pub ewc_datasets: Option<String>,
    /// Images per dataset of --ewc-datasets
    #[arg(long, value_name = "N", default_value_t = 200, hide_short_help = true)]
    pub ewc_limit: usize,
    /// Hold weights to the base's: W/2 times their squared distance (L2-SP)
    #[arg(long, value_name = "W", hide_short_help = true)]
    pub l2_sp: Option<f64>,
}

impl RestraintOptions {
    /// Refuses weights that make no sense.
    pub fn check(&self) -> Result<()> {
        for (flag, weight) in [
            ("--keep-base", self.keep_base),
            ("--ewc", self.ewc),
            ("--l2-sp", self.l2_sp),
            ("--replay-weight", self.replay_weight),
        ] {
            ensure!(weight.is_none_or(|w| w.is_finite() && w > 0.0), "{flag} takes a weight above 0");
        }
        ensure!(self.ewc_limit > 0, "--ewc-limit must be at least 1");
        ensure!(
            self.ewc.is_none() || self.ewc_datasets.is_some() || !self.replay.is_empty(),
            "--ewc measures how much each weight matters for earlier tasks, and none is named; hint: --ewc-datasets A,B"
        );
        ensure!(
            self.ewc.is_some() || self.ewc_datasets.is_none(),
            "--ewc-datasets is for --ewc, which is not given; hint: --ewc W"
        );
        Ok(())
    }
}

/// Parts `DATASET:SHARE` at the last colon.
pub(super) fn share_of(text: &str) -> Result<(&str, f64)> {
    let parted = text.rsplit_once(':').and_then(|(name, share)| Some((name, share.parse::<f64>().ok()?)));
    let (name, share) = parted
        .filter(|(name, _)| !name.is_empty())
        .with_context(|| format!("--replay {text}; hint: a dataset and its share of each batch, as in mnist:0.25"))?;
    ensure!(share > 0.0 && share < 1.0, "--replay {text}: the share must be above 0 and below 1");
    Ok((name, share))
}

#[cfg(test)]
mod tests;
