//! A recovery: a candidate that forgot is weakened, and the strength at which it keeps both is confirmed by the gate.
//!
//! The images are split into two halves. On the selection half all points are evaluated in lock-step, and one is chosen. On the
//! confirmation half, which the choice has never seen, only the base and that point are evaluated, and the gate decides.

mod choose;
mod guilty;
mod halves;
mod measure;
mod points;
mod recovery;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

pub use self::choose::{ChosenBy, Evidence, choose, is_within_margin};
pub use self::guilty::guilty_components;
pub use self::halves::{CONFIRMATION_FILE, Half, SELECTION_FILE, halves};
use self::measure::Tasks;
pub use self::points::{PlannedPoint, RecoveryMethod, Weakened, parse_strengths, plan_points};
pub use self::recovery::{
    Accuracies, Chosen, ConfirmationHalf, DatasetAccuracy, MeanAccuracy, Point, RECOVERY_SCHEMA, Recovery,
    SelectionHalf,
};
use super::tuned_on::Part;
use super::{Decide, Decided, DecisionRules, EvaluatedRun, Evaluation, RecordedRun};
use crate::domain::{Component, Share};
use crate::eval::{AdapterRequest, OpenedSubjects, SubjectsRequest};
use crate::gate::{self, Decision, Verdict};
use crate::model::Placement;
use crate::model::checkpoint::weights::{Adapter, Miniature, Role, Weakening, WriteFile};
use crate::model::families;
use crate::model::run::memory;
use crate::record;

/// Points that are evaluated in lock-step, at most. The rest are evaluated after them.
const N_IN_LOCK_STEP: usize = 48;

/// The share of the free memory that points in lock-step may take.
const MEMORY_SHARE: f64 = 0.5;

/// The folder of a confirmed adapter.
pub const ADAPTER_DIR: &str = "adapter";
/// The folder of a confirmed checkpoint.
pub const MODEL_DIR: &str = "model";

/// What is tried.
#[derive(Clone, Debug)]
pub struct Trials {
    /// The methods; `None` is those that fit the candidate.
    pub methods: Option<Vec<RecoveryMethod>>,
    /// The strengths.
    pub strengths: Vec<Share>,
    /// The components that a diagnosis finds guilty.
    pub guilty: Vec<Component>,
    /// Points that are evaluated in lock-step, at most; `None` is as many as memory allows.
    pub lock_step: Option<usize>,
}

/// What a recovery evaluates.
#[derive(Clone, Debug)]
pub struct RecoveryPlan {
    points: Vec<PlannedPoint>,
    /// By point, its run among all: 0 is the base.
    run_of: Vec<usize>,
    adapters: Vec<AdapterRequest>,
    n_in_lock_step: usize,
    is_whole: bool,
    model: String,
    name: String,
    new: Vec<String>,
    old: Vec<String>,
}

/// What the selection half shows.
#[derive(Clone, Debug)]
pub struct FoundFrontier {
    baseline: Accuracies,
    points: Vec<Point>,
    chosen: Option<(usize, ChosenBy)>,
}

