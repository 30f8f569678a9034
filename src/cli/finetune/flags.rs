//! Flags of `emt finetune`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use super::super::data::Places;
use super::super::feature_cache_options::FeatureCacheOptions;
use super::super::hub_options::HubOptions;
use super::super::judge_options::JudgeOptions;
use super::super::reading::ReadingOptions;
pub(super) use super::arm_flags::share_of;
use super::arm_flags::{ArmOptions, RestraintOptions};
use crate::domain::{Decay, LoraShape, Method};
use crate::finetune::{AnswerTemplate, Hyperparameters};
use crate::model::checkpoint::weights::is_embedded;
use crate::model::vision::preprocess::PixelLimits;

/// Flags of `emt finetune`.
#[derive(Args, Debug)]
pub(in crate::cli) struct FinetuneArgs {
    /// Base model: a checkpoint folder, ORG/NAME on the hub, or `embedded`
    ///
    /// ORG/NAME[@REVISION] is looked up in the hub's cache; a folder of that name wins. `embedded` is the miniature model that
    /// is part of the program.
    #[arg(long, short, value_name = "MODEL")]
    pub model: PathBuf,
    /// What is trained: linear, lora, full, prompt, p-tuning, prefix, moca or mof; several joined by +
    ///
    /// `linear` trains the projector. `lora` trains low-rank updates of the language model, and the projector. `full` trains
    /// the language model and the projector. `prompt` trains virtual tokens before every prompt, `p-tuning` a network that
    /// computes them, `prefix` virtual keys and values in all layers. `moca` trains a scale and a shift of the positions of
    /// images after each layer. `mof` adds a second tower (--second-tower) and trains a projector for it. `linear+prompt` trains
    /// both.
    #[arg(long, value_name = "METHOD")]
    pub method: Method,
    /// Datasets to train on: names of `emt data list`, folders, or NAME=FOLDER, separated by commas
    ///
    /// `text:FILE.jsonl` is a file of conversations without images, which are mixed with the images.
    #[arg(long, value_name = "A,B", help_heading = "Training data")]
    pub train: String,
    /// Folder for the adapter, its checkpoints and the forgetting curve; the same command resumes
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub places: Places,
    /// Split to train on [default: train]
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Training data")]
    pub split: Option<String>,
    /// Sheet with other names for the classes of one dataset
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Training data")]
    pub labels: Option<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingOptions,
    /// Train on at most N samples per dataset, balanced over its classes
    #[arg(long, value_name = "N", help_heading = "Training data")]
    pub limit: Option<usize>,
    /// Ratios in which the datasets are mixed, as in 0.8,0.2 [default: all samples]
    #[arg(long, value_name = "R,R", hide_short_help = true, help_heading = "Training data")]
    pub mix: Option<String>,
    /// Do not train the projector, as with --projector frozen
    #[arg(long, hide_short_help = true, help_heading = "What trains", conflicts_with = "projector")]
    pub no_projector: bool,
    #[command(flatten)]
    pub arms: ArmOptions,
    #[command(flatten)]
    pub restraints: RestraintOptions,
    /// Adapter to continue from: a folder, or ORG/NAME on the hub
    #[arg(long, value_name = "ADAPTER", hide_short_help = true)]
    pub from_adapter: Option<PathBuf>,
    /// Question: `emt`, `emt-open`, or a file with {noun} and {labels}
    #[arg(
        long,
        value_name = "NAME|FILE",
        default_value = "emt",
        hide_short_help = true,
        help_heading = "Training data"
    )]
    pub prompt: String,
    /// Answer to learn, with {label} and optionally {noun}
    #[arg(long, value_name = "TEXT", default_value = AnswerTemplate::DEFAULT, help_heading = "Training data")]
    pub answer_template: String,
    /// Chat template [default: the checkpoint's own]
    ///
    /// A name of `emt models`, or a file: jinja, ms-swift's args.json, or LLaMA-Factory's Modelfile.
    #[arg(long, value_name = "NAME|FILE", hide_short_help = true, help_heading = "Training data")]
    pub template: Option<String>,
    /// Seed of the initial values, the order of samples, and dropout
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Training")]
    pub seed: u64,
    /// Seed of the choice of samples by --limit [default: the catalog's]
    #[arg(long, value_name = "N", hide_short_help = true, help_heading = "Training data")]
    pub sample_seed: Option<u64>,
    /// Refuse to resume: fail if the folder exists
    #[arg(long, hide_short_help = true, help_heading = "Training")]
    pub fresh: bool,
    /// Device: cpu, cuda, cuda:1, metal, or auto (the GPU that the binary was built for, else cpu)
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Training")]
    pub device: String,
    #[command(flatten)]
    training: TrainingOptions,
    /// Datasets to evaluate before training and after each epoch, or `none` [default: as in `emt eval`]
    #[arg(long, value_name = "A,B|none", help_heading = "Forgetting curve")]
    pub eval_datasets: Option<String>,
    /// Held-out images per dataset in those evaluations
    #[arg(long, value_name = "N", default_value_t = 200, help_heading = "Forgetting curve")]
    pub eval_limit: usize,
    /// Encoder of those evaluations: a folder, ORG/NAME on the hub, or `none` [default: none]
    ///
    /// It is also the vision tower of a checkpoint that only names its tower.
    #[arg(long, value_name = "ENCODER", help_heading = "Forgetting curve", hide_short_help = true)]
    pub encoder: Option<String>,
    /// Most tokens per answer in those evaluations
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Forgetting curve", hide_short_help = true)]
    pub max_new_tokens: usize,
    /// Write a checkpoint every N steps as well as after each epoch
    #[arg(long, value_name = "N", hide_short_help = true, help_heading = "Training")]
    pub save_every: Option<usize>,
    /// Samples per forward and backward pass
    ///
    /// A step sums over as many passes as its batch needs. More than 1 helps a GPU.
    #[arg(long, value_name = "N", default_value_t = 1, hide_short_help = true, help_heading = "Training")]
    pub micro_batch_size: usize,
    /// Least pixels (height x width) of an image, in training and evaluations [default: 256 positions]
    ///
    /// For families that keep an image's proportions (Qwen).
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub min_pixels: Option<u64>,
    /// Most pixels of an image, in training and evaluations [default: the checkpoint's, at most 1280 positions]
    ///
    /// For families that keep an image's proportions (Qwen).
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub max_pixels: Option<u64>,
    #[command(flatten)]
    pub judging: JudgeOptions,
    #[command(flatten)]
    pub hub: HubOptions,
    #[command(flatten)]
    pub feature_cache: FeatureCacheOptions,
}

