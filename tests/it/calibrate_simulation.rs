//! Runs of a model and a judge of which everything is known, to see whether corrections find it.

use emt::compare::{Calibration, JudgeIdentity, corrected_forgetting};
use emt::domain::{Answer, ErrorCode, Mode, Outcome, Response, RunSpec, Stop, Subject, Trial};
use emt::eval::marked_pairs;
use emt::judging::draw_sheet;
use emt::stats::SplitMix64;

use super::calibrate::miniature;

const DATASET: &str = "embedded/cifar10";
const N_IMAGES: usize = 300;

/// An answer that many images may get.
#[derive(Clone, Copy)]
struct Kind {
    number: usize,
    outcome: Outcome,
    is_right: bool,
}

/// A long tail of answers, as models give them: few often, most seldom. The judge calls many wrong ones correct, and
/// misses some right ones, but never errs on the most frequent answers.
fn kind(number: usize) -> Kind {
    let is_seldom = number >= 6;
    let (outcome, is_right) = match number % 5 {
        0..=2 => (Outcome::Correct, !(is_seldom && number.is_multiple_of(3))),
        3 => (Outcome::Incorrect(ErrorCode::Wrong), is_seldom && number.is_multiple_of(11)),
        _ => (Outcome::Incorrect(ErrorCode::Out), is_seldom && number.is_multiple_of(6)),
    };
    Kind { number, outcome, is_right }
}

const N_KINDS: usize = 250;

fn weight(number: usize) -> f64 {
    1.0 / (number as f64 + 3.0)
}

/// The kinds of so many images, drawn by weight.
fn draw_kinds(generator: &mut SplitMix64, n: usize) -> Vec<Kind> {
    let total: f64 = (0..N_KINDS).map(weight).sum();
    let one = |generator: &mut SplitMix64| {
        let mut left = generator.below(1 << 40) as f64 / (1_u64 << 40) as f64 * total;
        let number = (0..N_KINDS).find(|&number| {
            left -= weight(number);
            left < 0.0
        });
        kind(number.unwrap_or(N_KINDS - 1))
    };
    (0..n).map(|_| one(generator)).collect()
}

fn trial(image: usize, kind: Kind) -> Trial {
    let text = format!("answer {}", kind.number);
    let answer = Answer { text, stop: Stop::Eos, n_prompt_tokens: None, n_answer_tokens: None, logit_gap: None };
    Trial {
        dataset: DATASET.into(),
        split: "test".into(),
        sample: format!("{DATASET}/test/{image:05}"),
        content: format!("blake3:{image}"),
        label: "cat".into(),
        subject: Subject::Model,
        mode: Mode::Generate,
        prompt: "emt".into(),
        response: Some(Response::Generated(answer)),
        thought: None,
        scores: Vec::new(),
        prior_corrected: None,
        fewer_shots: Vec::new(),
        verdicts: Vec::new(),
        outcome: kind.outcome,
    }
}

/// Draws a sheet of `kinds`, marks it as a person who knows would, and calibrates the judge on it.
fn calibrated(spec: &RunSpec, kinds: &[Kind], n: usize, seed: u64) -> Calibration {
    let trials: Vec<Trial> = kinds.iter().enumerate().map(|(image, &kind)| trial(image, kind)).collect();
    let mut sheet = draw_sheet(spec, "blake3:r", &trials, n, seed);
    for row in &mut sheet.rows {
        let number: usize = row.answer.rsplit(' ').next().unwrap().parse().unwrap();
        row.is_correct = Some(kind(number).is_right);
    }
    let outcomes: Vec<Outcome> = sheet.rows.iter().map(|row| row.outcome.unwrap()).collect();
    let pairs = marked_pairs(&sheet, &outcomes, true);
    Calibration::new(JudgeIdentity::of(&spec.judges), Some("blake3:r".into()), &pairs)
}

fn spec() -> RunSpec {
    emt::record::read_run(miniature()).unwrap().0.spec
}

#[test]
fn the_corrected_accuracy_is_right_on_average_over_sheets() {
    let spec = spec();
    let kinds = draw_kinds(&mut SplitMix64::new(5), N_IMAGES);
    let share = |is_it: fn(&Kind) -> bool| kinds.iter().filter(|kind| is_it(kind)).count() as f64 / N_IMAGES as f64;
    let (truth, judged) = (share(|kind| kind.is_right), share(|kind| kind.outcome == Outcome::Correct));
    assert!((truth - judged).abs() > 0.04, "there is something to correct: {truth} {judged}");
    let found: Vec<f64> = (0..100)
        .map(|seed| {
            let accuracy = &calibrated(&spec, &kinds, 50, seed).accuracies[0];
            assert!((accuracy.accuracy - judged).abs() < 1e-12);
            accuracy.corrected_accuracy
        })
        .collect();
    let n = found.len() as f64;
    let mean = found.iter().sum::<f64>() / n;
    let error = (found.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
    assert!(error > 0.0 && (mean - truth).abs() < 4.0 * error, "{mean} +- {error}, and not {truth}");
    // All marked, nothing is left to estimate.
    let all = &calibrated(&spec, &kinds, 10_000, 0).accuracies[0];
    assert!((all.corrected_accuracy - truth).abs() < 1e-12);
}

#[test]
fn corrected_intervals_hold_the_truth_about_as_often_as_they_say() {
    let spec = spec();
    let total: f64 = (0..N_KINDS).map(weight).sum();
    let right = |shift: usize| -> f64 {
        (0..N_KINDS).filter(|&at| kind((at + shift) % N_KINDS).is_right).map(|at| weight(at) / total).sum()
    };
    // Three images in ten get another answer after, out of another part of the vocabulary.
    let (before_truth, after_truth) = (right(0), 0.7 * right(0) + 0.3 * right(9));
    let mut generator = SplitMix64::new(77);
    let (mut n_held, mut n_accuracy_held, mut n_judged_held, mut widths) = (0, 0, 0, 0.0);
    const N_RUNS: usize = 80;
    for seed in 0..N_RUNS as u64 {
        let before = draw_kinds(&mut generator, N_IMAGES);
        let after: Vec<Kind> = before
            .iter()
            .map(|&same| if generator.below(10) < 3 { kind((same.number + 9) % N_KINDS) } else { same })
            .collect();
        let [baseline, candidate] = [&before, &after].map(|kinds| calibrated(&spec, kinds, 60, seed));
        let pairs: Vec<_> = before.iter().zip(&after).map(|(before, after)| (before.outcome, after.outcome)).collect();
        let found = corrected_forgetting(DATASET, &pairs, Some(&baseline), Some(&candidate), 0.95).unwrap();
        let holds = |[low, high]: [f64; 2], truth: f64| usize::from(low <= truth && truth <= high);
        n_held += holds(found.forgetting_interval, before_truth - after_truth);
        n_accuracy_held += holds(found.baseline_accuracy_interval, before_truth);
        widths += found.forgetting_interval[1] - found.forgetting_interval[0];
        let judged = corrected_forgetting(DATASET, &pairs, None, None, 0.95).unwrap();
        n_judged_held += holds(judged.baseline_accuracy_interval, before_truth);
    }
    let seen =
        format!("{n_held} and {n_accuracy_held} of {N_RUNS}, {n_judged_held} as judged, {}", widths / N_RUNS as f64);
    assert!(n_held.min(n_accuracy_held) >= N_RUNS * 9 / 10, "{seen}");
    assert!(n_judged_held < N_RUNS * 3 / 4, "as judged the truth is missed, or nothing was tested: {seen}");
    assert!(widths / N_RUNS as f64 <= 0.4, "an interval of everything holds everything: {seen}");
}
