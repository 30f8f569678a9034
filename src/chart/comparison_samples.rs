//! Sample comparisons for tests of charts and reports.

use std::collections::BTreeMap;

use super::samples::{dataset, subject, summary};
use crate::compare::{
    COMPARISON_SCHEMA, CandidateComparison, ClassComparison, Comparison, ConfusionShift, ConstantAnswer,
    DatasetComparison, Errors, Funnel, Interval, JudgeAgreement, JudgeComparison, LostImage, PairTable, Summary,
    Transition,
};
use crate::domain::{ErrorCode, ErrorKind};

/// A hostile model's answer.
pub const HOSTILE: &str = "</q><script>alert(1)</script><img src=x onerror=alert(2)> =HYPERLINK(\"x\") `|` **b** \u{1b}[2J\u{202e}txt @all http://x.example";

/// Images of one dataset by state before and after.
pub const FLOWS: [(&str, &str, usize); 9] = [
    ("correct", "correct", 560),
    ("correct", "leak", 96),
    ("correct", "wrong", 50),
    ("correct", "multi", 14),
    ("correct", "empty", 3),
    ("wrong", "wrong", 180),
    ("wrong", "correct", 31),
    ("out", "leak", 58),
    ("unscored", "correct", 8),
];

fn interval(value: f64) -> Interval {
    [value - 0.03, value + 0.03]
}

fn errors(flows: &[(&str, &str, usize)], is_after: bool) -> Errors {
    let mut kinds: BTreeMap<String, usize> = ErrorKind::ALL.iter().map(|kind| (kind.name().to_owned(), 0)).collect();
    let mut codes = BTreeMap::new();
    let mut n_scored = 0;
    for &(from, to, n) in flows {
        let state = if is_after { to } else { from };
        n_scored += if state == "unscored" { 0 } else { n };
        if let Some(code) = ErrorCode::ALL.into_iter().find(|code| code.name() == state) {
            *codes.entry(state.to_owned()).or_default() += n;
            *kinds.entry(code.kind().name().to_owned()).or_default() += n;
        }
    }
    Errors { n_scored, kinds, codes }
}

/// A dataset whose pairs are `flows`; label scoring and an encoder ran.
pub fn compared(name: &str, flows: &[(&str, &str, usize)]) -> DatasetComparison {
    let state = |name: &str| (name != "unscored").then_some(name == "correct");
    let mut table = PairTable::default();
    for &(from, to, n) in flows {
        (0..n).for_each(|_| table.add(state(from), state(to)));
    }
    let [before, after] = table.accuracies().map_or([None; 2], |pair| pair.map(Some));
    let fall = table.scored().fall();
    let share = |n: usize| (table.n_scored() > 0).then(|| n as f64 / table.n_scored() as f64);
    let lost = (0..table.lost).map(|index| lost_image(name, index)).collect();
    let judge = |judge: &str| JudgeComparison {
        judge: judge.to_owned(),
        baseline_accuracy: before,
        candidate_accuracy: after,
        forgetting: fall,
        table,
    };
    DatasetComparison {
        dataset: name.to_owned(),
        split: "test".to_owned(),
        is_training_split: false,
        n_classes: 10,
        is_tuned_on: false,
        is_leak_known: true,
        n_pairs: table.n_pairs(),
        n_unscored: table.n_unscored(),
        n_unreadable: 1,
        n_unpaired: 0,
        baseline_accuracy: before,
        baseline_accuracy_interval: before.map(interval),
        candidate_accuracy: after,
        candidate_accuracy_interval: after.map(interval),
        forgetting: fall,
        forgetting_interval: fall.map(interval),
        forgetting_bounds: table.bounds(),
        n_lost: table.lost,
        n_gained: table.gained,
        encoder_knows: Some(table.lost * 4 / 5),
        p_value_mcnemar: Some(1.2e-9),
        margin: 0.02,
        p_value: None,
        p_value_fail: None,
        n_needed: None,
        minimum_detectable_fall: Some(0.031),
        negative_flip_rate: share(table.lost),
        chance_corrected_forgetting: share(table.lost).map(|share| share * 1.08),
        chance_corrected_gain: share(table.gained).map(|share| share * 0.7),
        retention_before: before.map(|rate| rate / 0.954),
        retention_before_interval: before.map(|rate| interval(rate / 0.954)),
        retention_after: after.map(|rate| rate / 0.954),
        retention_after_interval: after.map(|rate| interval(rate / 0.954)),
        funnel: Some(funnel(table.lost)),
        transitions: flows
            .iter()
            .map(|&(from, to, n)| Transition { from: from.to_owned(), to: to.to_owned(), n })
            .collect(),
        errors_before: errors(flows, false),
        errors_after: errors(flows, true),
        constant_answer_after: Some(ConstantAnswer { answer: HOSTILE.to_owned(), share: 0.61 }),
        classes: classes(),
        confusion_shifts: vec![
            ConfusionShift { label: "cat".to_owned(), said: HOSTILE.to_lowercase(), n_before: 1, n_after: 37 },
            ConfusionShift { label: "dog".to_owned(), said: "cat".to_owned(), n_before: 20, n_after: 4 },
        ],
        judges: vec![judge("rules"), judge("llm")],
        judge_agreement: vec![agreement()],
        encoder_cells_after: Some([580, 19, 374, 27]),
        lost,
        ..DatasetComparison::of_table(name, 10, table)
    }
}