impl RecoveryPlan {
    /// Opens the base and its one adapter, and plans the points. No weights are loaded. `new` and `old` are the names of the datasets.
    ///
    /// # Errors
    /// There is not exactly one adapter, it cannot be weakened, a method does not fit it, or a dataset is both new and old.
    pub fn new(
        request: &SubjectsRequest<'_>,
        trials: &Trials,
        [new, old]: [Vec<String>; 2],
        placement: &Placement,
    ) -> Result<Self> {
        let [adapter] = request.adapters else {
            bail!("a recovery is of one adapter, but {} are given", request.adapters.len())
        };
        ensure!(
            !new.is_empty() && !old.is_empty(),
            "a recovery needs a new dataset and an old one; hint: --new A --old B"
        );
        if let Some(both) = new.iter().find(|name| old.contains(name)) {
            bail!("`{both}` is both new and old; hint: --old names what must not be forgotten, --new what was learned");
        }
        let opened = OpenedSubjects::open(request)?;
        let (changes, _, differences) = opened.candidate().context("the adapter was opened")?;
        let name = adapter.name.clone().unwrap_or_else(|| changes.name());
        ensure!(
            changes.touched().next().is_some(),
            "`{name}` changes no weight of the model, so it has no strength; hint: a soft prompt cannot be weakened, `emt sweep` \
             finds another arm"
        );
        ensure!(
            !changes.has_magnitudes(),
            "`{name}` has magnitudes (DoRA), so a smaller strength is not between base and candidate; hint: merge it, and give the \
             merged checkpoint as --adapter"
        );
        ensure!(
            !changes.has_virtual_tokens(),
            "`{name}` puts virtual tokens before prompts, which have no value in the base and so no strength; hint: `emt gate` \
             decides about it as it is"
        );
        let changed = changes.touched().filter_map(Component::of).collect();
        let candidate = Weakened { is_whole: changes.is_whole(), changed };
        let methods = trials.methods.clone().unwrap_or_else(|| RecoveryMethod::defaults(candidate.is_whole));
        let points = plan_points(&candidate, &methods, &trials.strengths, &trials.guilty)?;
        let mut adapters = Vec::new();
        let mut run_of = Vec::with_capacity(points.len());
        for point in &points {
            // With settings of its own, the base's weights are not the base.
            if point.is_base() && differences.is_empty() {
                run_of.push(0);
                continue;
            }
            adapters.push(AdapterRequest {
                name: Some(point.name()),
                path: adapter.path.clone(),
                part: point.part.clone(),
            });
            run_of.push(adapters.len());
        }
        let is_whole = candidate.is_whole;
        let n_in_lock_step = trials.lock_step.unwrap_or_else(|| n_that_fit(changes, placement)).max(1);
        let model = request.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Self { points, run_of, adapters, n_in_lock_step, is_whole, model, name, new, old })
    }

    /// The adapters to evaluate over the base, in groups that are evaluated one after the other, each in lock-step with the base.
    pub fn groups(&self) -> impl Iterator<Item = &[AdapterRequest]> {
        let n_groups = self.adapters.len().div_ceil(self.n_in_lock_step).max(1);
        self.adapters.chunks(self.adapters.len().div_ceil(n_groups).max(1))
    }

    /// What the recovery costs, in one sentence.
    pub fn cost(&self, halves: &[Half; 2]) -> String {
        let n = self.adapters.len() + 1;
        let [selection, confirmation] = halves;
        let n_at_once = self.groups().map(<[AdapterRequest]>::len).max().unwrap_or(0) + 1;
        let how = if n_at_once < n { format!("{n_at_once} at once") } else { "in lock-step".to_owned() };
        format!(
            "{n} models ({how}) on {} images to choose a strength; then 2 on {} others to confirm it",
            selection.samples.n_samples(),
            confirmation.samples.n_samples()
        )
    }

    /// The old datasets on which no point can pass, with the reason: the confirmation half has too few of their images.
    pub fn hopeless(&self, rules: &DecisionRules, confirmation: &Half) -> Vec<String> {
        let told = |name: &String| {
            let (policy, n) = (rules.policy.of(name), confirmation.samples.n_of(name));
            let can_pass = n >= policy.min_pairs && gate::reachable(n, policy.margin, policy.level());
            (!policy.ignore && !can_pass).then(|| {
                format!(
                    "{name}: the {n} images of the confirmation half are too few to pass, even if no answer changes (min_pairs {}, \
                     margin {}); hint: a larger --limit",
                    policy.min_pairs, policy.margin
                )
            })
        };
        self.old.iter().filter_map(told).collect()
    }

    fn tasks(&self) -> Tasks<'_> {
        Tasks { new: &self.new, old: &self.old }
    }

    /// Measures all points on the selection half, and chooses one. The runs of `evaluation` are the base and then the adapters of all
    /// groups.
    ///
    /// # Errors
    /// A run is missing, or the gate cannot decide on it.
    pub fn find(&self, evaluation: &Evaluation, rules: &DecisionRules, selection: &Half) -> Result<FoundFrontier> {
        let runs = &evaluation.runs;
        let n_planned = 1 + self.adapters.len();
        ensure!(runs.len() == n_planned, "{n_planned} models were planned, and {} answered", runs.len());
        let baseline = self.tasks().accuracies(&runs[0], &selection.samples);
        let (mut points, mut evidence, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (planned, &run)) in self.points.iter().zip(&self.run_of).enumerate() {
            let accuracies = self.tasks().accuracies(&runs[run], &selection.samples);
            let decision = match planned.is_base() {
                true => None,
                false => Some(self.decide([&runs[0].dir, &runs[run].dir], rules, selection)?),
            };
            if let Some(decision) = &decision {
                evidence.push(evidence_of(&baseline, &accuracies, decision));
                places.push(place);
            }
            points.push(Point {
                method: planned.method.name().to_owned(),
                strength: planned.strength.value(),
                component: planned.component(),
                accuracies,
                selection_decision: decision.as_ref().map(|decision| decision.decision),
                is_within_margin: decision.as_ref().map(is_within_margin),
                run: record::run_name(&runs[run].dir),
            });
        }
        let chosen = choose(&evidence).map(|(at, by)| (places[at], by));
        Ok(FoundFrontier { baseline, points, chosen })
    }

    /// The chosen point as an adapter over the base; `None` if none was chosen.
    pub fn chosen(&self, found: &FoundFrontier) -> Option<&AdapterRequest> {
        let (point, _) = found.chosen?;
        self.adapters.get(self.run_of[point].checked_sub(1)?)
    }

    /// What the gate says of a finished run against the base's, on one half. The candidate was fine-tuned on the new datasets.
    fn decide(&self, runs: [&Path; 2], rules: &DecisionRules, half: &Half) -> Result<Decision> {
        let [baseline, candidate] = runs;
        let request = Decide {
            runs: [RecordedRun::open(baseline)?, RecordedRun::open(candidate)?],
            rules: rules.clone(),
            datasets: None,
            samples: Some(half.names.clone()),
            tuned_on: self.new.iter().map(|name| Part { run: None, dataset: name }).collect(),
        };
        let Decided { mut decision, hopeless, .. } = request.run()?;
        decision.warnings.extend(hopeless);
        Ok(decision)
    }

    /// Lets the gate decide about the chosen point on the confirmation half. The runs of `evaluation` are the base and the chosen point.
    /// Without an evaluation no point was chosen.
    ///
    /// # Errors
    /// The gate cannot decide.
    pub fn conclude(
        &self,
        found: FoundFrontier,
        evaluation: Option<&Evaluation>,
        rules: &DecisionRules,
        halves: &[Half; 2],
    ) -> Result<(Recovery, Option<Decision>)> {
        let [selection, confirmation] = halves;
        let n_samples = confirmation.samples.n_samples();
        let mut recovery = Recovery {
            schema: RECOVERY_SCHEMA.to_owned(),
            model: self.model.clone(),
            adapter: self.name.clone(),
            new: self.new.clone(),
            old: self.old.clone(),
            baseline: found.baseline,
            points: found.points,
            selection: SelectionHalf { n_samples: selection.samples.n_samples() },
            confirmation: ConfirmationHalf {
                n_samples,
                baseline: None,
                chosen: None,
                is_new_within_interval: None,
                is_old_within_interval: None,
            },
            chosen: None,
            decision: Verdict::Fail,
            message: String::new(),
        };
        let Some(((place, by), evaluation)) = found.chosen.zip(evaluation) else {
            recovery.message = nothing_chosen(&recovery);
            return Ok((recovery, None));
        };
        let [base, candidate] = &evaluation.runs[..] else { bail!("the base and one point are confirmed") };
        let decision = self.decide([&base.dir, &candidate.dir], rules, confirmation)?;
        recovery.confirmation = self.confirmed(&recovery.points[place], [base, candidate], confirmation);
        recovery.decision = decision.decision;
        let point = &recovery.points[place];
        let passed = decision.decision == Verdict::Pass;
        recovery.chosen = Some(Chosen {
            method: point.method.clone(),
            strength: point.strength,
            component: point.component.clone(),
            by: by.name().to_owned(),
            gain: gain(&recovery.baseline, &point.accuracies),
            written: passed.then(|| self.written_dir().to_owned()),
        });
        recovery.message = told(&recovery, point);
        Ok((recovery, Some(decision)))
    }

    fn confirmed(&self, point: &Point, runs: [&EvaluatedRun; 2], half: &Half) -> ConfirmationHalf {
        let [baseline, chosen] = runs.map(|run| self.tasks().accuracies(run, &half.samples));
        let is_within = |shown: MeanAccuracy, found: MeanAccuracy| {
            let (interval, accuracy) = shown.interval.zip(found.accuracy)?;
            Some((interval[0]..=interval[1]).contains(&accuracy))
        };
        ConfirmationHalf {
            n_samples: half.samples.n_samples(),
            is_new_within_interval: is_within(point.accuracies.new, chosen.new),
            is_old_within_interval: is_within(point.accuracies.old, chosen.old),
            baseline: Some(baseline),
            chosen: Some(chosen),
        }
    }

    /// The folder for the weights of a confirmed point.
    pub fn written_dir(&self) -> &'static str {
        if self.is_whole { MODEL_DIR } else { ADAPTER_DIR }
    }

    /// Writes the weights of the chosen point, file by file. `request` is that of [`Self::new`].
    ///
    /// # Errors
    /// No point was chosen, or a file cannot be read or written.
    pub fn write(&self, request: &SubjectsRequest<'_>, chosen: &AdapterRequest, write: WriteFile<'_>) -> Result<()> {
        let opened = OpenedSubjects::open(request)?;
        let (changes, base, _) = opened.candidate().context("the adapter was opened")?;
        let checkpoint = request.hub.find(request.model, Role::Model)?.open(Miniature::Model)?;
        let canonical = families::family_of(&checkpoint)?.canonical;
        let (n_layers, _) = opened.n_layers_and_image_positions();
        let by = Weakening { part: &chosen.part, n_layers, base };
        let recovered = json!({
            "of": self.name,
            "part": chosen.part,
            "new": self.new,
            "old": self.old,
        });
        changes.write_weakened(&by, canonical, &recovered, write)
    }
}

