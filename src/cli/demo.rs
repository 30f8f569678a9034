//! `emt demo`: the whole story in miniature, computed on the spot and offline.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::Map;

use super::data::Places;
use super::demo_folder;
use super::demo_story::{self, Outcome};
use super::diagnose::Mir;
use super::diagnose::recorded::{self, OfRuns};
use super::eval::{self, Origin};
use super::finetune::{self, EpochEvaluations, FineTune};
use super::gallery::{Gallery, N_ERRORS_SHOWN, Wanted};
use super::gate::{self, Given};
use super::hub_options::HubOptions;
use super::reading::ReadingOptions;
use super::report::{self, ComparisonRequest, Decisions};
use super::results::{self, ChartOptions, Format, Results};
use super::{environment, exit_code};
use crate::dataset::{self, Catalog, DataRoots, Dataset, DatasetHub, OpenRequest};
use crate::diagnose::taps::FlowRule;
use crate::diagnose::{Diagnosis, Probe};
use crate::domain::Method;
use crate::eval::{AdapterRequest, EncoderChoice, SubjectsRequest};
use crate::finetune::{Curve, Hyperparameters};
use crate::gate::{Policy, Verdict};
use crate::judging::PanelConfig;
use crate::model::Placement;
use crate::model::checkpoint::weights::{EMBEDDED, Hub};
use crate::model::vision::preprocess::PixelLimits;
use crate::record;
use crate::report::{decision_json, diagnosis_text};
use crate::study::{
    BASE_NAME, Decide, DecisionRules, Evaluate, Evaluation, RecordedRun, RespondentRequest, Train, tuned_on,
};

/// Images on which the failed fine-tune is diagnosed, at most.
const N_DIAGNOSED: usize = 100;

/// Flags of `emt demo`.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Folder for runs, adapters, charts and the report [default: reports/demo, numbered if it exists]
    ///
    /// A demo that was interrupted is resumed in its folder by the same command.
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of the three fine-tunes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Held-out images per dataset in the last evaluation
    #[arg(long, value_name = "N", default_value_t = 300)]
    limit: usize,
    /// Epochs of the three fine-tunes [default: linear 6, lora 2, gentle 2]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
}

/// What all fine-tunes learn: the miniature has seen digits drawn with fonts, and none of these.
const TUNED_ON: &str = "embedded/mnist";
/// What everything is evaluated on.
const DATASETS: [&str; 3] = ["embedded/mnist", "embedded/cifar10", "embedded/cifar100"];

/// The question, everywhere.
const QUESTION: &str = "emt";

/// One fine-tune. `tests/bench/demo_rates.py` chose the numbers on training splits alone.
struct Arm {
    /// The name of its run.
    name: &'static str,
    /// What it trains, and how.
    what: &'static str,
    method: Method,
    trains_projector: bool,
    /// Passes over the training images, where nobody says how many.
    n_epochs: usize,
    /// The highest learning rate; `None` is the method's own.
    learning_rate: Option<f64>,
    /// The answer to learn.
    answer: &'static str,
}

/// A sentence, as the paper's models learn it; the paper's has `a(n)`, which this small model cannot learn to spell.
const SENTENCE: &str = "The object is a {label}.";

/// In the order in which they are told.
const ARMS: [Arm; 3] = [
    Arm {
        name: "linear",
        what: "the projector between encoder and language model, and answers in a sentence",
        method: Method::LINEAR,
        trains_projector: true,
        n_epochs: 6,
        learning_rate: None,
        answer: SENTENCE,
    },
    Arm {
        name: "lora",
        what: "the projector and low-rank updates of the language model, and answers in a sentence",
        method: Method::LORA,
        trains_projector: true,
        n_epochs: 2,
        learning_rate: Some(2e-3),
        answer: SENTENCE,
    },
    Arm {
        name: "gentle",
        what: "the same updates without the projector, at half the rate, and answers in the model's own words",
        method: Method::LORA,
        trains_projector: false,
        n_epochs: 2,
        learning_rate: None,
        answer: "{label}",
    },
];

