//! The comparison of a baseline with candidates: `emt.comparison/1`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ConstantAnswer, Interval, PairTable};
use crate::domain::ErrorCode;
use crate::stats::{
    POWER, PairedCounts, chance_corrected, inferiority_p, mcnemar_exact, minimum_detectable_fall, n_needed,
    negative_flip_rate, non_inferiority_p, tango_interval, wilson,
};

/// The confidence of every interval of a summary or comparison, two-sided.
pub const CONFIDENCE: f64 = 0.95;

/// The largest acceptable fall of accuracy if no policy sets one.
pub const DEFAULT_MARGIN: f64 = 0.02;

/// The one-sided level of a decision if no policy sets one.
pub const DEFAULT_ALPHA: f64 = 0.025;

/// The schema that this version writes.
pub const COMPARISON_SCHEMA: &str = "emt.comparison/1";

/// `comparison.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`COMPARISON_SCHEMA`].
    pub schema: String,
    /// The baseline's name.
    pub baseline: String,
    /// Its identity.
    pub baseline_identity: String,
    /// The runs compared with it.
    pub candidates: Vec<CandidateComparison>,
    /// The fields that were explicitly allowed to differ.
    pub allowed_different: Vec<String>,
    /// The fine-tuned datasets whose labels were used to compute the codes of all runs.
    pub tuned_on: Vec<String>,
}

/// One candidate against the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateComparison {
    /// Its name.
    pub run: String,
    /// Its identity.
    pub identity: String,
    /// One entry per dataset that both runs have, in the baseline's order.
    pub datasets: Vec<DatasetComparison>,
    /// Datasets that only the candidate has; they are left out.
    pub only_candidate: Vec<String>,
    /// Fields that differ and were allowed to.
    pub differences: Vec<FieldDifference>,
    /// Differences in the models' settings; like the weights, they are part of what is compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<FieldDifference>,
    /// The fine-tuned datasets whose labels were used to compute the codes of this candidate and its baseline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuned_on: Vec<String>,
}

/// A field in which two runs differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldDifference {
    /// The key, as `--allow-different` takes it.
    pub field: String,
    /// The place within the field, such as `mnist.model.generate`; empty if the field is a single value.
    pub place: String,
    /// The baseline's value.
    pub baseline: Value,
    /// The candidate's value.
    pub candidate: Value,
}