/// The numbers of a training; where a flag is left out, its method's own value.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training")]
struct TrainingOptions {
    /// Highest learning rate [default: the method's, as linear 2e-3, lora 2e-4, full 2e-5]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Samples per optimizer step [default: the method's, as linear 128, lora 32, full 32]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Passes over the training samples [default: 3]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Share of the steps in which the learning rate rises [default: 0.03]
    #[arg(long, value_name = "SHARE", hide_short_help = true)]
    warmup_ratio: Option<f64>,
    /// How the learning rate falls afterwards
    #[arg(long, value_enum, default_value = "cosine", hide_short_help = true)]
    schedule: Schedule,
    /// Decoupled weight decay [default: 0]
    #[arg(long, value_name = "RATE", hide_short_help = true)]
    weight_decay: Option<f64>,
    /// Largest norm of all gradients together; 0 is no limit [default: 1]
    #[arg(long, value_name = "NORM", hide_short_help = true)]
    max_grad_norm: Option<f64>,
    /// Rank of the updates (lora) [default: 64]
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// Updates are scaled by alpha / rank (lora) [default: 16]
    #[arg(long, value_name = "NUMBER")]
    alpha: Option<f64>,
    /// Share of an update's inputs that each step drops (lora) [default: 0.05]
    #[arg(long, value_name = "SHARE")]
    dropout: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Schedule {
    Cosine,
    Constant,
}

impl FinetuneArgs {
    /// The limits to the pixels of an image.
    pub fn pixels(&self) -> PixelLimits {
        PixelLimits { min_pixels: self.min_pixels, max_pixels: self.max_pixels }
    }

    /// Whether the projector trains.
    pub fn trains_projector(&self) -> Result<bool> {
        Ok(self.arms.trains_projector(self.method)? && !self.no_projector)
    }

    /// The flags over the method's own values.
    pub fn hyperparameters(&self) -> Result<Hyperparameters> {
        let defaults = if is_embedded(&self.model) {
            Hyperparameters::of_miniature(self.method)
        } else {
            Hyperparameters::of(self.method)
        };
        let options = &self.training;
        let lora = LoraShape {
            rank: options.rank.unwrap_or(defaults.lora.rank),
            alpha: options.alpha.unwrap_or(defaults.lora.alpha),
            dropout: options.dropout.unwrap_or(defaults.lora.dropout),
        };
        let this = Hyperparameters {
            learning_rate: options.learning_rate.unwrap_or(defaults.learning_rate),
            batch_size: options.batch_size.unwrap_or(defaults.batch_size),
            n_epochs: options.epochs.unwrap_or(defaults.n_epochs),
            warmup_ratio: options.warmup_ratio.unwrap_or(defaults.warmup_ratio),
            decay: match options.schedule {
                Schedule::Cosine => Decay::Cosine,
                Schedule::Constant => Decay::Constant,
            },
            weight_decay: options.weight_decay.unwrap_or(defaults.weight_decay),
            max_grad_norm: match options.max_grad_norm {
                Some(0.0) => None,
                Some(norm) => Some(norm),
                None => defaults.max_grad_norm,
            },
            lora,
        };
        let counts = [this.batch_size, this.n_epochs, lora.rank, self.micro_batch_size, self.eval_limit];
        ensure!(
            counts.iter().all(|&n| n > 0) && self.limit != Some(0) && self.save_every != Some(0),
            "--batch-size, --epochs, --rank, --micro-batch-size, --limit, --eval-limit and --save-every must be at least 1"
        );
        let rates = [this.learning_rate, lora.alpha];
        ensure!(
            rates.iter().all(|rate| rate.is_finite() && *rate > 0.0),
            "--learning-rate and --alpha must be above 0"
        );
        let is_share = |share: f64| (0.0..1.0).contains(&share);
        ensure!(
            is_share(this.warmup_ratio) && is_share(lora.dropout),
            "--warmup-ratio and --dropout are shares from 0 to below 1"
        );
        let limits = [this.weight_decay, this.max_grad_norm.unwrap_or(0.0)];
        ensure!(
            limits.iter().all(|limit| limit.is_finite() && *limit >= 0.0),
            "--weight-decay and --max-grad-norm must not be below 0"
        );
        Ok(this)
    }

    /// The ratios of `--mix`.
    pub fn mix(&self) -> Result<Option<Vec<f64>>> {
        let Some(text) = &self.mix else { return Ok(None) };
        let ratios: std::result::Result<Vec<f64>, _> = text.split(',').map(|part| part.trim().parse()).collect();
        match ratios {
            Ok(ratios) => Ok(Some(ratios)),
            Err(_) => {
                bail!("--mix {text} is not a list of numbers; hint: one for each dataset of --train, as in 0.8,0.2")
            }
        }
    }
}
