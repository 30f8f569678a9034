//! Recomputes error codes with one set of fine-tuned labels for all runs.

use std::collections::HashMap;

use crate::domain::{ErrorCode, LabelSet, Mode, Outcome, Subject, Trial};
use crate::taxonomy::{Finding, Grader};

/// Gives every incorrect generated answer the code that its dataset's grader finds. `of_dataset` returns labels and
/// grader by the dataset's name.
///
/// The answer stays incorrect, as it was judged. If the grader finds it correct, the code is `disputed`.
pub fn recode<'a>(trials: &mut [Trial], of_dataset: impl Fn(&str) -> Option<(&'a LabelSet, &'a Grader)>) {
    // Answers repeat, and grading is slower than a lookup.
    let mut known: HashMap<(String, usize, String), ErrorCode> = HashMap::new();
    for trial in trials {
        let is_generated = trial.subject == Subject::Model && trial.mode == Mode::Generate;
        let (true, Outcome::Incorrect(_), Some(text)) = (is_generated, trial.outcome, trial.text()) else {
            continue;
        };
        let Some((labels, grader)) = of_dataset(&trial.dataset) else { continue };
        let Some(label) = labels.index_of(&trial.label) else { continue };
        let code = known.entry((trial.dataset.clone(), label, text.to_owned())).or_insert_with(|| {
            match grader.grade(label, text).finding {
                Finding::Error(code) => code,
                Finding::Correct { .. } => ErrorCode::Disputed,
            }
        });
        trial.outcome = Outcome::Incorrect(*code);
    }
}
