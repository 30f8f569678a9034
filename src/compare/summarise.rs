//! Turns trials into the numbers of `summary.json`.

use std::collections::{BTreeMap, BTreeSet};

use unicode_normalization::UnicodeNormalization;

use super::{
    CONFIDENCE, ConstantAnswer, DatasetSummary, EncoderHeading, EncoderPairs, Interval, JudgeHeading, ModelHeading,
    ProbeHeading, SCHEMA, ShotsAccuracy, SubjectSummary, Summary, SummaryInput, pair,
};
use crate::domain::{
    DatasetSpec, EncoderRelation, ErrorKind, Mode, Outcome, ProbeSpec, RunSpec, Subject, Trial, UnscoredReason,
};
use crate::stats::{PairCells, ratio_interval, wilson};

/// Enough resamples for the second digit of a 95% endpoint (Efron and Tibshirani 1993, section 13.3, ask for 1,000).
const N_RESAMPLES: usize = 2_000;

/// Fixed, so that equal trials always give equal intervals.
const BOOTSTRAP_SEED: u64 = 0x656d_7400;

/// The share of scored answers above which an answer is called constant. The threshold is our own.
const CONSTANT_SHARE: f64 = 0.5;

/// Computes all numbers of one run, by dataset in the order of `spec`. The order of `trials` does not matter.
pub fn summarise(input: &SummaryInput<'_>, spec: &RunSpec, trials: &[Trial]) -> Summary {
    Summary {
        schema: SCHEMA.to_owned(),
        run: input.run.to_owned(),
        model: ModelHeading {
            name: spec.model.name.clone(),
            family: spec.model.family.clone(),
            adapter: spec.model.adapter.clone(),
            computing: spec.computing.clone(),
            server_flips: input.server_flips,
        },
        encoder: encoder_heading(spec, trials),
        judge: JudgeHeading {
            name: spec.judges.iter().map(|judge| judge.judge.as_str()).collect::<Vec<_>>().join("+"),
            judges: spec.judges.clone(),
            uncertain_share: input.uncertain_share,
        },
        datasets: spec.datasets.iter().map(|dataset| dataset_summary(dataset, spec.probe.as_ref(), trials)).collect(),
        tuned_on: spec.tuned_on.keys().cloned().collect(),
    }
}

/// Returns the share of the model's scored answers for which `is_certain` is false; `None` if it is known for no
/// answer.
///
/// `is_certain` returns `None` for a trial that the rules did not read.
pub fn uncertain_share(trials: &[Trial], is_certain: impl Fn(&Trial) -> Option<bool>) -> Option<f64> {
    let readings: Vec<bool> = trials
        .iter()
        .filter(|trial| is_of(trial, Subject::Model, Mode::Generate) && is_correct(trial).is_some())
        .filter_map(is_certain)
        .collect();
    let n_uncertain = readings.iter().filter(|certain| !**certain).count();
    (!readings.is_empty()).then(|| n_uncertain as f64 / readings.len() as f64)
}

fn encoder_heading(spec: &RunSpec, trials: &[Trial]) -> EncoderHeading {
    let comparator = match (&spec.encoder, &spec.probe, encoder_mode(trials)) {
        (None, None, _) => "none",
        (None, Some(_), _) | (Some(_), _, Mode::Probe) => "probe",
        (Some(_), ..) => "zero_shot",
    };
    let probe = spec.probe.as_ref().filter(|_| comparator == "probe");
    // A probe always uses the model's own tower.
    let without = if probe.is_some() { EncoderRelation::Own } else { EncoderRelation::None };
    let encoder = spec.encoder.as_ref();
    EncoderHeading {
        relation: encoder.map_or(without, |encoder| encoder.relation),
        comparator: comparator.to_owned(),
        tower_equal: encoder.map(|encoder| encoder.tower_equal).or(probe.map(|_| true)),
        name: encoder.map(|encoder| encoder.name.clone()),
        family: encoder.map(|encoder| encoder.family.clone()),
        tower_change: encoder.and_then(|encoder| encoder.tower_change.clone()),
        probe: probe.map(|probe| ProbeHeading {
            classifier: probe.classifier,
            shots: probe.datasets.values().map(|shots| shots.n_shots()).collect::<BTreeSet<_>>().into_iter().collect(),
        }),
    }
}