/// One dataset before and after, image by image.
///
/// Accuracies, forgetting, lost, gained and p values are over the pairs that are scored on both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetComparison {
    /// Its name.
    pub dataset: String,
    /// The split that was evaluated.
    pub split: String,
    /// Whether that split is a training split.
    pub is_training_split: bool,
    /// Classes of the label set.
    pub n_classes: usize,
    /// Whether the candidate was fine-tuned on it.
    pub is_tuned_on: bool,
    /// Whether the candidate's fine-tuning datasets are known; if not, no answer can have the code `leak`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_leak_known: bool,
    /// Pairs of the models' generated answers to one image.
    pub n_pairs: usize,
    /// Pairs in which either side is unscored.
    pub n_unscored: usize,
    /// Pairs left out because the image is unreadable in both runs.
    pub n_unreadable: usize,
    /// Trials of either run without a partner.
    pub n_unpaired: usize,
    /// The baseline's accuracy.
    pub baseline_accuracy: Option<f64>,
    /// Wilson's interval.
    pub baseline_accuracy_interval: Option<Interval>,
    /// The candidate's accuracy.
    pub candidate_accuracy: Option<f64>,
    /// Wilson's interval.
    pub candidate_accuracy_interval: Option<Interval>,
    /// Baseline accuracy minus candidate accuracy.
    pub forgetting: Option<f64>,
    /// Tango's interval, 95% two-sided.
    pub forgetting_interval: Option<Interval>,
    /// The fall over all pairs with every unscored trial counted against a fail, then against a pass.
    pub forgetting_bounds: Option<Interval>,
    /// Right before, wrong after.
    pub n_lost: usize,
    /// Wrong before, right after.
    pub n_gained: usize,
    /// Lost images that the candidate's encoder gets right; absent without an encoder.
    pub encoder_knows: Option<usize>,
    /// McNemar's exact p value, two-sided.
    pub p_value_mcnemar: Option<f64>,
    /// The gate's default margin, used by the next two p values and `n_needed`.
    pub margin: f64,
    /// The p value of "the fall is at least the margin": small if it is shown to be below (Tango).
    pub p_value: Option<f64>,
    /// The p value of "the fall is at most the margin": small if it is shown to be above.
    pub p_value_fail: Option<f64>,
    /// Pairs needed to show no fall as below the margin with 80% power.
    pub n_needed: Option<usize>,
    /// The smallest fall that this many pairs would show with 80% power at the observed discordance.
    pub minimum_detectable_fall: Option<f64>,
    /// Lost over scored pairs (Yan et al. 2021).
    pub negative_flip_rate: Option<f64>,
    /// Lost images minus those that two guessers would lose, as a share of the scored pairs (Harmon et al. 2026). For
    /// free generation the correction is an upper bound.
    pub chance_corrected_forgetting: Option<f64>,
    /// The same for gained images.
    pub chance_corrected_gain: Option<f64>,
    /// The baseline's model accuracy over encoder accuracy, on the pairs' images.
    pub retention_before: Option<f64>,
    /// Its interval, by paired bootstrap.
    pub retention_before_interval: Option<Interval>,
    /// The candidate's retention.
    pub retention_after: Option<f64>,
    /// Its interval.
    pub retention_after_interval: Option<Interval>,
    /// The probes on both runs' own towers on the same images; absent if either run has no probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tower: Option<TowerForgetting>,
    /// Encoder, label scoring and generation, image by image; absent if label scoring or the encoder did not run.
    pub funnel: Option<Funnel>,
    /// Pairs by state before and after (`correct`, a code, or `unscored`), most frequent first.
    pub transitions: Vec<Transition>,
    /// The baseline's errors by kind and code.
    pub errors_before: Errors,
    /// The candidate's errors by kind and code.
    pub errors_after: Errors,
    /// The answer that most images get before, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant_answer_before: Option<ConstantAnswer>,
    /// The answer that most images get after, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant_answer_after: Option<ConstantAnswer>,
    /// The classes, most forgotten first.
    pub classes: Vec<ClassComparison>,
    /// Changes in what is said instead of a label, largest change first.
    pub confusion_shifts: Vec<ConfusionShift>,
    /// The same pairs graded by each judge separately.
    pub judges: Vec<JudgeComparison>,
    /// Pairs in which each of two or more judges gave a verdict on both sides.
    pub n_pairs_of_all_judges: usize,
    /// How far two judges of one run agree.
    pub judge_agreement: Vec<JudgeAgreement>,
    /// All pairs by outcome: what decisions are made from.
    pub table: PairTable,
    /// The candidate's model against its encoder: both right, only the model, only the encoder, neither; absent without
    /// an encoder.
    pub encoder_cells_after: Option<[usize; 4]>,
    /// Distinct images among the pairs; not part of the document.
    #[serde(skip)]
    pub n_distinct_images: usize,
    /// Whether every answer and its smallest logit gap are exactly the baseline's; not part of the document.
    #[serde(skip)]
    pub is_unchanged: bool,
    /// The pairs that changed from right to wrong; not part of the document, since there may be thousands.
    #[serde(skip)]
    pub lost: Vec<LostImage>,
    /// The pairs that changed from wrong to right; not part of the document, for the same reason.
    #[serde(skip)]
    pub gained: Vec<GainedImage>,
}

/// Whether the tower itself forgot: the same probe, with the same shots, on the tower before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TowerForgetting {
    /// Training images per class.
    pub shots: usize,
    /// Whether both runs share one tower, which then cannot have forgotten anything.
    pub is_same_tower: bool,
    /// Pairs of the probes' choices.
    pub n_pairs: usize,
    /// Pairs in which either side is unscored.
    pub n_unscored: usize,
    /// The baseline's accuracy; all numbers from here on are over the pairs scored on both sides.
    pub baseline_accuracy: Option<f64>,
    /// Wilson's interval.
    pub baseline_accuracy_interval: Option<Interval>,
    /// The candidate's accuracy.
    pub candidate_accuracy: Option<f64>,
    /// Wilson's interval.
    pub candidate_accuracy_interval: Option<Interval>,
    /// Baseline accuracy minus candidate accuracy.
    pub forgetting: Option<f64>,
    /// Tango's interval, 95% two-sided.
    pub forgetting_interval: Option<Interval>,
    /// Right before, wrong after.
    pub n_lost: usize,
    /// Wrong before, right after.
    pub n_gained: usize,
    /// McNemar's exact p value, two-sided.
    pub p_value_mcnemar: Option<f64>,
}