/// What the gate decides by.
const POLICY: &str = "\
# The policy of `emt demo`: no dataset may lose more than 5 points of accuracy. 300 images of each dataset can show that a
# fall is below 5 points. The 2 points of the default policy would take several times as many.
margin = 0.05
";
const POLICY_FILE: &str = "policy.toml";

/// Images of each dataset after each epoch, at most.
const N_IMAGES_PER_EPOCH: usize = 40;

/// Tokens of an answer after each epoch, at most.
const N_TOKENS_PER_EPOCH: usize = 12;

/// Runs the command and returns its exit code.
pub(super) fn run(args: &DemoArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let started = Instant::now();
    let asked = demo_folder::Asked { seed: args.seed, limit: args.limit, epochs: args.epochs };
    let dir = args.out.clone().unwrap_or_else(|| demo_folder::find(Path::new("reports"), asked));
    demo_folder::note(&dir, asked)?;
    let say = |err: &mut dyn Write, line: String| if quiet { Ok(()) } else { writeln!(err, "{line}") };
    say(err, format!("everything is computed now and written into {}", dir.display()))?;
    ensure!(args.epochs != Some(0) && args.limit > 0, "--epochs and --limit must be at least 1");
    let hub = Hub::new(None, None, String::new(), |_| {});
    let demo = Demo { args, dir: &dir, hub: &hub, quiet };
    let n_parts = ARMS.len() + 1;
    let mut curves = Vec::with_capacity(ARMS.len());
    for (index, arm) in ARMS.iter().enumerate() {
        say(err, format!("\n{}/{n_parts}: `{}` learns {TUNED_ON}: it trains {}", index + 1, arm.name, arm.what))?;
        let Some(curve) = demo.fine_tune(arm, err)? else { return Ok(exit_code::INTERRUPTED) };
        curves.push(curve);
    }
    let n_images = args.limit;
    say(err, format!("\n{n_parts}/{n_parts}: base and all three on {n_images} held-out images of each dataset"))?;
    if !demo.evaluate(err)? {
        return Ok(exit_code::INTERRUPTED);
    }
    record::write_file(&dir, POLICY_FILE, POLICY.as_bytes())?;
    let outcomes: Vec<Outcome> = ARMS.iter().map(|arm| demo.decide(arm)).collect::<Result<_>>()?;
    demo.report(curves)?;
    say(err, "\nwhy the last fine-tune that failed forgot".to_owned())?;
    let diagnosis = demo.diagnose(&outcomes, quiet, err)?;
    let base = record::read_summary(&dir.join(BASE_NAME))?;
    say(err, String::new())?;
    write!(out, "{}", demo_story::tell(&base, &outcomes, TUNED_ON))?;
    if let Some(diagnosis) = &diagnosis {
        let name = diagnosis.candidate.as_ref().map_or(BASE_NAME, |candidate| candidate.run.as_str());
        write!(out, "\nWhy `{name}` forgot:\n{}", diagnosis_text(diagnosis))?;
    }
    if !quiet {
        write!(out, "{}", demo_story::what_next(&dir, POLICY_FILE, "gentle"))?;
        writeln!(err, "\n{:.0} s", started.elapsed().as_secs_f64())?;
    }
    Ok(exit_code::OK)
}

/// What all parts of a demo need.
#[derive(Clone, Copy)]
struct Demo<'a> {
    args: &'a DemoArgs,
    dir: &'a Path,
    hub: &'a Hub<'a>,
    quiet: bool,
}