/// The encoder's mode that counts: zero-shot if it ran.
fn encoder_mode(trials: &[Trial]) -> Mode {
    let ran = |mode| trials.iter().any(|trial| is_of(trial, Subject::Encoder, mode));
    if !ran(Mode::ZeroShot) && ran(Mode::Probe) { Mode::Probe } else { Mode::ZeroShot }
}

fn dataset_summary(dataset: &DatasetSpec, probe: Option<&ProbeSpec>, trials: &[Trial]) -> DatasetSummary {
    let trials: Vec<&Trial> =
        trials.iter().filter(|trial| trial.dataset == dataset.dataset && trial.split == dataset.split).collect();
    let of =
        |subject, mode| -> Vec<&Trial> { trials.iter().copied().filter(|trial| is_of(trial, subject, mode)).collect() };
    let model = of(Subject::Model, Mode::Generate);
    let zero_shot = of(Subject::Encoder, Mode::ZeroShot);
    let is_probed = zero_shot.is_empty();
    let encoder = if is_probed { of(Subject::Encoder, Mode::Probe) } else { zero_shot };
    let shots = probe.and_then(|probe| probe.datasets.get(&dataset.dataset)).map(|shots| shots.n_shots());
    let (cells, n_unscored) = encoder_cells(&model, &encoder);
    let has_pairs = !model.is_empty() && !encoder.is_empty();
    DatasetSummary {
        dataset: dataset.dataset.clone(),
        split: dataset.split.clone(),
        is_training_split: dataset.is_training_split,
        n_samples: trials.iter().map(|trial| &trial.sample).collect::<BTreeSet<_>>().len(),
        n_classes: dataset.labels.len(),
        model: subject_summary(&model),
        model_score: subject_summary(&of(Subject::Model, Mode::Score)),
        encoder: subject_summary(&encoder).map(|summary| SubjectSummary {
            shots: shots.filter(|_| is_probed),
            fewer_shots: fewer_shots(&encoder),
            ..summary
        }),
        retention: retention(cells),
        retention_interval: retention_interval(cells),
        pairs: has_pairs.then_some(EncoderPairs {
            both_correct: cells.both,
            only_encoder: cells.only_second,
            only_model: cells.only_first,
            both_wrong: cells.neither,
            unscored: n_unscored,
        }),
        constant_answer: constant_answer(&model),
    }
}

fn is_of(trial: &Trial, subject: Subject, mode: Mode) -> bool {
    trial.subject == subject && trial.mode == mode
}

/// Whether a trial is correct; `None` if it is unscored.
fn is_correct(trial: &Trial) -> Option<bool> {
    match trial.outcome {
        Outcome::Correct => Some(true),
        Outcome::Incorrect(_) => Some(false),
        Outcome::Unscored(_) => None,
    }
}

fn subject_summary(trials: &[&Trial]) -> Option<SubjectSummary> {
    if trials.is_empty() {
        return None;
    }
    let mut kinds: BTreeMap<String, usize> = ErrorKind::ALL.iter().map(|kind| (kind.name().to_owned(), 0)).collect();
    let mut codes = BTreeMap::new();
    let mut unscored = BTreeMap::new();
    let mut n_correct = 0;
    for trial in trials {
        match trial.outcome {
            Outcome::Correct => n_correct += 1,
            Outcome::Incorrect(code) => {
                *kinds.entry(code.kind().name().to_owned()).or_default() += 1;
                *codes.entry(code.name().to_owned()).or_default() += 1;
            }
            Outcome::Unscored(reason) => *unscored.entry(reason_name(reason).to_owned()).or_default() += 1,
        }
    }
    let n_trials = trials.len();
    let n_unscored: usize = unscored.values().sum();
    let n_scored = n_trials - n_unscored;
    let share = |n: usize, of: usize| n as f64 / of as f64;
    let corrected: Vec<bool> =
        trials.iter().filter_map(|trial| trial.prior_corrected.as_ref()).map(|choice| choice.is_correct).collect();
    let n_corrected = corrected.iter().filter(|&&is_correct| is_correct).count();
    Some(SubjectSummary {
        n_trials,
        n_correct,
        n_incorrect: n_scored - n_correct,
        n_unscored,
        accuracy: (n_scored > 0).then(|| share(n_correct, n_scored)),
        accuracy_interval: wilson(n_correct, n_scored, CONFIDENCE),
        accuracy_bounds: Some([share(n_correct, n_trials), share(n_correct + n_unscored, n_trials)]),
        balanced_accuracy: balanced_accuracy(trials),
        prior_corrected_accuracy: (!corrected.is_empty()).then(|| share(n_corrected, corrected.len())),
        prior_corrected_interval: wilson(n_corrected, corrected.len(), CONFIDENCE),
        shots: None,
        fewer_shots: Vec::new(),
        kinds,
        codes,
        unscored,
    })
}

