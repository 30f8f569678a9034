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