impl FoundFrontier {
    /// The points, on the selection half.
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}

/// Points of `changes` that fit into memory at once. On a GPU nothing is known of it: low-rank updates are small, whole checkpoints
/// go one by one.
fn n_that_fit(changes: &Adapter, placement: &Placement) -> usize {
    let free = if placement.device.is_cpu() { memory::free_bytes() } else { None };
    let n_bytes = (changes.n_parameters() * placement.dtype.size_in_bytes()).max(1);
    match free {
        Some(free) => ((free as f64 * MEMORY_SHARE / n_bytes as f64) as usize).clamp(1, N_IN_LOCK_STEP),
        None if changes.is_whole() => 1,
        None => N_IN_LOCK_STEP,
    }
}

/// What the selection half says of a point.
fn evidence_of(baseline: &Accuracies, accuracies: &Accuracies, decision: &Decision) -> Evidence {
    let fall = baseline.old.accuracy.zip(accuracies.old.accuracy).map(|(before, after)| before - after);
    Evidence {
        gain: gain(baseline, accuracies),
        fall,
        verdict: decision.decision,
        is_within_margin: is_within_margin(decision),
    }
}

/// The mean accuracy over the new datasets minus the base's.
fn gain(baseline: &Accuracies, accuracies: &Accuracies) -> Option<f64> {
    Some(accuracies.new.accuracy? - baseline.new.accuracy?)
}

