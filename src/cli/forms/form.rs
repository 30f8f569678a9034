//! The forms that commands have, and how a command line chooses among them.

use std::path::Path;

use clap::ArgMatches;

use crate::cli::served_options::is_address;
use crate::cli::sources::is_embedded as is_embedded_dataset;
use crate::judging::JudgeMode;
use crate::model::checkpoint::weights::is_embedded;

/// A choice that decides which flags have an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::cli) enum Axis {
    Model,
    Adapters,
    Encoder,
    Comparator,
    Datasets,
    Modes,
    Judge,
    FeatureCache,
    Gate,
    Diagnosis,
    Report,
    Images,
    Method,
    VirtualTokens,
    SecondTower,
    Train,
    Start,
    Curve,
    Sweep,
}

/// One possibility on an [`Axis`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::cli) enum Form {
    LocalModel,
    EmbeddedModel,
    ServedModel,
    WithAdapter,
    WithoutAdapter,
    EncoderAuto,
    EncoderNamed,
    EncoderNone,
    ComparatorAuto,
    ComparatorZeroShot,
    ComparatorProbe,
    DatasetsNamed,
    DatasetsEmbedded,
    DatasetsDefault,
    Generate,
    Score,
    GenerateAndScore,
    JudgeRules,
    JudgeLlm,
    JudgeRulesAndLlm,
    WithFeatureCache,
    WithoutFeatureCache,
    PrintsPolicy,
    GateEvaluates,
    GateOfRuns,
    DiagnosesModel,
    DiagnosesRuns,
    ReportOfOneRun,
    ReportOfRuns,
    ReportOfComparison,
    ReportOfStages,
    WithImages,
    WithoutImages,
    Linear,
    Lora,
    Full,
    OtherMethod,
    WithVirtualTokens,
    WithPTuning,
    WithoutVirtualTokens,
    WithSecondTower,
    WithoutSecondTower,
    TrainNamed,
    TrainEmbedded,
    FromAdapter,
    FromBase,
    WithCurve,
    WithNamedCurve,
    WithoutCurve,
    SweepsFile,
    PrintsPaper,
}