impl TowerForgetting {
    /// Computes everything from the outcomes of all pairs.
    pub fn of_table(shots: usize, is_same_tower: bool, table: PairTable) -> Self {
        let (scored, accuracies) = (table.scored(), table.accuracies());
        Self {
            shots,
            is_same_tower,
            n_pairs: table.n_pairs(),
            n_unscored: table.n_unscored(),
            baseline_accuracy: accuracies.map(|[before, _]| before),
            baseline_accuracy_interval: wilson(table.both_correct + table.lost, scored.n, CONFIDENCE),
            candidate_accuracy: accuracies.map(|[_, after]| after),
            candidate_accuracy_interval: wilson(table.both_correct + table.gained, scored.n, CONFIDENCE),
            forgetting: scored.fall(),
            forgetting_interval: tango_interval(scored, CONFIDENCE),
            n_lost: table.lost,
            n_gained: table.gained,
            p_value_mcnemar: (scored.n > 0).then(|| mcnemar_exact(scored)),
        }
    }
}

/// Where knowledge is lost between encoder, label scoring and generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Funnel {
    /// The baseline's images by what is right: `e1s0g0` means only the encoder is right. There are eight keys.
    pub before: BTreeMap<String, usize>,
    /// The same for the candidate.
    pub after: BTreeMap<String, usize>,
    /// Lost images that label scoring still gets right.
    pub lost_wording: usize,
    /// Lost images that the encoder gets right and label scoring wrong.
    pub lost_choice: usize,
    /// Lost images that encoder and label scoring get wrong.
    pub lost_unknown: usize,
}

/// Pairs that changed from one state to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// `correct`, a code, or `unscored`.
    pub from: String,
    /// The state after.
    pub to: String,
    /// How many pairs.
    pub n: usize,
}

/// Errors of one run on the pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Scored trials.
    pub n_scored: usize,
    /// Errors by kind; every kind is listed.
    pub kinds: BTreeMap<String, usize>,
    /// Errors by code; only codes that occur are listed.
    pub codes: BTreeMap<String, usize>,
}

/// One class before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassComparison {
    /// The label.
    pub label: String,
    /// Pairs scored on both sides.
    pub n_scored: usize,
    /// Right before, wrong after.
    pub n_lost: usize,
    /// Wrong before, right after.
    pub n_gained: usize,
    /// The baseline's accuracy, if any pair is scored.
    pub baseline_accuracy: Option<f64>,
    /// The candidate's accuracy.
    pub candidate_accuracy: Option<f64>,
    /// Baseline accuracy minus candidate accuracy.
    pub forgetting: Option<f64>,
    /// McNemar's exact p value, two-sided, adjusted by Holm over the dataset's classes.
    pub p_holm: Option<f64>,
}

/// How often a label gets one particular wrong answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfusionShift {
    /// The label.
    pub label: String,
    /// The answer, in lower case without outer punctuation, article and opening phrase.
    pub said: String,
    /// The baseline's errors on the pairs.
    pub n_before: usize,
    /// The candidate's errors on the pairs.
    pub n_after: usize,
}

/// The pairs as one judge grades them: `undecided` counts as incorrect, no verdict as unscored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeComparison {
    /// `rules` or `llm`.
    pub judge: String,
    /// The baseline's accuracy under this judge.
    pub baseline_accuracy: Option<f64>,
    /// The candidate's accuracy under this judge.
    pub candidate_accuracy: Option<f64>,
    /// Baseline accuracy minus candidate accuracy, under this judge.
    pub forgetting: Option<f64>,
    /// All pairs by this judge's verdicts.
    pub table: PairTable,
}

/// Two judges of one run on the answers that both judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeAgreement {
    /// `baseline` or `candidate`.
    pub side: String,
    /// The two judges.
    pub judges: [String; 2],
    /// Both correct; only the first; only the second; neither.
    pub cells: [usize; 4],
    /// The share of equal verdicts.
    pub agreement: Option<f64>,
    /// Cohen's kappa.
    pub kappa: Option<f64>,
    /// The interval of kappa.
    pub kappa_interval: Option<Interval>,
}

/// An image that was right before and is wrong after.
#[derive(Clone, Debug, PartialEq)]
pub struct LostImage {
    /// The candidate's sample.
    pub sample: String,
    /// The hash of its pixels.
    pub content: String,
    /// Its label.
    pub label: String,
    /// The baseline's answer.
    pub said_before: String,
    /// The candidate's answer.
    pub said_after: String,
    /// The candidate's error code.
    pub code_after: ErrorCode,
    /// The choice of the candidate's encoder and whether it is right, if there is an encoder.
    pub encoder: Option<(String, bool)>,
    /// The candidate's choice by label scoring and whether it is right, if label scoring ran.
    pub scoring: Option<(String, bool)>,
}