/// The accuracies of a probe with fewer shots than its trials have.
fn fewer_shots(trials: &[&Trial]) -> Vec<ShotsAccuracy> {
    let mut counts: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for choice in trials.iter().flat_map(|trial| &trial.fewer_shots) {
        let (n_correct, n) = counts.entry(choice.shots).or_default();
        *n_correct += usize::from(choice.is_correct);
        *n += 1;
    }
    let accuracy = |(shots, (n_correct, n)): (usize, (usize, usize))| ShotsAccuracy {
        shots,
        accuracy: Some(n_correct as f64 / n as f64),
        accuracy_interval: wilson(n_correct, n, CONFIDENCE),
    };
    counts.into_iter().map(accuracy).collect()
}

/// The mean over the classes that have a scored trial.
fn balanced_accuracy(trials: &[&Trial]) -> Option<f64> {
    let mut classes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for trial in trials {
        if let Some(correct) = is_correct(trial) {
            let (n_correct, n_scored) = classes.entry(&trial.label).or_default();
            *n_correct += usize::from(correct);
            *n_scored += 1;
        }
    }
    let sum: f64 = classes.values().map(|&(n_correct, n_scored)| n_correct as f64 / n_scored as f64).sum();
    (!classes.is_empty()).then(|| sum / classes.len() as f64)
}

/// The 2 x 2 table of pairs scored on both sides (first: the model), and the number of pairs with an unscored side.
fn encoder_cells(model: &[&Trial], encoder: &[&Trial]) -> (PairCells, usize) {
    let pairing = pair(
        model.iter().copied(),
        encoder.iter().copied(),
        |trial| (trial.content.as_str(), trial.label.as_str()),
        |trial| trial.sample.as_str(),
    );
    let mut cells = PairCells { both: 0, only_first: 0, only_second: 0, neither: 0 };
    let mut n_unscored = 0;
    for (model, encoder) in pairing.pairs {
        match (is_correct(model), is_correct(encoder)) {
            (Some(true), Some(true)) => cells.both += 1,
            (Some(true), Some(false)) => cells.only_first += 1,
            (Some(false), Some(true)) => cells.only_second += 1,
            (Some(false), Some(false)) => cells.neither += 1,
            (None, _) | (_, None) => n_unscored += 1,
        }
    }
    (cells, n_unscored)
}

pub(super) fn retention(cells: PairCells) -> Option<f64> {
    let n_encoder = cells.both + cells.only_second;
    (n_encoder > 0).then(|| (cells.both + cells.only_first) as f64 / n_encoder as f64)
}

/// The interval of [`retention`] by paired bootstrap, the same for a single run and in a comparison.
pub(super) fn retention_interval(cells: PairCells) -> Option<Interval> {
    ratio_interval(cells, CONFIDENCE, N_RESAMPLES, BOOTSTRAP_SEED)
}

/// The answer that more than [`CONSTANT_SHARE`] of the scored trials share, ignoring case, spacing and ending.
pub(super) fn constant_answer(trials: &[&Trial]) -> Option<ConstantAnswer> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut n_scored = 0;
    for trial in trials.iter().filter(|trial| is_correct(trial).is_some()) {
        let Some(text) = trial.text() else { continue };
        *counts.entry(plain(text)).or_default() += 1;
        n_scored += 1;
    }
    let (answer, count) = counts.into_iter().max_by_key(|&(_, count)| count)?;
    let share = count as f64 / n_scored as f64;
    (share > CONSTANT_SHARE).then_some(ConstantAnswer { answer, share })
}

