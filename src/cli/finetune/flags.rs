//! Flags of `emt finetune`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use super::super::data::{Places, ReadingOptions};
use super::super::feature_cache_options::FeatureCacheOptions;
use super::super::hub_options::HubOptions;
use crate::finetune::{AnswerTemplate, Decay, Hyperparameters, LoraShape, Method};
use crate::model::weights::is_embedded;

/// Flags of `emt finetune`.
#[derive(Args, Debug)]
pub(in crate::cli) struct FinetuneArgs {
    /// Checkpoint folder of the base model; `embedded`: the miniature that is a part of the program; or
    /// ORG/NAME[@REVISION] on the hub, found in its cache. A folder of that name wins
    #[arg(long, short, value_name = "DIR|ORG/NAME|embedded")]
    pub model: PathBuf,
    /// What trains: linear (the projector), lora (updates of the language model, and the projector), full (language
    /// model and projector)
    #[arg(long, value_name = "linear|lora|full")]
    pub method: Method,
    /// Datasets to train on: names of `emt data list`, folders, or NAME=FOLDER, separated by commas
    #[arg(long, value_name = "A,B")]
    pub train: String,
    /// Folder for the adapter, its checkpoints and the forgetting curve. The same command again resumes
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub places: Places,
    /// Split to train on; default: train
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Sheet with other names for the classes of one dataset
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingOptions,
    /// Train on at most so many samples of each dataset, balanced over its classes
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Ratios in which the datasets are mixed, as in 0.8,0.2; default: all samples of each
    #[arg(long, value_name = "R,R")]
    pub mix: Option<String>,
    /// lora: leave the projector as it is
    #[arg(long)]
    pub no_projector: bool,
    /// Adapter to go on from
    #[arg(long, value_name = "DIR|ORG/NAME")]
    pub from_adapter: Option<PathBuf>,
    /// The question: `emt`, `emt-open`, or a file with {noun} and {labels}
    #[arg(long, value_name = "NAME|FILE", default_value = "emt")]
    pub prompt: String,
    /// The answer to learn, with {label} and perhaps {noun}
    #[arg(long, value_name = "TEXT", default_value = AnswerTemplate::DEFAULT)]
    pub answer_template: String,
    /// Chat template over the checkpoint's own: a name of `emt models`, or a file: jinja, ms-swift's args.json, or
    /// LLaMA-Factory's Modelfile
    #[arg(long, value_name = "NAME|FILE")]
    pub template: Option<String>,
    /// Of initial values, the order of samples and dropout
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Seed of the choice of samples by --limit
    #[arg(long, value_name = "N")]
    pub sample_seed: Option<u64>,
    /// Refuse a folder that exists
    #[arg(long)]
    pub fresh: bool,
    /// cpu, cuda, cuda:1, metal; auto: the GPU that the binary was built for, else cpu
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    #[command(flatten)]
    training: TrainingOptions,
    /// Datasets to evaluate before training and after each epoch, on held-out images; `none`; default: as in `emt eval`
    #[arg(long, value_name = "A,B|none", help_heading = "Forgetting curve")]
    pub eval_datasets: Option<String>,
    /// Images of each dataset in those evaluations
    #[arg(long, value_name = "N", default_value_t = 200, help_heading = "Forgetting curve")]
    pub eval_limit: usize,
    /// Encoder of those evaluations: a folder, ORG/NAME[@REVISION] on the hub, or none; also the tower of a checkpoint that
    /// only names it
    #[arg(long, value_name = "DIR|ORG/NAME|none", help_heading = "Forgetting curve")]
    pub encoder: Option<String>,
    /// Tokens of an answer at most in those evaluations
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Forgetting curve")]
    pub max_new_tokens: usize,
    /// Write a checkpoint after so many steps, beside those after each epoch
    #[arg(long, value_name = "N")]
    pub save_every: Option<usize>,
    /// Samples in one forward and backward pass; a step sums over as many as its batch needs. More than 1 helps a GPU
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub micro_batch_size: usize,
    #[command(flatten)]
    pub hub: HubOptions,
    #[command(flatten)]
    pub feature_cache: FeatureCacheOptions,
}

/// The numbers of a training; where a flag is left out, its method's own value.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training")]
struct TrainingOptions {
    /// Highest learning rate; default: linear 2e-3, lora 2e-4, full 2e-5
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Samples of one optimizer step; default: linear 128, lora and full 32
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Passes over the training samples; default: 3
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Share of the steps in which the rate rises; default: 0.03
    #[arg(long, value_name = "SHARE")]
    warmup_ratio: Option<f64>,
    /// How the rate falls afterwards
    #[arg(long, value_enum, default_value = "cosine")]
    schedule: Schedule,
    /// Decoupled weight decay; default: 0
    #[arg(long, value_name = "RATE")]
    weight_decay: Option<f64>,
    /// Largest norm of all gradients together, 0 for no limit; default: 1
    #[arg(long, value_name = "NORM")]
    max_grad_norm: Option<f64>,
    /// lora: rank of the updates; default: 64
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// lora: updates are scaled by alpha / rank; default: 16
    #[arg(long, value_name = "NUMBER")]
    alpha: Option<f64>,
    /// lora: share of an update's inputs that each step drops; default: 0.05
    #[arg(long, value_name = "SHARE")]
    dropout: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Schedule {
    Cosine,
    Constant,
}

/// As flags and files have it.
pub(super) fn decay_name(decay: Decay) -> &'static str {
    match decay {
        Decay::Cosine => "cosine",
        Decay::Constant => "constant",
    }
}

impl FinetuneArgs {
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
            Err(_) => bail!("--mix {text} is no list of numbers; hint: one for each of --train, as in 0.8,0.2"),
        }
    }
}