fn nothing_chosen(recovery: &Recovery) -> String {
    let is_kept = |point: &&Point| point.is_within_margin == Some(true);
    let n_kept = recovery.points.iter().filter(is_kept).count();
    match n_kept {
        0 => format!(
            "No strength passes: at each of them an old dataset fell by more than its margin on the {} images of the selection \
             half.",
            recovery.selection.n_samples
        ),
        _ => format!(
            "No strength passes: where no old dataset fell by more than its margin ({n_kept} of {} points), the gate fails for \
             another reason, such as a fall on {} itself.",
            recovery.points.len(),
            recovery.new.join(", ")
        ),
    }
}

fn told(recovery: &Recovery, point: &Point) -> String {
    let without =
        point.component.as_ref().map_or_else(String::new, |component| format!(" with the base's {component}"));
    let name = format!("{} at strength {}{without}", point.method, point.strength);
    let n = recovery.confirmation.n_samples;
    match recovery.decision {
        Verdict::Pass => format!("{name} passes on {n} images that its choice did not see."),
        Verdict::Fail => format!(
            "No strength passes: {name} was the best on the selection half, and fails on {n} images that its choice did not see."
        ),
        Verdict::Inconclusive | Verdict::NotApplicable => {
            format!("{name} was the best on the selection half, and {n} other images do not decide about it.")
        }
    }
}