fn agreement() -> JudgeAgreement {
    JudgeAgreement {
        side: "candidate".to_owned(),
        judges: ["rules".to_owned(), "llm".to_owned()],
        cells: [590, 12, 9, 389],
        agreement: Some(0.979),
        kappa: Some(0.955),
        kappa_interval: Some([0.936, 0.974]),
    }
}

fn funnel(n_lost: usize) -> Funnel {
    let cells = |counts: [usize; 8]| {
        let key = |index: usize| format!("e{}s{}g{}", 1 - index / 4, 1 - index / 2 % 2, 1 - index % 2);
        counts.into_iter().enumerate().map(|(index, n)| (key(index), n)).collect()
    };
    Funnel {
        before: cells([690, 40, 20, 180, 10, 8, 3, 49]),
        after: cells([560, 130, 30, 230, 6, 8, 3, 33]),
        lost_wording: n_lost * 6 / 10,
        lost_choice: n_lost * 3 / 10,
        lost_unknown: n_lost - n_lost * 6 / 10 - n_lost * 3 / 10,
    }
}

fn classes() -> Vec<ClassComparison> {
    let class = |(index, label): (usize, &&str)| {
        let fall = 0.42 - 0.03 * index as f64;
        ClassComparison {
            label: (*label).to_owned(),
            n_scored: 100,
            n_lost: 45_usize.saturating_sub(6 * index),
            n_gained: 3,
            baseline_accuracy: Some(0.8),
            candidate_accuracy: Some(0.8 - fall),
            forgetting: Some(fall),
            p_holm: Some((1e-6 * 10f64.powi(index as i32)).min(1.0)),
        }
    };
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck", "<b>zebra</b>"]
        .iter()
        .enumerate()
        .map(class)
        .collect()
}

/// A lost image of `dataset`.
pub fn lost_image(dataset: &str, index: usize) -> LostImage {
    let codes = [ErrorCode::Leak, ErrorCode::Wrong, ErrorCode::Multi];
    LostImage {
        sample: format!("{dataset}/test/{index:05}"),
        content: format!("blake3:{index:04}"),
        label: ["cat", "airplane", "<b>zebra</b>"][index % 3].to_owned(),
        said_before: "A cat.".to_owned(),
        said_after: if index == 1 { HOSTILE.to_owned() } else { "The airplane is 8.".to_owned() },
        code_after: codes[index % 3],
        encoder: Some(("cat".to_owned(), index.is_multiple_of(2))),
        scoring: (index % 4 != 3).then(|| ("dog".to_owned(), index.is_multiple_of(3))),
    }
}

/// The run `name` against the sample baseline.
pub fn candidate(name: &str, datasets: Vec<DatasetComparison>) -> CandidateComparison {
    CandidateComparison {
        run: name.to_owned(),
        identity: "blake3:22223333".to_owned(),
        datasets,
        only_candidate: Vec::new(),
        differences: Vec::new(),
        settings: Vec::new(),
        tuned_on: vec!["cifar10".to_owned()],
    }
}

/// `candidates` against the sample baseline.
pub fn comparison(candidates: Vec<CandidateComparison>) -> Comparison {
    Comparison {
        schema: COMPARISON_SCHEMA.to_owned(),
        baseline: "llava-base".to_owned(),
        baseline_identity: "blake3:00001111".to_owned(),
        candidates,
        allowed_different: Vec::new(),
        tuned_on: vec!["cifar10".to_owned()],
    }
}

/// Summaries that match a comparison: the baseline's, and one per candidate.
pub fn summaries(comparison: &Comparison) -> (Summary, Vec<Summary>) {
    let of = |candidate: &CandidateComparison, name: &str, is_after: bool| {
        let datasets = candidate.datasets.iter().map(|one| {
            let accuracy = if is_after { one.candidate_accuracy } else { one.baseline_accuracy };
            let model = accuracy.map(|accuracy| subject((accuracy * 1000.0) as usize, 1000, 0));
            dataset(&one.dataset, model, Some(subject(954, 1000, 0)))
        });
        let mut made = summary(datasets.collect());
        made.model.name = format!("llava+{name}");
        made.run = name.to_owned();
        made
    };
    let before = comparison.candidates.first().map_or_else(|| summary(Vec::new()), |one| of(one, "base", false));
    let afters = comparison.candidates.iter().map(|candidate| of(candidate, &candidate.run, true)).collect();
    (before, afters)
}