fn plain(answer: &str) -> String {
    let lower = answer.nfkc().collect::<String>().to_lowercase();
    let words = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    words.trim_end_matches(['.', '!', ',', ':', ';']).to_owned()
}

fn reason_name(reason: UnscoredReason) -> &'static str {
    match reason {
        UnscoredReason::Pending => "pending",
        UnscoredReason::ImageUnreadable => "image_unreadable",
        UnscoredReason::ModelError | UnscoredReason::ModelUnreachable => "model_error",
        UnscoredReason::ThoughtCutOff => "thought_cut_off",
        UnscoredReason::JudgeFailed => "judge_failed",
        UnscoredReason::JudgeUnparsable => "judge_unparsable",
        UnscoredReason::JudgeBudget => "judge_budget",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compare::testing::{RIGHT, UNREADABLE, WRONG, spec, spec_with_probe, trial};
    use crate::domain::{ErrorCode, FewerShots, PriorCorrected, ProbeClassifier};

    const INPUT: SummaryInput<'static> = SummaryInput { run: "base", uncertain_share: Some(0.25), server_flips: None };

    /// Four cats and a dog, for model and encoder.
    fn five_pairs() -> Vec<Trial> {
        let rows = [
            ("cat", "a cat.", RIGHT, RIGHT),
            ("cat", "Cat", RIGHT, WRONG),
            ("cat", "", Outcome::Incorrect(ErrorCode::Empty), RIGHT),
            ("cat", "cat, dog", Outcome::Incorrect(ErrorCode::Multi), UNREADABLE),
            ("dog", "CAT ", WRONG, RIGHT),
        ];
        rows.into_iter()
            .enumerate()
            .flat_map(|(n, (label, answer, model, encoder))| {
                [trial(Subject::Model, n, label, answer, model), trial(Subject::Encoder, n, label, "cat", encoder)]
            })
            .collect()
    }

    #[test]
    fn a_small_run_gives_the_numbers_worked_out_by_hand() {
        let summary = summarise(&INPUT, &spec(true), &five_pairs());
        assert_eq!((summary.schema.as_str(), summary.judge.name.as_str()), ("emt.summary/1", "rules+llm"));
        assert_eq!(summary.encoder.comparator, "zero_shot");
        let cifar10 = &summary.datasets[0];
        assert_eq!((cifar10.n_samples, cifar10.n_classes), (5, 3));
        let model = cifar10.model.as_ref().unwrap();
        assert_eq!((model.n_trials, model.n_correct, model.n_incorrect, model.n_unscored), (5, 2, 3, 0));
        assert_eq!(model.accuracy, Some(0.4));
        // Cats 2 of 4, dogs 0 of 1; there is no frog.
        assert_eq!(model.balanced_accuracy, Some(0.25));
        let kinds = [("extrinsic_hallucination", 1), ("incorrect_prediction", 1), ("intrinsic_hallucination", 1)];
        assert_eq!(model.kinds, kinds.map(|(kind, n)| (kind.to_owned(), n)).into());
        assert_eq!(
            model.codes,
            [("empty", 1), ("multi", 1), ("wrong", 1)].map(|(code, n)| (code.to_owned(), n)).into()
        );
        let encoder = cifar10.encoder.as_ref().unwrap();
        assert_eq!(encoder.unscored, [("image_unreadable".to_owned(), 1)].into());
        assert_eq!((encoder.accuracy, encoder.accuracy_bounds), (Some(0.75), Some([0.6, 0.8])));
        let pairs = EncoderPairs { both_correct: 1, only_encoder: 2, only_model: 1, both_wrong: 0, unscored: 1 };
        assert_eq!(cifar10.pairs, Some(pairs));
        // On the four pairs scored on both sides, 2 of 4 over 3 of 4.
        assert_eq!(cifar10.retention, Some(2.0 / 3.0));
        assert_eq!(cifar10.constant_answer, None);
        assert_eq!(summary.datasets[1].model, None);
    }

    #[test]
    fn label_scoring_is_counted_apart_and_so_is_its_choice_without_the_prior() {
        let scored = |n: usize, outcome: Outcome, is_correct: Option<bool>| Trial {
            mode: Mode::Score,
            prior_corrected: is_correct.map(|is_correct| PriorCorrected { answer: "cat".into(), is_correct }),
            ..trial(Subject::Model, n, "cat", "cat", outcome)
        };
        let mut trials = five_pairs();
        trials.extend([
            scored(0, RIGHT, Some(true)),
            scored(1, RIGHT, Some(false)),
            scored(2, WRONG, Some(true)),
            scored(3, UNREADABLE, None),
        ]);
        let summary = summarise(&INPUT, &spec(true), &trials);
        let (generated, scored) = (summary.datasets[0].model.as_ref().unwrap(), &summary.datasets[0].model_score);
        let scored = scored.as_ref().unwrap();
        assert_eq!((generated.n_trials, generated.prior_corrected_accuracy), (5, None));
        assert_eq!(generated.prior_corrected_interval, None);
        assert_eq!((scored.n_trials, scored.n_correct, scored.n_unscored), (4, 2, 1));
        assert_eq!(scored.prior_corrected_accuracy, Some(2.0 / 3.0));
        assert_eq!(scored.prior_corrected_interval, wilson(2, 3, CONFIDENCE));
        assert_eq!(summary.datasets[0].n_samples, 5);
    }

    #[test]
    fn without_an_encoder_what_needs_it_is_none() {
        let trials: Vec<Trial> = five_pairs().into_iter().filter(|trial| trial.subject == Subject::Model).collect();
        let summary = summarise(&INPUT, &spec(false), &trials);
        let cifar10 = &summary.datasets[0];
        assert_eq!((summary.encoder.comparator.as_str(), summary.encoder.tower_equal), ("none", None));
        assert_eq!(
            (&cifar10.encoder, cifar10.retention, cifar10.retention_interval, &cifar10.pairs),
            (&None, None, None, &None)
        );
        assert!(cifar10.model.is_some());
    }

    #[test]
    fn a_probe_is_a_comparator_of_its_own_with_the_accuracies_of_fewer_shots() {
        let mut trials = five_pairs();
        for trial in trials.iter_mut().filter(|trial| trial.subject == Subject::Encoder) {
            trial.mode = Mode::Probe;
            if trial.response.is_some() && !matches!(trial.outcome, Outcome::Unscored(_)) {
                let choice = |shots, is_correct| FewerShots { shots, answer: "cat".into(), is_correct };
                trial.fewer_shots = vec![choice(1, false), choice(5, trial.label == "cat")];
            }
        }
        let summary = summarise(&INPUT, &spec_with_probe(), &trials);
        let heading = &summary.encoder;
        assert_eq!((heading.comparator.as_str(), heading.relation), ("probe", EncoderRelation::Own));
        assert_eq!((heading.tower_equal, &heading.name), (Some(true), &None));
        let probe = ProbeHeading { classifier: ProbeClassifier::NearestMean, shots: vec![2, 16] };
        assert_eq!(heading.probe, Some(probe));
        let encoder = summary.datasets[0].encoder.as_ref().unwrap();
        assert_eq!((encoder.shots, encoder.accuracy), (Some(16), Some(0.75)));
        let fewer: Vec<_> = encoder.fewer_shots.iter().map(|fewer| (fewer.shots, fewer.accuracy)).collect();
        assert_eq!(fewer, [(1, Some(0.0)), (5, Some(0.75))]);
        let zero_shot = summarise(&INPUT, &spec(true), &five_pairs());
        assert_eq!((zero_shot.encoder.probe, &zero_shot.datasets[0].encoder.as_ref().unwrap().shots), (None, &None));
        assert_eq!(summary.datasets[0].retention, zero_shot.datasets[0].retention);
    }

    #[test]
    fn nothing_scored_has_no_accuracy_and_bounds_from_0_to_1() {
        let trials = [trial(Subject::Model, 0, "cat", "cat", Outcome::Unscored(UnscoredReason::Pending))];
        let summary = summarise(&INPUT, &spec(true), &trials);
        let model = summary.datasets[0].model.as_ref().unwrap();
        assert_eq!((model.accuracy, model.accuracy_interval, model.balanced_accuracy), (None, None, None));
        assert_eq!(model.accuracy_bounds, Some([0.0, 1.0]));
    }

    #[test]
    fn an_answer_that_most_images_get_is_named() {
        let answers = ["bird", "Bird.", "bird ", "cat", "dog"];
        let trials: Vec<Trial> =
            answers.iter().enumerate().map(|(n, answer)| trial(Subject::Model, n, "cat", answer, WRONG)).collect();
        let constant = |trials: &[Trial]| summarise(&INPUT, &spec(true), trials).datasets[0].constant_answer.clone();
        assert_eq!(constant(&trials), Some(ConstantAnswer { answer: "bird".into(), share: 0.6 }));
        // Exactly one half is not a majority.
        assert_eq!(constant(&trials[1..]), None);
    }

    #[test]
    fn uncertainty_is_a_share_of_scored_model_answers() {
        let trials = five_pairs();
        let certain = |trial: &Trial| Some(trial.outcome != Outcome::Incorrect(ErrorCode::Multi));
        assert_eq!(uncertain_share(&trials, certain), Some(0.2));
        assert_eq!(uncertain_share(&trials, |_| None), None);
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(RIGHT),
            proptest::sample::select(ErrorCode::ALL.to_vec()).prop_map(Outcome::Incorrect),
            Just(UNREADABLE),
            Just(Outcome::Unscored(UnscoredReason::JudgeFailed)),
        ]
    }

    /// Trials with duplicate images: `content` repeats, the sample does not.
    fn runs() -> impl Strategy<Value = Vec<Trial>> {
        let row = (outcomes(), outcomes(), 0..3_usize, 0..4_usize, any::<bool>());
        proptest::collection::vec(row, 1..25).prop_map(|rows| {
            let mut trials = Vec::new();
            for (n, (model, encoder, label, content, has_encoder)) in rows.into_iter().enumerate() {
                let label = ["cat", "dog", "frog"][label];
                let mut pair = vec![trial(Subject::Model, n, label, label, model)];
                if has_encoder {
                    pair.push(trial(Subject::Encoder, n, label, label, encoder));
                }
                pair.iter_mut().for_each(|trial| trial.content = format!("blake3:{content}"));
                trials.extend(pair);
            }
            trials
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn counts_add_up_and_bounds_hold_the_accuracy(trials in runs()) {
            let summary = summarise(&INPUT, &spec(true), &trials);
            let cifar10 = &summary.datasets[0];
            for subject in [&cifar10.model, &cifar10.encoder].into_iter().flatten() {
                prop_assert_eq!(subject.n_trials, subject.n_correct + subject.n_incorrect + subject.n_unscored);
                prop_assert_eq!(subject.n_incorrect, subject.kinds.values().sum::<usize>());
                prop_assert_eq!(subject.n_incorrect, subject.codes.values().sum::<usize>());
                prop_assert_eq!(subject.n_unscored, subject.unscored.values().sum::<usize>());
                prop_assert_eq!(subject.kinds.len(), 3);
                let [low, high] = subject.accuracy_bounds.unwrap();
                prop_assert!(0.0 <= low && low <= high && high <= 1.0);
                if let (Some(accuracy), Some(interval)) = (subject.accuracy, subject.accuracy_interval) {
                    prop_assert!(low <= accuracy && accuracy <= high);
                    prop_assert!(interval[0] <= accuracy && accuracy <= interval[1]);
                }
            }
            if let (Some(pairs), Some(model), Some(encoder)) = (&cifar10.pairs, &cifar10.model, &cifar10.encoder) {
                let n_pairs = pairs.both_correct + pairs.only_encoder + pairs.only_model + pairs.both_wrong + pairs.unscored;
                prop_assert!(n_pairs <= model.n_trials.min(encoder.n_trials));
                prop_assert!(pairs.both_correct + pairs.only_model <= model.n_correct);
            }
        }

        #[test]
        fn the_order_of_trials_does_not_matter(
            (trials, shuffled) in runs().prop_flat_map(|trials| (Just(trials.clone()), Just(trials).prop_shuffle()))
        ) {
            prop_assert_eq!(summarise(&INPUT, &spec(true), &trials), summarise(&INPUT, &spec(true), &shuffled));
        }
    }
}
