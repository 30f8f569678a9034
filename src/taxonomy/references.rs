//! Real answers: tiny-llava's, whose accuracy by equality is published beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::cases::LEXICON;
use super::{Finding, Grader};
use crate::domain::{AnswerType, ErrorCode, Label, LabelSet};

fn shared() -> Option<PathBuf> {
    let shared = std::env::var_os("EMT_SHARED").map(PathBuf::from);
    if shared.is_none() {
        eprintln!("skipped: EMT_SHARED is not set");
    }
    shared
}

/// Pairs of (label, answer).
#[expect(clippy::disallowed_methods, reason = "reads reference answers")]
fn answers(path: PathBuf) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line.get("answer").is_some())
        .map(|line| (line["label"].as_str().unwrap().to_owned(), line["answer"].as_str().unwrap().to_owned()))
        .collect()
}

struct Graded {
    /// Correct answers in percent.
    accuracy: f64,
    /// Answers that the rules credit although they are not the label's name (a final full stop apart).
    beyond_equality: BTreeMap<(String, String), usize>,
    /// Answers equal to the label that the rules do not credit.
    missed: usize,
    codes: BTreeMap<ErrorCode, BTreeMap<(String, String), usize>>,
}

fn grade(dataset: &str, answers: &[(String, String)]) -> Graded {
    let names: BTreeSet<&str> = answers.iter().map(|(label, _)| label.as_str()).collect();
    let answer_type = if dataset == "mnist" { AnswerType::Number } else { AnswerType::Object };
    let labels = LabelSet::new(names.into_iter().map(Label::named).collect(), answer_type).unwrap();
    let grader = Grader::new(&labels, &[], &LEXICON);
    let mut graded = Graded { accuracy: 0.0, beyond_equality: BTreeMap::new(), missed: 0, codes: BTreeMap::new() };
    let mut n_correct = 0;
    for (label, answer) in answers {
        let is_equal = label == answer.trim_end_matches('.').trim_start_matches("The object is a ");
        let pair = (label.clone(), answer.clone());
        match grader.grade(labels.index_of(label).unwrap(), answer).finding {
            Finding::Correct { .. } => {
                n_correct += 1;
                if !is_equal {
                    *graded.beyond_equality.entry(pair).or_default() += 1;
                }
            }
            Finding::Error(code) => {
                graded.missed += usize::from(is_equal);
                *graded.codes.entry(code).or_default().entry(pair).or_default() += 1;
            }
        }
    }
    graded.accuracy = 100.0 * f64::from(n_correct) / answers.len() as f64;
    graded
}

#[test]
fn real_answers_score_what_equality_gives_and_what_goes_beyond_it_is_the_label() {
    let Some(shared) = shared() else { return };
    for dataset in ["mnist", "cifar10", "cifar100", "imagenet20"] {
        let answers = answers(shared.join(format!("models/answers/{dataset}.jsonl")));
        let graded = grade(dataset, &answers);
        eprintln!("{dataset} {:.2} beyond {:?} missed {}", graded.accuracy, graded.beyond_equality, graded.missed);
        for (code, pairs) in &graded.codes {
            let mut top: Vec<_> = pairs.iter().collect();
            top.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            eprintln!("  {} {} {:?}", code.name(), pairs.values().sum::<usize>(), &top[..top.len().min(12)]);
        }
    }
}
