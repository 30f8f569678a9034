//! What a model is compared with: its encoder, zero-shot, or a probe on its own tower.

use anyhow::{Result, bail};

use crate::dataset::{self, Catalog, DataRoots, Dataset, OpenRequest};
use crate::domain::{ProbeClassifier, ProbeSpec, RunId};
use crate::eval::{Opened, OpenedSubjects, ProbeRequest, Shots};

/// What the model is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparatorChoice {
    /// The encoder if one is found, else a probe if training images are found, else nothing.
    Auto,
    /// The encoder.
    ZeroShot,
    /// A probe on the model's own tower.
    Probe,
    /// Nothing.
    Nothing,
}

/// What the model is compared with, and how.
#[derive(Clone)]
pub struct ComparatorRequest<'a> {
    /// Which comparator.
    pub choice: ComparatorChoice,
    /// How a probe classifies, and from how many images it learns.
    pub probe: ProbeRequest,
    /// The flag that asks for this kind of probe, which is refused where no probe is.
    pub probe_flag: Option<&'static str>,
    /// The training split of an evaluated dataset.
    pub open_training: &'a dyn Fn(&Dataset) -> Result<Dataset>,
}

impl Default for ComparatorRequest<'_> {
    fn default() -> Self {
        Self {
            choice: ComparatorChoice::Auto,
            probe: ProbeRequest { classifier: ProbeClassifier::NearestMean, shots: vec![1, 5, 16] },
            probe_flag: None,
            open_training: &training_of_catalog,
        }
    }
}

fn training_of_catalog(evaluated: &Dataset) -> Result<Dataset> {
    let request = OpenRequest { text: &evaluated.name, ..OpenRequest::default() };
    dataset::open_training(&Catalog::embedded(), &DataRoots::default(), &request)
}

const NOTHING: &str = "without an encoder there is no retention and no comparison with what the model could see";

/// What stands beside the model.
pub(super) struct Comparator {
    /// By dataset, the shots of its probe; `None` where it has none.
    pub probes: Vec<Option<Shots>>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// What a person should know of what a model behind a server is compared with; a server shows nothing of its tower.
pub(super) fn of_served(choice: ComparatorChoice, has_encoder: bool) -> Result<Vec<String>> {
    Ok(match (choice, has_encoder) {
        (ComparatorChoice::Probe, _) => {
            bail!(
                "--comparator probe needs the model's own tower, which a server does not show; hint: --comparator \
                 zero-shot with --encoder DIR, or evaluate the checkpoint itself"
            )
        }
        (ComparatorChoice::ZeroShot, false) => bail!("--comparator zero-shot needs an encoder; hint: --encoder DIR"),
        (ComparatorChoice::Nothing, _) | (_, true) => Vec::new(),
        (ComparatorChoice::Auto, false) => vec![NOTHING.to_owned()],
    })
}

/// Decides what the model is compared with on each dataset.
///
/// # Errors
/// What was asked for by name is not at hand.
pub(super) fn choose(
    request: &ComparatorRequest<'_>,
    subjects: &OpenedSubjects,
    datasets: &[Dataset],
    sample_seed: u64,
    limit: Option<usize>,
) -> Result<Comparator> {
    let without = |warnings| Comparator { probes: vec![None; datasets.len()], warnings };
    let missing = match (request.choice, subjects.missing_encoder()) {
        (ComparatorChoice::Nothing, _) => return Ok(without(Vec::new())),
        (ComparatorChoice::Auto | ComparatorChoice::ZeroShot, _) if subjects.has_encoder() => {
            refuse_flag_of_a_probe(request)?;
            return Ok(without(Vec::new()));
        }
        (ComparatorChoice::ZeroShot, missing) => {
            bail!("{}", missing.unwrap_or("--comparator zero-shot needs an encoder"))
        }
        (ComparatorChoice::Auto, None) => {
            refuse_flag_of_a_probe(request)?;
            return Ok(without(vec![NOTHING.to_owned()]));
        }
        (ComparatorChoice::Auto, Some(missing)) => Some(missing),
        (ComparatorChoice::Probe, _) => None,
    };
    let (mut probes, mut warnings) = (Vec::with_capacity(datasets.len()), Vec::new());
    for dataset in datasets {
        let shots = (request.open_training)(dataset)
            .and_then(|training| Shots::choose(&request.probe, dataset, training, sample_seed, limit));
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
            warnings.insert(0, format!("{missing}. A probe on the model's own tower is used instead"));
        }
    }
    Ok(Comparator { probes, warnings })
}

/// Where the comparator is chosen automatically, only the checkpoint says whether there is a probe.
fn refuse_flag_of_a_probe(request: &ComparatorRequest<'_>) -> Result<()> {
    match request.probe_flag {
        Some(flag) => {
            bail!(
                "--{flag} has no effect here, because the comparator is not a probe; hint: leave it out, or \
                 --comparator probe"
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
    run: RunId,
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
