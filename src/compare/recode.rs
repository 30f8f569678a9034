//! The codes of errors, made anew with one set of fine-tuned labels for all runs.

use std::collections::HashMap;

use crate::domain::{ErrorCode, LabelSet, Mode, Outcome, Subject, Trial};
use crate::taxonomy::{Finding, Grader};

/// Gives every generated answer that is an error the code that its dataset's grader finds; `of_dataset` knows labels and
/// grader by the dataset's name.
///
/// The outcome stays: whoever judged it incorrect has judged. Where the taxonomy finds just the label, that is disputed.
pub fn recode<'a>(trials: &mut [Trial], of_dataset: impl Fn(&str) -> Option<(&'a LabelSet, &'a Grader)>) {
    // Answers repeat, and reading one takes longer than looking it up.
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