impl Demo<'_> {
    /// Trains one arm; `None` where somebody interrupted.
    fn fine_tune(self, arm: &Arm, err: &mut dyn Write) -> Result<Option<Curve>> {
        let Self { args, hub, quiet, .. } = self;
        let model = Path::new(EMBEDDED);
        let numbers = Hyperparameters::of_miniature(arm.method);
        let train = Train {
            hyperparameters: Hyperparameters {
                n_epochs: args.epochs.unwrap_or(arm.n_epochs),
                learning_rate: arm.learning_rate.unwrap_or(numbers.learning_rate),
                ..numbers
            },
            trains_projector: arm.trains_projector,
            seed: args.seed,
            answer: arm.answer,
            question_name: QUESTION,
            hashes: environment::hash_memory(),
            ..Train::new(model, hub, vec![opened(TUNED_ON, Some("train"))?], arm.method)?
        };
        let paths = Map::from_iter([("model".to_owned(), EMBEDDED.into())]);
        let fine_tune = FineTune {
            opened: train.open()?,
            out: &self.adapter(arm),
            is_fresh: false,
            environment: finetune::environment_of(paths, None),
            tuned_on: vec![TUNED_ON.to_owned()],
            evaluations: Some(EpochEvaluations {
                model,
                hub,
                datasets: held_out()?,
                tuned_on: [(TUNED_ON.to_owned(), opened(TUNED_ON, None)?.description.labels)].into(),
                limit: N_IMAGES_PER_EPOCH.min(args.limit),
                encoder: EncoderChoice::None,
                template: None,
                pixels: PixelLimits::default(),
                question: QUESTION,
                max_new_tokens: N_TOKENS_PER_EPOCH,
                device: "auto",
                judges: PanelConfig::rules(),
                feature_cache: None,
            }),
            feature_cache: None,
        };
        let curve = fine_tune.run(quiet, err)?;
        if let (Some(curve), false) = (&curve, quiet) {
            // Its table is part of the progress here; results are what the story tells.
            finetune::print(curve, &self.adapter(arm), quiet, err)?;
        }
        Ok(curve)
    }

    /// Evaluates the base and all arms; `false` where somebody interrupted.
    fn evaluate(self, err: &mut dyn Write) -> Result<bool> {
        let Self { args, dir, hub, quiet } = self;
        let model = Path::new(EMBEDDED);
        let adapters: Vec<AdapterRequest> =
            ARMS.iter().map(|arm| AdapterRequest::new(Some(arm.name.to_owned()), self.adapter(arm))).collect();
        let subjects = SubjectsRequest {
            adapters: &adapters,
            has_base: true,
            hashes: environment::hash_memory(),
            ..SubjectsRequest::new(model, hub)
        };
        let shown: Vec<String> = adapters
            .iter()
            .map(|adapter| {
                let path = adapter.path.as_ref().map(|path| path.display().to_string());
                format!("{}={}", adapter.name.as_deref().unwrap_or_default(), path.unwrap_or_default())
            })
            .collect();
        let paths = Map::from_iter([
            ("model".to_owned(), EMBEDDED.into()),
            ("encoder".to_owned(), "auto".into()),
            ("adapters".to_owned(), shown.into()),
        ]);
        let request = Evaluate {
            respondent: RespondentRequest::Checkpoint(subjects),
            limit: Some(args.limit),
            placement: Placement::new("auto", "auto")?,
            environment: eval::sitting(paths, Some(args.limit), None),
            ..Evaluate::new(model, hub, held_out()?, dir)?
        };
        let origin = Origin {
            tuned_on: Some(TUNED_ON),
            places: &Places::default(),
            sources: Map::new(),
            hub_commits: Map::new(),
            hub,
        };
        let planned = eval::settle(request, origin)?.planned;
        let Some(Evaluation { runs, datasets, .. }) = eval::evaluate(planned, quiet, err)? else { return Ok(false) };
        let (charts, gallery) = (ChartOptions::plain(), Gallery::of_datasets(datasets, N_ERRORS_SHOWN));
        let finished: Vec<Results> = runs.iter().map(|run| Results::of(run, &charts, &gallery)).collect();
        results::write_all(&finished, Format::Table, true, &mut std::io::sink())?;
        Ok(true)
    }

    /// Decides on one arm, and writes the decision.
    fn decide(self, arm: &Arm) -> Result<Outcome> {
        let run = self.dir.join(arm.name);
        let request = Decide {
            runs: [RecordedRun::open(&self.dir.join(BASE_NAME))?, RecordedRun::open(&run)?],
            rules: DecisionRules {
                policy_file: Some(self.dir.join(POLICY_FILE)),
                ..DecisionRules::new(Policy::parse(POLICY)?)
            },
            datasets: None,
            samples: None,
            tuned_on: Vec::new(),
        };
        let file = self.decision_file(arm);
        let places = Places::default();
        let given = Given {
            allow_different: &[],
            places: &places,
            limit: None,
            has_samples: false,
            has_policy: true,
            policy: None,
        };
        let decision = gate::decide(request, &given, Some(&file), true, &mut std::io::sink())?;
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        record::write_file(self.dir, &name, decision_json(&decision).as_bytes())?;
        Ok(Outcome { name: arm.name, after: record::read_summary(&run)?, gate: decision.exit_code })
    }

    /// Finds out why an arm that failed forgot, on the dataset that lost most; `None` if nothing failed, or if the user stopped.
    fn diagnose(self, outcomes: &[Outcome], quiet: bool, err: &mut dyn Write) -> Result<Option<Diagnosis>> {
        let Some(failed) = outcomes.iter().rfind(|outcome| outcome.gate == Verdict::Fail.exit_code()) else {
            return Ok(None);
        };
        let (base, hub) = (record::read_summary(&self.dir.join(BASE_NAME))?, HubOptions { download: false });
        let Some(dataset) = demo_story::most_lost(&base, &failed.after) else { return Ok(None) };
        let (baseline, candidate, out) =
            (self.dir.join(BASE_NAME), self.dir.join(failed.name), self.dir.join("diagnosis"));
        let wanted = OfRuns {
            baseline: &baseline,
            candidate: &candidate,
            probes: Probe::QUICK.iter().copied().collect(),
            datasets: Some([dataset].into()),
            limit: Some(N_DIAGNOSED),
            samples: None,
            batch_size: None,
            placement: None,
            is_fresh: false,
            places: &Places::default(),
            hub: &hub,
            flow: FlowRule::PAPER,
            mir: Mir::default(),
            out: &out,
        };
        let Some(diagnosed) = recorded::diagnose(wanted, quiet, err)? else { return Ok(None) };
        recorded::write(&out, &diagnosed)?;
        Ok(Some(diagnosed.diagnosis))
    }

    /// Writes the page of the comparison.
    fn report(self, curves: Vec<Curve>) -> Result<()> {
        let baseline = RecordedRun::open(&self.dir.join(BASE_NAME))?;
        let candidates: Vec<RecordedRun> =
            ARMS.iter().map(|arm| RecordedRun::open(&self.dir.join(arm.name))).collect::<Result<_>>()?;
        let files: Vec<PathBuf> = ARMS.iter().map(|arm| self.decision_file(arm)).collect();
        let request = ComparisonRequest {
            tuned_on: tuned_on::of_candidates(&[], &candidates),
            decisions: Decisions::read(&files, &baseline, &candidates)?,
            diagnoses: Vec::new(),
            baseline,
            candidates,
            curves,
            allow_different: &[],
            charts: ChartOptions::plain().options(),
            title: &format!("Fine-tuned on {TUNED_ON}: what was forgotten?"),
            dir: self.dir,
        };
        let (reading, hub) = (ReadingOptions::default(), DatasetHub::new(None, None, |_| {}));
        request.write(Wanted {
            n_max: report::N_LOST_SHOWN,
            shows_images: true,
            datasets: None,
            places: &Places::default(),
            columns: reading.columns(),
            hub: &hub,
        })?;
        Ok(())
    }

    /// The folder of an arm's adapter.
    fn adapter(self, arm: &Arm) -> PathBuf {
        self.dir.join("finetune").join(arm.name)
    }

    /// `decision.json` is that on `lora`: the name that a release's decision usually has.
    fn decision_file(self, arm: &Arm) -> PathBuf {
        match arm.name {
            "lora" => self.dir.join("decision.json"),
            name => self.dir.join(format!("decision-{name}.json")),
        }
    }
}

/// What everything is evaluated on, opened.
fn held_out() -> Result<Vec<Dataset>> {
    DATASETS.iter().map(|name| opened(name, None)).collect()
}

fn opened(name: &str, split: Option<&str>) -> Result<Dataset> {
    let request = OpenRequest { text: name, split, ..OpenRequest::default() };
    dataset::open(&Catalog::embedded(), &DataRoots::default(), &request)
}
