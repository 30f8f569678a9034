//! What a model is compared with: its encoder, zero-shot, or a probe on its own tower.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::options::EvalOptions;
use crate::cli::forms;
use crate::dataset::{self, Dataset};
use crate::domain::{ProbeClassifier, ProbeSpec};
use crate::eval::{EncoderChoice, OpenedSubjects, ProbeRequest, Shots};

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

    /// What stands beside a model behind a server, which shows nothing of its tower.
    pub(super) fn of_served(&self, has_encoder: bool, n_datasets: usize) -> Result<Comparator> {
        let warnings = match (self.comparator, has_encoder) {
            (ComparatorName::Probe, _) => {
                bail!(
                    "--comparator probe needs the model's own tower, which a server does not show; hint: --comparator \
                     zero-shot with --encoder DIR, or evaluate the checkpoint itself"
                )
            }
            (ComparatorName::ZeroShot, false) => bail!("--comparator zero-shot needs an encoder; hint: --encoder DIR"),
            (_, true) => Vec::new(),
            (ComparatorName::Auto, false) => vec![NOTHING.to_owned()],
        };
        Ok(Comparator { probes: vec![None; n_datasets], warnings })
    }

    fn request(&self) -> Result<ProbeRequest> {
        let mut shots = self.probe_shots.clone();
        shots.sort_unstable();
        shots.dedup();
        if shots.first().is_none_or(|&least| least == 0) {
            bail!("--probe-shots must name numbers from 1, as in 1,5,16");
        }
        let classifier = match self.probe {
            ProbeName::NearestMean => ProbeClassifier::NearestMean,
            ProbeName::Knn => ProbeClassifier::Knn,
            ProbeName::Logistic => ProbeClassifier::Logistic,
        };
        Ok(ProbeRequest { classifier, shots })
    }
}

const NOTHING: &str = "without an encoder there is no retention and no comparison with what the model could see";

/// What stands beside the model.
pub(super) struct Comparator {
    /// By dataset, the shots of its probe; `None` where it has none.
    pub(super) probes: Vec<Option<Shots>>,
    /// What a person should know.
    pub(super) warnings: Vec<String>,
}

/// Decides what the model is compared with on each dataset; `texts` are what a person typed of them.
///
/// # Errors
/// What was asked for by name is not at hand.
pub(super) fn choose(
    args: &EvalOptions,
    subjects: &OpenedSubjects,
    texts: &[String],
    datasets: &[Dataset],
    sample_seed: u64,
) -> Result<Comparator> {
    let without = |warnings| Comparator { probes: vec![None; datasets.len()], warnings };
    let request = args.comparator.request()?;
    let missing = match (args.comparator.comparator, subjects.missing_encoder()) {
        (ComparatorName::Auto | ComparatorName::ZeroShot, _) if subjects.has_encoder() => {
            refuse_flags_of_a_probe()?;
            return Ok(without(Vec::new()));
        }
        (ComparatorName::ZeroShot, missing) => {
            bail!("{}", missing.unwrap_or("--comparator zero-shot needs an encoder"))
        }
        (ComparatorName::Auto, None) => {
            refuse_flags_of_a_probe()?;
            return Ok(without(vec![NOTHING.to_owned()]));
        }
        (ComparatorName::Auto, Some(missing)) => Some(missing),
        (ComparatorName::Probe, _) => None,
    };
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let (mut probes, mut warnings) = (Vec::with_capacity(datasets.len()), Vec::new());
    for (text, dataset) in texts.iter().zip(datasets) {
        // The name says which columns are meant, and is part of what was found.
        let of_training = args.reading.request_of(text, text, args.split.as_deref(), args.labels.as_deref());
        let shots = dataset::open_training(&catalog, &roots, &of_training)
            .and_then(|training| Shots::choose(&request, dataset, training, sample_seed, args.limit));
        match shots {
            Ok(shots) => {
                warnings.extend(shots.warnings.iter().map(|warning| format!("{}: {warning}", dataset.name)));
                probes.push(Some(shots));
            }
            Err(error) if missing.is_none() => {
                return Err(error.context(format!("a probe of `{}` needs images of its training split", dataset.name)));
            }
            Err(error) => {
                warnings.push(format!("{}: no probe without training images: {}", dataset.name, first_line(&error)));
                probes.push(None);
            }
        }
    }
    if let Some(missing) = missing {
        if probes.iter().all(Option::is_none) {
            warnings = vec![format!("{NOTHING}: {missing}")];
        } else {
            warnings.insert(0, format!("{missing}. A probe on the model's own tower stands in its place"));
        }
    }
    Ok(Comparator { probes, warnings })
}

/// With `--comparator auto` only the checkpoint says whether there is a probe.
fn refuse_flags_of_a_probe() -> Result<()> {
    match ["probe", "probe-shots"].into_iter().find(|flag| forms::was_typed(flag)) {
        Some(flag) => {
            bail!(
                "--{flag} has no effect here, where the comparator is no probe; hint: leave it out, or --comparator probe"
            )
        }
        None => Ok(()),
    }
}

/// Paths that were tried follow on more lines.
fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().trim_end_matches("; tried:").to_owned()
}

/// The probe of one run, as its specification has it; `None` where no dataset has one.
pub(super) fn probe_spec(
    subjects: &OpenedSubjects,
    run: usize,
    datasets: &[Dataset],
    probes: &[Option<Shots>],
) -> Result<Option<ProbeSpec>> {
    let Some(first) = probes.iter().flatten().next() else { return Ok(None) };
    let shots = datasets.iter().zip(probes).filter_map(|(dataset, shots)| Some((dataset, shots.as_ref()?)));
    Ok(Some(ProbeSpec {
        classifier: first.classifier,
        tower: subjects.probe_tower(run)?,
        datasets: shots.map(|(dataset, shots)| (dataset.name.clone(), shots.spec.clone())).collect(),
    }))
}
