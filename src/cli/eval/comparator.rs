//! What a model is compared with: its encoder, zero-shot, or a probe on its own tower.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::cli::forms;
use crate::dataset::Dataset;
use crate::domain::ProbeClassifier;
use crate::eval::{EncoderChoice, ProbeRequest};
use crate::study::{ComparatorChoice, ComparatorRequest};

/// Flags of the comparison.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Comparator")]
pub(in crate::cli) struct ComparatorOptions {
    /// What the model is compared with
    ///
    /// `zero-shot` is the encoder with its captions. `probe` is a classifier on the model's own tower that learns from a few
    /// images of the training split. `auto` takes zero-shot if an encoder is found, else a probe if training images are found,
    /// else nothing.
    #[arg(long, value_enum, default_value = "auto", hide_short_help = true)]
    comparator: ComparatorName,
    /// Classifier of a probe
    #[arg(long, value_enum, default_value = "nearest-mean", hide_short_help = true)]
    probe: ProbeName,
    /// Training images per class for a probe
    ///
    /// The largest number is the comparison; the accuracies of the others are reported beside it.
    #[arg(long, value_name = "K,K", value_delimiter = ',', default_value = "1,5,16", hide_short_help = true)]
    probe_shots: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ComparatorName {
    Auto,
    ZeroShot,
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProbeName {
    NearestMean,
    Knn,
    Logistic,
}

impl ComparatorOptions {
    /// Which encoder is opened, given what `--encoder` says.
    pub(super) fn encoder(&self, encoder: &str) -> Result<EncoderChoice> {
        match (self.comparator, encoder) {
            (ComparatorName::ZeroShot, "none") => {
                bail!("--comparator zero-shot needs an encoder, and --encoder none forbids one; hint: --encoder DIR")
            }
            (_, "none") | (ComparatorName::Probe, "auto") => Ok(EncoderChoice::None),
            (_, "auto") => Ok(EncoderChoice::Auto),
            (_, dir) => Ok(EncoderChoice::Folder(dir.into())),
        }
    }

    /// Whether an encoder, if there is one, is asked zero-shot.
    pub(super) fn may_be_zero_shot(&self) -> bool {
        self.comparator != ComparatorName::Probe
    }

    /// What is asked for; `open_training` opens the training split of an evaluated dataset.
    pub(super) fn request<'a>(
        &self,
        open_training: &'a dyn Fn(&Dataset) -> Result<Dataset>,
    ) -> Result<ComparatorRequest<'a>> {
        Ok(ComparatorRequest {
            choice: match self.comparator {
                ComparatorName::Auto => ComparatorChoice::Auto,
                ComparatorName::ZeroShot => ComparatorChoice::ZeroShot,
                ComparatorName::Probe => ComparatorChoice::Probe,
            },
            probe: self.probe_request()?,
            probe_flag: ["probe", "probe-shots"].into_iter().find(|flag| forms::was_typed(flag)),
            open_training,
        })
    }

    fn probe_request(&self) -> Result<ProbeRequest> {
        let mut shots = self.probe_shots.clone();
        shots.sort_unstable();
        shots.dedup();
        if shots.first().is_none_or(|&least| least == 0) {
            bail!("--probe-shots must be whole numbers from 1, as in 1,5,16");
        }
        let classifier = match self.probe {
            ProbeName::NearestMean => ProbeClassifier::NearestMean,
            ProbeName::Knn => ProbeClassifier::Knn,
            ProbeName::Logistic => ProbeClassifier::Logistic,
        };
        Ok(ProbeRequest { classifier, shots })
    }
}
