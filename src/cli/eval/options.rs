//! The flags of every command that evaluates.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::comparator::ComparatorOptions;
use crate::cli::adapter_options::AdapterOptions;
use crate::cli::data::Places;
use crate::cli::feature_cache_options::FeatureCacheOptions;
use crate::cli::hub_options::HubOptions;
use crate::cli::judge_options::JudgeOptions;
use crate::cli::reading::ReadingOptions;
use crate::cli::results::ChartOptions;
use crate::cli::sample_options::SampleOptions;
use crate::cli::served_options::ServedOptions;
use crate::domain::ImageAttention;

/// What is asked of which model: the flags of every command that evaluates.
#[derive(Args, Debug)]
pub(in crate::cli) struct EvalOptions {
    /// Encoder to compare with: a folder, ORG/NAME on the hub, `auto`, `embedded` or `none`
    ///
    /// `auto` takes the encoder that the checkpoint names; a served model names none. `embedded` is the miniature's encoder.
    /// `none` turns the comparison off.
    #[arg(long, value_name = "ENCODER", default_value = "auto", help_heading = "Comparator")]
    pub(in crate::cli) encoder: String,
    #[command(flatten)]
    pub(in crate::cli) comparator: ComparatorOptions,
    /// Datasets: names of `emt data list`, folders, tables, or NAME=PATH [default: those found of four]
    ///
    /// Several are separated by commas. Archives, Parquet files, folders of `save_to_disk` and ORG/NAME on the hub are read as
    /// well. The default is mnist, cifar10, cifar100 and miniimagenet, as far as they are found; for `--model embedded` it is
    /// embedded/mnist, embedded/cifar10 and embedded/cifar100.
    #[arg(long, value_name = "A,B", help_heading = "Data")]
    pub(in crate::cli) datasets: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) places: Places,
    /// Split to evaluate [default: the held-out split]
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Data")]
    pub(in crate::cli) split: Option<String>,
    /// Sheet with other names for the classes of one dataset
    ///
    /// The sheet is a CSV file with the columns class, name and aliases, or a text file with one line per class.
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Data")]
    pub(in crate::cli) labels: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) reading: ReadingOptions,
    /// Evaluate at most N samples per dataset, balanced over its classes
    ///
    /// The same command with a larger limit continues the run.
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub(in crate::cli) limit: Option<usize>,
    #[command(flatten)]
    pub(in crate::cli) samples: SampleOptions,
    /// Seed of the order of samples [default: the catalog's]
    #[arg(long, value_name = "N", hide_short_help = true, help_heading = "Data")]
    pub(in crate::cli) sample_seed: Option<u64>,
    /// Refuse to resume: fail if the folder exists
    #[arg(long, hide_short_help = true, help_heading = "Data")]
    pub(in crate::cli) fresh: bool,
    /// Question: `emt` (the paper's, with the class list), `emt-open` (without), or a file
    ///
    /// A file is a template with {noun} and {labels}.
    #[arg(long, value_name = "NAME|FILE", default_value = "emt", help_heading = "Questions")]
    pub(in crate::cli) prompt: String,
    /// What positions of images attend to: `full`, or `self` (themselves only, as in EE-MLLM)
    ///
    /// `self:A-B` is `self` in the language model's layers A to B, counted from 0.
    #[arg(long, value_name = "full|self", default_value = "full", value_parser = visual_attention, hide_short_help = true, help_heading = "Questions")]
    pub(in crate::cli) visual_attention: ImageAttention,
    /// Captions for the encoder: one template per dataset, or the mean over its ensemble of templates
    #[arg(long, value_enum, default_value = "template", hide_short_help = true, help_heading = "Comparator")]
    pub(in crate::cli) captions: CaptionsName,
    /// Chat template [default: the checkpoint's own]
    ///
    /// A name of `emt models`, or a file: jinja, ms-swift's args.json, or LLaMA-Factory's Modelfile.
    #[arg(long, value_name = "NAME|FILE", hide_short_help = true, help_heading = "Questions")]
    pub(in crate::cli) template: Option<String>,
    /// Least pixels (height x width) of an image; smaller ones are enlarged [default: 256 positions]
    ///
    /// For families that keep an image's proportions (Qwen). Without enlargement an image of CIFAR would take 4 positions of the
    /// language model.
    #[arg(long, value_name = "N", hide_short_help = true, help_heading = "Questions")]
    pub(in crate::cli) min_pixels: Option<u64>,
    /// Most pixels of an image; larger ones are reduced [default: the checkpoint's, at most 1280 positions]
    ///
    /// For families that keep an image's proportions (Qwen).
    #[arg(long, value_name = "N", hide_short_help = true, help_heading = "Questions")]
    pub(in crate::cli) max_pixels: Option<u64>,
    /// How the model answers: `generate` (free text), `score` (likeliest label), or both
    ///
    /// `score` chooses the label of the highest log-probability. Both are written `generate,score`.
    #[arg(long, value_name = "A,B", default_value = "generate", help_heading = "Questions")]
    pub(in crate::cli) modes: String,
    /// Most tokens per answer
    #[arg(long, value_name = "N", default_value_t = 32, hide_short_help = true, help_heading = "Questions")]
    pub(in crate::cli) max_new_tokens: usize,
    /// Which settings of generation_config.json apply
    ///
    /// `checkpoint` applies those that change greedy answers, such as `repetition_penalty`, as transformers does; `ignore`
    /// leaves them out.
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        default_value = "checkpoint",
        hide_short_help = true,
        help_heading = "Questions"
    )]
    pub(in crate::cli) generation_config: GenerationConfigName,
    /// Images per forward pass [default: as many as memory allows, at most 32]
    ///
    /// With a served model it is the number of images per pass of the encoder [default: 16].
    #[arg(long, value_name = "N", help_heading = "Computing")]
    pub(in crate::cli) batch_size: Option<usize>,
    /// Device: cpu, cuda, cuda:1, metal, or auto (the GPU that the binary was built for, else cpu)
    ///
    /// With a served model it is the encoder's device.
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Computing")]
    pub(in crate::cli) device: String,
    /// Numbers: f32, bf16, f16, or auto (f32 on a cpu, bf16 on a GPU)
    ///
    /// On a cpu, `+int8` (as in `f32+int8`) rounds the matrices of the language model's layers to 8 bits. This takes a quarter
    /// or half of the memory, and answers stay nearly the same.
    #[arg(long, value_name = "TYPE", default_value = "auto", help_heading = "Computing")]
    pub(in crate::cli) dtype: String,
    /// Datasets that the model was fine-tuned on, whose labels are leaks [default: as the adapter says]
    ///
    /// Answers with their labels get the code `leak`. RUN:DATASET is for one run alone, by the name of its adapter or served model.
    #[arg(long, value_name = "A,B", help_heading = "Questions")]
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

/// Reads `full`, `self`, or `self:A-B`: the layers from A to B, both included.
fn visual_attention(text: &str) -> Result<ImageAttention, String> {
    let layers = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        (first <= last).then_some([first, last + 1])
    };
    match text.split_once(':') {
        None if text == "full" => Ok(ImageAttention::Full),
        None if text == "self" => Ok(ImageAttention::SelfOnly(None)),
        Some(("self", range)) if let Some(layers) = layers(range) => Ok(ImageAttention::SelfOnly(Some(layers))),
        _ => Err("it is `full`, `self`, or `self:A-B` for layers A to B, counted from 0".to_owned()),
    }
}

#[cfg(test)]
mod tests;
