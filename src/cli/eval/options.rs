//! The flags of every command that evaluates.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::comparator::ComparatorOptions;
use crate::cli::adapter_options::AdapterOptions;
use crate::cli::data::{Places, ReadingOptions};
use crate::cli::feature_cache_options::FeatureCacheOptions;
use crate::cli::hub_options::HubOptions;
use crate::cli::judge_options::JudgeOptions;
use crate::cli::results::ChartOptions;
use crate::cli::served_options::ServedOptions;

/// What is asked of which model: the flags of every command that evaluates.
#[derive(Args, Debug)]
pub(in crate::cli) struct EvalOptions {
    /// Folder of the encoder to compare with, or its ORG/NAME[@REVISION] on the hub; `auto`: the one that the checkpoint
    /// names (a served model names none); `embedded`: the miniature's; `none`: no comparison
    #[arg(long, value_name = "DIR|ORG/NAME|auto|embedded|none", default_value = "auto")]
    pub(in crate::cli) encoder: String,
    #[command(flatten)]
    pub(in crate::cli) comparator: ComparatorOptions,
    /// Names of `emt data list`, folders, archives, tables, or NAME=PATH, separated by commas; default: what is found of mnist,
    /// cifar10, cifar100, miniimagenet; for the embedded model embedded/mnist, embedded/cifar10, embedded/cifar100
    #[arg(long, value_name = "A,B")]
    pub(in crate::cli) datasets: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) places: Places,
    /// Split to evaluate; default: the held-out one
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) split: Option<String>,
    /// Sheet with other names for the classes of one dataset (CSV with class,name,aliases; or a line a class)
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) labels: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) reading: ReadingOptions,
    /// Evaluate so many samples of each dataset, balanced over its classes; a larger limit goes on with the same run
    #[arg(long, value_name = "N")]
    pub(in crate::cli) limit: Option<usize>,
    /// Seed of the order of samples
    #[arg(long, value_name = "N")]
    pub(in crate::cli) sample_seed: Option<u64>,
    /// Refuse a folder that exists
    #[arg(long)]
    pub(in crate::cli) fresh: bool,
    /// `emt` (the paper's, with the class list), `emt-open` (without), or a file with {noun} and {labels}
    #[arg(long, value_name = "NAME|FILE", default_value = "emt")]
    pub(in crate::cli) prompt: String,
    /// The encoder's captions: each dataset's one template, or the mean over its ensemble where it has one
    #[arg(long, value_enum, default_value = "template")]
    pub(in crate::cli) captions: CaptionsName,
    /// Chat template over the checkpoint's own: a name of `emt models`, or a file: jinja, ms-swift's args.json, or
    /// LLaMA-Factory's Modelfile
    #[arg(long, value_name = "NAME|FILE")]
    pub(in crate::cli) template: Option<String>,
    /// Pixels (height x width) that an image is enlarged to at least, for families that keep its proportions (Qwen);
    /// default: 256 positions of the language model, since CIFAR's images would otherwise be 4
    #[arg(long, value_name = "N")]
    pub(in crate::cli) min_pixels: Option<u64>,
    /// Pixels that an image is reduced to at most, for the same families; default: the checkpoint's, at most 1280
    /// positions
    #[arg(long, value_name = "N")]
    pub(in crate::cli) max_pixels: Option<u64>,
    /// How the model answers: `generate` (free text), `score` (the label of the highest log-probability), or both,
    /// separated by a comma
    #[arg(long, value_name = "A,B", default_value = "generate")]
    pub(in crate::cli) modes: String,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(in crate::cli) max_new_tokens: usize,
    /// The settings of generation_config.json that change greedy answers, such as `repetition_penalty`: `checkpoint` applies
    /// them as transformers does, `ignore` leaves them out
    #[arg(long, value_enum, value_name = "WHICH", default_value = "checkpoint")]
    pub(in crate::cli) generation_config: GenerationConfigName,
    /// Images in one forward pass; default: what memory allows, at most 32. With a served model: images that the encoder
    /// sees at once, 16
    #[arg(long, value_name = "N")]
    pub(in crate::cli) batch_size: Option<usize>,
    /// cpu, cuda, cuda:1, metal; auto: the GPU that the binary was built for, else cpu. With a served model: the encoder's
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(in crate::cli) device: String,
    /// f32, bf16, f16; auto: f32 on a cpu, bf16 on a GPU. On a cpu with `+int8` behind it (`f32+int8`) the matrices of the
    /// language model's layers are rounded to 8 bits: a quarter or half of the memory, and nearly the same answers
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub(in crate::cli) dtype: String,
    /// Datasets that the model was fine-tuned on: an answer from their labels gets the code `leak`
    #[arg(long, value_name = "A,B")]
    pub(in crate::cli) tuned_on: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) adapters: AdapterOptions,
    #[command(flatten)]
    pub(in crate::cli) served: ServedOptions,
    #[command(flatten)]
    pub(in crate::cli) hub: HubOptions,
    #[command(flatten)]
    pub(in crate::cli) feature_cache: FeatureCacheOptions,
    #[command(flatten)]
    pub(in crate::cli) judging: JudgeOptions,
    #[command(flatten)]
    pub(in crate::cli) charts: ChartOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum GenerationConfigName {
    Checkpoint,
    Ignore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum CaptionsName {
    Template,
    Ensemble,
}