/// Axis, form, what messages call it, and the words by which a test chooses it.
type Row = (Axis, Form, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const FORMS: &[Row] = &[
    (Axis::Model, Form::LocalModel, "a checkpoint (--model DIR or ORG/NAME)", &["--model", "checkpoint"]),
    (Axis::Model, Form::EmbeddedModel, "the miniature (--model embedded)", &["--model", "embedded"]),
    (Axis::Model, Form::ServedModel, "a served model (--model http://HOST/v1)", &["--model", "http://localhost:8000/v1"]),
    (Axis::Adapters, Form::WithAdapter, "an adapter (--adapter DIR)", &["--adapter", "lora"]),
    (Axis::Adapters, Form::WithoutAdapter, "no adapter", &[]),
    (Axis::Encoder, Form::EncoderAuto, "the encoder that the checkpoint names (--encoder auto)", &[]),
    (Axis::Encoder, Form::EncoderNamed, "a named encoder (--encoder DIR or ORG/NAME)", &["--encoder", "clip"]),
    (Axis::Encoder, Form::EncoderNone, "no encoder (--encoder none)", &["--encoder", "none"]),
    (Axis::Comparator, Form::ComparatorAuto, "--comparator auto", &[]),
    (Axis::Comparator, Form::ComparatorZeroShot, "--comparator zero-shot", &["--comparator", "zero-shot"]),
    (Axis::Comparator, Form::ComparatorProbe, "--comparator probe", &["--comparator", "probe"]),
    (Axis::Datasets, Form::DatasetsNamed, "named datasets (--datasets)", &["--datasets", "mnist"]),
    (Axis::Datasets, Form::DatasetsEmbedded, "embedded datasets alone (--datasets embedded/mnist)", &["--datasets", "embedded/mnist"]),
    (Axis::Datasets, Form::DatasetsDefault, "the default datasets", &[]),
    (Axis::Modes, Form::Generate, "generated answers (--modes generate)", &[]),
    (Axis::Modes, Form::Score, "label scoring alone (--modes score)", &["--modes", "score"]),
    (Axis::Modes, Form::GenerateAndScore, "both modes (--modes generate,score)", &["--modes", "generate,score"]),
    (Axis::Judge, Form::JudgeRules, "--judge rules", &[]),
    (Axis::Judge, Form::JudgeLlm, "--judge llm", &["--judge", "llm"]),
    (Axis::Judge, Form::JudgeRulesAndLlm, "--judge rules+llm", &["--judge", "rules+llm"]),
    (Axis::FeatureCache, Form::WithFeatureCache, "a feature cache (--feature-cache DIR)", &["--feature-cache", "cache"]),
    (Axis::FeatureCache, Form::WithoutFeatureCache, "no feature cache", &[]),
    (Axis::Gate, Form::PrintsPolicy, "--print-policy", &["--print-policy"]),
    (Axis::Gate, Form::GateEvaluates, "a model to evaluate (--model)", &[]),
    (Axis::Gate, Form::GateOfRuns, "two finished runs (--baseline, --candidate)", &["--baseline", "base", "--candidate", "tuned"]),
    (Axis::Diagnosis, Form::DiagnosesModel, "a model to evaluate (--model)", &["--adapter", "lora"]),
    (Axis::Diagnosis, Form::DiagnosesRuns, "two finished runs (--baseline, --candidate)", &["--baseline", "base", "--candidate", "tuned"]),
    (Axis::Report, Form::ReportOfOneRun, "one run", &["base"]),
    (Axis::Report, Form::ReportOfRuns, "several runs", &["base", "tuned"]),
    (Axis::Report, Form::ReportOfComparison, "a baseline (--baseline RUN)", &["tuned", "--baseline", "base"]),
    (Axis::Report, Form::ReportOfStages, "stages (--stages)", &["--stages", "base", "tuned:mnist"]),
    (Axis::Images, Form::WithImages, "images", &[]),
    (Axis::Images, Form::WithoutImages, "--no-images", &["--no-images"]),
    (Axis::Method, Form::Linear, "--method linear", &["--method", "linear"]),
    (Axis::Method, Form::Lora, "--method lora", &["--method", "lora"]),
    (Axis::Method, Form::Full, "--method full", &["--method", "full"]),
    (Axis::Method, Form::OtherMethod, "--method moca", &["--method", "moca"]),
    (Axis::VirtualTokens, Form::WithVirtualTokens, "virtual tokens (--method prompt or prefix)", &["--method", "lora+prompt"]),
    (Axis::VirtualTokens, Form::WithPTuning, "a network of virtual tokens (--method p-tuning)", &["--method", "lora+p-tuning"]),
    (Axis::VirtualTokens, Form::WithoutVirtualTokens, "no virtual tokens", &[]),
    (Axis::SecondTower, Form::WithSecondTower, "a second tower (--method mof)", &["--method", "lora+mof"]),
    (Axis::SecondTower, Form::WithoutSecondTower, "one tower", &[]),
    (Axis::Train, Form::TrainNamed, "datasets on disk (--train A,B)", &["--train", "mnist"]),
    (Axis::Train, Form::TrainEmbedded, "embedded datasets alone (--train embedded/mnist)", &["--train", "embedded/mnist"]),
    (Axis::Start, Form::FromAdapter, "an adapter to continue from (--from-adapter)", &["--from-adapter", "lora"]),
    (Axis::Start, Form::FromBase, "no adapter to continue from", &[]),
    (Axis::Curve, Form::WithCurve, "a forgetting curve on the default or embedded datasets", &[]),
    (Axis::Curve, Form::WithNamedCurve, "a forgetting curve (--eval-datasets A,B)", &["--eval-datasets", "mnist"]),
    (Axis::Curve, Form::WithoutCurve, "no forgetting curve (--eval-datasets none)", &["--eval-datasets", "none"]),
    (Axis::Sweep, Form::SweepsFile, "a file of arms", &[]),
    (Axis::Sweep, Form::PrintsPaper, "--print-paper", &["--print-paper"]),
];

impl Form {
    fn row(self) -> Option<&'static Row> {
        FORMS.iter().find(|row| row.1 == self)
    }

    /// What it is a possibility of.
    pub(super) fn axis(self) -> Option<Axis> {
        self.row().map(|row| row.0)
    }

    /// What messages call it.
    pub(super) fn text(self) -> &'static str {
        self.row().map_or("", |row| row.2)
    }
}

/// The forms of an axis, each with the words by which a test chooses it.
#[cfg(test)]
pub(super) fn forms_of(axis: Axis) -> Vec<(Form, &'static [&'static str])> {
    FORMS.iter().filter(|row| row.0 == axis).map(|row| (row.1, row.3)).collect()
}

/// Whether the method `text` names `arm`.
fn has_arm(text: &str, arm: &str) -> bool {
    text.split('+').any(|part| part.trim() == arm)
}

fn method(text: &str) -> Form {
    match () {
        () if has_arm(text, "lora") => Form::Lora,
        () if has_arm(text, "full") => Form::Full,
        () if has_arm(text, "linear") => Form::Linear,
        () => Form::OtherMethod,
    }
}