/// An image that was wrong before and is right after.
#[derive(Clone, Debug, PartialEq)]
pub struct GainedImage {
    /// The candidate's sample.
    pub sample: String,
    /// The hash of its pixels.
    pub content: String,
    /// Its label.
    pub label: String,
    /// The baseline's answer.
    pub said_before: String,
    /// The candidate's answer.
    pub said_after: String,
    /// The baseline's error code.
    pub code_before: ErrorCode,
    /// The choice of the candidate's encoder and whether it is right, if there is an encoder.
    pub encoder: Option<(String, bool)>,
    /// The candidate's choice by label scoring and whether it is right, if label scoring ran.
    pub scoring: Option<(String, bool)>,
}

impl DatasetComparison {
    /// Computes what follows from the outcomes of all pairs; all other fields are empty.
    pub fn of_table(dataset: &str, n_classes: usize, table: PairTable) -> Self {
        let scored = table.scored();
        let accuracies = table.accuracies();
        let n_correct = [table.both_correct + table.lost, table.both_correct + table.gained];
        let corrected = chance_corrected(scored, n_correct[0], n_classes);
        Self {
            dataset: dataset.to_owned(),
            split: String::new(),
            is_training_split: false,
            n_classes,
            is_tuned_on: false,
            is_leak_known: false,
            n_pairs: table.n_pairs(),
            n_unscored: table.n_unscored(),
            n_unreadable: 0,
            n_unpaired: 0,
            baseline_accuracy: accuracies.map(|[before, _]| before),
            baseline_accuracy_interval: wilson(n_correct[0], scored.n, CONFIDENCE),
            candidate_accuracy: accuracies.map(|[_, after]| after),
            candidate_accuracy_interval: wilson(n_correct[1], scored.n, CONFIDENCE),
            forgetting: scored.fall(),
            forgetting_interval: tango_interval(scored, CONFIDENCE),
            forgetting_bounds: table.bounds(),
            n_lost: table.lost,
            n_gained: table.gained,
            encoder_knows: None,
            p_value_mcnemar: (scored.n > 0).then(|| mcnemar_exact(scored)),
            margin: DEFAULT_MARGIN,
            p_value: non_inferiority_p(scored, DEFAULT_MARGIN),
            p_value_fail: inferiority_p(scored, DEFAULT_MARGIN),
            n_needed: n_needed(scored, DEFAULT_MARGIN, DEFAULT_ALPHA),
            minimum_detectable_fall: detectable_fall(scored),
            negative_flip_rate: negative_flip_rate(scored),
            chance_corrected_forgetting: corrected.map(|corrected| corrected.true_forgetting),
            chance_corrected_gain: corrected.map(|corrected| corrected.true_backward_transfer),
            retention_before: None,
            retention_before_interval: None,
            retention_after: None,
            retention_after_interval: None,
            tower: None,
            funnel: None,
            transitions: Vec::new(),
            errors_before: Errors::default(),
            errors_after: Errors::default(),
            constant_answer_before: None,
            constant_answer_after: None,
            classes: Vec::new(),
            confusion_shifts: Vec::new(),
            judges: Vec::new(),
            n_pairs_of_all_judges: 0,
            judge_agreement: Vec::new(),
            table,
            encoder_cells_after: None,
            n_distinct_images: table.n_pairs(),
            is_unchanged: false,
            lost: Vec::new(),
            gained: Vec::new(),
        }
    }

    /// The noun for the model's comparator: `probe` if both runs have one, else `encoder`.
    pub fn encoder_noun(&self) -> &'static str {
        if self.tower.is_some() { "probe" } else { "encoder" }
    }

    /// Errors with `code` over scored trials, before and after; `None` for leaks if the fine-tuning datasets are
    /// unknown.
    pub fn share_of_code(&self, code: ErrorCode) -> [Option<f64>; 2] {
        [&self.errors_before, &self.errors_after].map(|errors| {
            let n = errors.codes.get(code.name()).copied().unwrap_or(0);
            let is_known = code != ErrorCode::Leak || self.is_leak_known;
            (errors.n_scored > 0 && is_known).then(|| n as f64 / errors.n_scored as f64)
        })
    }
}

/// The fall that the gate's default level would detect with 80% power.
fn detectable_fall(scored: PairedCounts) -> Option<f64> {
    // One discordant pair and two pairs are added, so that the discordance is never 0.
    let discordance = (scored.n_lost + scored.n_gained + 1) as f64 / (scored.n + 2) as f64;
    minimum_detectable_fall(scored.n, discordance, DEFAULT_ALPHA, POWER)
}
