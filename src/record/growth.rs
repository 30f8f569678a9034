//! How a recorded run may grow: only by modes of its model.

use super::{Manifest, identity};
use crate::domain::{Mode, RunSpec, Subject};

/// The relation of a command to a recorded run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// It asks for the same run.
    Same,
    /// It asks for the same run with additional modes, which are listed. Recorded trials stay.
    Grows(Vec<Mode>),
    /// It asks for the same run with fewer modes. The folder would then hold more than `run.json` says.
    Shrinks,
    /// It asks for the same run with another choice of modes.
    OtherModes,
    /// It asks for another run.
    Other,
}

/// Returns the relation of the specification `asked` to the run of `recorded`.
pub fn resumption(recorded: &Manifest, asked: &RunSpec) -> Resumption {
    if recorded.identity == identity(asked) {
        return Resumption::Same;
    }
    let (before, after) = (&recorded.spec.modes, &asked.modes);
    let has_all = |modes: &[Mode], of: &[Mode]| of.iter().all(|mode| modes.contains(mode));
    if has_all(after, before) && identity(&in_modes(asked, before)) == recorded.identity {
        return Resumption::Grows(after.iter().copied().filter(|mode| !before.contains(mode)).collect());
    }
    if has_all(before, after) && identity(&in_modes(&recorded.spec, after)) == identity(asked) {
        return Resumption::Shrinks;
    }
    // If one has all modes of the other, the comparison above already covered everything.
    let is_another_choice = !has_all(after, before) && !has_all(before, after);
    let has_modes_alone = identity(&in_modes(asked, &[])) == identity(&in_modes(&recorded.spec, &[]));
    if is_another_choice && has_modes_alone { Resumption::OtherModes } else { Resumption::Other }
}

/// Returns the specification with the model's modes restricted to `modes`.
fn in_modes(spec: &RunSpec, modes: &[Mode]) -> RunSpec {
    let mut spec = spec.clone();
    spec.modes.retain(|mode| modes.contains(mode));
    for dataset in &mut spec.datasets {
        dataset.prompts.retain(|prompt| prompt.subject != Subject::Model || modes.contains(&prompt.mode));
    }
    if let Some(served) = spec.model.served.as_mut().filter(|_| !modes.contains(&Mode::Score)) {
        // A server's label scoring is only detected if labels are scored.
        served.label_scoring = None;
    }
    if !modes.contains(&Mode::Score) {
        spec.label_scoring_version = 1;
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::super::testing::{manifest, spec};
    use super::*;
    use crate::domain::ServedSpec;

    /// [`spec`] with label scoring added.
    fn with_scoring() -> RunSpec {
        let mut spec = spec();
        spec.modes.push(Mode::Score);
        for dataset in &mut spec.datasets {
            let scored = crate::domain::SubjectPrompt { mode: Mode::Score, ..dataset.prompts[0].clone() };
            dataset.prompts.insert(1, scored);
        }
        spec
    }

    fn manifest_of(spec: RunSpec) -> Manifest {
        Manifest::new(spec, manifest().environment)
    }

    #[test]
    fn a_run_grows_by_a_mode_and_never_shrinks() {
        assert_eq!(resumption(&manifest(), &spec()), Resumption::Same);
        assert_eq!(resumption(&manifest(), &with_scoring()), Resumption::Grows(vec![Mode::Score]));
        assert_eq!(resumption(&manifest_of(with_scoring()), &spec()), Resumption::Shrinks);
        let scored = manifest_of(in_modes(&with_scoring(), &[Mode::Score]));
        assert_eq!(resumption(&scored, &with_scoring()), Resumption::Grows(vec![Mode::Generate]));
        assert_eq!(resumption(&scored, &spec()), Resumption::OtherModes);
    }

    #[test]
    fn what_differs_in_anything_else_is_another_run_whatever_its_modes() {
        let changes: [fn(&mut RunSpec); 5] = [
            |spec| spec.max_new_tokens += 1,
            |spec| spec.datasets.truncate(1),
            |spec| spec.encoder = None,
            |spec| spec.datasets[0].prompts[0].text.push('x'),
            |spec| spec.judges[0].model = "rules/0".into(),
        ];
        for change in changes {
            let mut asked = with_scoring();
            change(&mut asked);
            assert_eq!(resumption(&manifest(), &asked), Resumption::Other);
        }
    }

    #[test]
    fn the_version_of_label_scoring_is_a_part_of_scoring() {
        let second = || RunSpec { label_scoring_version: 2, ..with_scoring() };
        assert_eq!(resumption(&manifest(), &second()), Resumption::Grows(vec![Mode::Score]));
        assert_eq!(resumption(&manifest_of(with_scoring()), &second()), Resumption::Other);
    }

    #[test]
    fn how_a_server_scores_labels_is_a_part_of_scoring() {
        let served = |label_scoring: Option<&str>| ServedSpec {
            model: "tiny".into(),
            request: serde_json::json!({}),
            n_probe_tokens: Some(9),
            probe_answer: None,
            label_scoring: label_scoring.map(str::to_owned),
        };
        let mut before = spec();
        before.model.served = Some(served(None));
        let mut asked = with_scoring();
        asked.model.served = Some(served(Some("prompt_logprobs")));
        assert_eq!(resumption(&manifest_of(before), &asked), Resumption::Grows(vec![Mode::Score]));
        let mut other = asked.clone();
        other.model.served = Some(served(Some("guided_choice")));
        assert_eq!(resumption(&manifest_of(asked), &other), Resumption::Other);
    }
}