fn virtual_tokens(text: &str) -> Form {
    match has_arm(text, "p-tuning") {
        true => Form::WithPTuning,
        false if has_arm(text, "prompt") || has_arm(text, "prefix") => Form::WithVirtualTokens,
        false => Form::WithoutVirtualTokens,
    }
}

impl Axis {
    /// The form that `matches` choose; `None` where they choose none.
    pub(super) fn find(self, matches: &ArgMatches) -> Option<Form> {
        let text = |id: &str| first(matches, id);
        let is_given = |id: &str| n_given(matches, id) > 0;
        let either = |id: &str, with: Form, without: Form| if is_given(id) { with } else { without };
        Some(match self {
            Self::Model => match text("model")? {
                address if is_address(Path::new(&address)) => Form::ServedModel,
                name if is_embedded(Path::new(&name)) => Form::EmbeddedModel,
                _ => Form::LocalModel,
            },
            Self::Adapters => either("adapters", Form::WithAdapter, Form::WithoutAdapter),
            Self::Encoder => match text("encoder").as_deref() {
                None | Some("auto") => Form::EncoderAuto,
                Some("none") => Form::EncoderNone,
                Some(_) => Form::EncoderNamed,
            },
            Self::Comparator => match text("comparator").as_deref() {
                Some("zero-shot") => Form::ComparatorZeroShot,
                Some("probe") => Form::ComparatorProbe,
                _ => Form::ComparatorAuto,
            },
            Self::Datasets => match text("datasets") {
                None => Form::DatasetsDefault,
                Some(list) if are_embedded(&list) => Form::DatasetsEmbedded,
                Some(_) => Form::DatasetsNamed,
            },
            Self::Modes => {
                let modes = text("modes").unwrap_or_default();
                let has = |mode: &str| modes.split(',').any(|name| name.trim() == mode);
                match (has("generate"), has("score")) {
                    (true, true) => Form::GenerateAndScore,
                    (false, true) => Form::Score,
                    _ => Form::Generate,
                }
            }
            Self::Judge => match text("judge").as_deref().and_then(JudgeMode::named) {
                Some(JudgeMode::Llm) => Form::JudgeLlm,
                Some(JudgeMode::RulesAndLlm) => Form::JudgeRulesAndLlm,
                Some(JudgeMode::Rules) | None => Form::JudgeRules,
            },
            Self::FeatureCache => either("feature_cache", Form::WithFeatureCache, Form::WithoutFeatureCache),
            Self::Gate if is_on(matches, "print_policy") => Form::PrintsPolicy,
            Self::Gate => either("model", Form::GateEvaluates, Form::GateOfRuns),
            Self::Diagnosis => either("model", Form::DiagnosesModel, Form::DiagnosesRuns),
            Self::Report if is_given("stages") => Form::ReportOfStages,
            Self::Report if is_given("baseline") => Form::ReportOfComparison,
            Self::Report if n_given(matches, "runs") > 1 => Form::ReportOfRuns,
            Self::Report => Form::ReportOfOneRun,
            Self::Images if is_on(matches, "no_images") => Form::WithoutImages,
            Self::Images => Form::WithImages,
            Self::Method => method(&text("method")?),
            Self::VirtualTokens => virtual_tokens(&text("method")?),
            Self::SecondTower if has_arm(&text("method")?, "mof") => Form::WithSecondTower,
            Self::SecondTower => Form::WithoutSecondTower,
            Self::Train if are_embedded(&text("train")?) => Form::TrainEmbedded,
            Self::Train => Form::TrainNamed,
            Self::Start => either("from_adapter", Form::FromAdapter, Form::FromBase),
            Self::Sweep if is_on(matches, "print_paper") => Form::PrintsPaper,
            Self::Sweep => Form::SweepsFile,
            Self::Curve => match text("eval_datasets").as_deref() {
                Some("none") => Form::WithoutCurve,
                Some(list) if !are_embedded(list) => Form::WithNamedCurve,
                _ => Form::WithCurve,
            },
        })
    }
}

/// Whether the images of all datasets of a list are part of the program.
fn are_embedded(list: &str) -> bool {
    list.split(',').all(|name| is_embedded_dataset(name.trim()))
}

fn first(matches: &ArgMatches, id: &str) -> Option<String> {
    let value = matches.try_get_raw(id).ok().flatten()?.next()?;
    Some(value.to_string_lossy().into_owned())
}

fn n_given(matches: &ArgMatches, id: &str) -> usize {
    matches.try_get_raw(id).ok().flatten().map_or(0, Iterator::count)
}

fn is_on(matches: &ArgMatches, id: &str) -> bool {
    matches.try_get_one::<bool>(id).ok().flatten().copied().unwrap_or(false)
}
