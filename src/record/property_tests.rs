//! Properties of every run folder.
#![expect(clippy::disallowed_methods, reason = "these tests break files on purpose")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::journal::{lines, replay};
use super::testing::{manifest, trial};
use super::{Manifest, Opened, RecordError, RunFolder, RunState, read_outcomes, read_run, wire};
use crate::domain::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z ]{0,8}", any::<String>(), Just("line\nbreak \u{2028}\"\\ \u{0}".to_owned())]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    use UnscoredReason::*;
    let reasons = vec![
        Pending,
        ImageUnreadable,
        ModelError,
        ModelUnreachable,
        ThoughtCutOff,
        JudgeFailed,
        JudgeUnparsable,
        JudgeBudget,
    ];
    prop_oneof![
        Just(Outcome::Correct),
        prop::sample::select(ErrorCode::ALL.to_vec()).prop_map(Outcome::Incorrect),
        prop::sample::select(reasons).prop_map(Outcome::Unscored),
    ]
}

fn verdict() -> impl Strategy<Value = JudgeVerdict> {
    let verdicts = vec![Judgement::Correct, Judgement::Incorrect, Judgement::Undecided];
    let result = prop_oneof![prop::sample::select(verdicts).prop_map(Ok), text().prop_map(Err)];
    (text(), result, prop::option::of(text())).prop_map(|(judge, result, reply)| JudgeVerdict { judge, result, reply })
}

fn finite() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("JSON has finite numbers only", |number| number.is_finite())
}

prop_compose! {
    fn answer()(
        text in text(),
        stop in prop::sample::select(vec![Stop::Eos, Stop::Length, Stop::StopString, Stop::Error]),
        n_prompt_tokens in prop::option::of(any::<u32>()),
        n_answer_tokens in prop::option::of(any::<u32>()),
        logit_gap in prop::option::of(finite()),
    ) -> Answer {
        Answer { text, stop, n_prompt_tokens, n_answer_tokens, logit_gap }
    }
}

fn response(mode: Mode, answer: Answer) -> Response {
    match mode {
        Mode::Generate => Response::Generated(answer),
        _ => Response::Chosen { label: answer.text, n_prompt_tokens: answer.n_prompt_tokens },
    }
}

prop_compose! {
    /// Few datasets and samples, so that keys repeat.
    fn any_trial()(
        dataset in prop::sample::select(vec!["mnist", "cifar10"]),
        sample in 0..6usize,
        names in [text(), text(), text(), text()],
        subject in prop::sample::select(vec![Subject::Model, Subject::Encoder]),
        mode in prop::sample::select(vec![Mode::Generate, Mode::Score, Mode::ZeroShot, Mode::Probe]),
        answer in answer(),
        is_answered in any::<bool>(),
        thought in prop::option::of(text()),
        scores in prop::collection::vec((text(), finite(), prop::option::of(finite())), 0..3),
        prior_corrected in prop::option::of((text(), any::<bool>())),
        fewer_shots in prop::collection::vec((any::<usize>(), text(), any::<bool>()), 0..3),
        verdicts in prop::collection::vec(verdict(), 0..3),
        outcome in outcome(),
    ) -> Trial {
        let [split, content, label, prompt] = names;
        let is_scored = !matches!(outcome, Outcome::Unscored(_));
        let fewer = |(shots, answer, is_correct)| FewerShots { shots, answer, is_correct };
        Trial {
            dataset: dataset.to_owned(),
            split,
            sample: format!("{dataset}/test/{sample:05}"),
            content,
            label,
            subject,
            mode,
            prompt,
            response: (is_answered || is_scored).then(|| response(mode, answer)),
            thought,
            scores: scores.into_iter().map(|(label, score, share)| ScoredLabel { label, score, share }).collect(),
            prior_corrected: prior_corrected.map(|(answer, is_correct)| PriorCorrected { answer, is_correct }),
            fewer_shots: fewer_shots.into_iter().map(fewer).collect(),
            verdicts,
            outcome,
        }
    }
}

/// The last trial of each key, found by a linear search.
fn last_of_each_key(trials: &[Trial]) -> BTreeMap<TrialKey, Trial> {
    trials.iter().map(|trial| (trial.key(), trial.clone())).collect()
}

fn by_key(trials: Vec<Trial>) -> BTreeMap<TrialKey, Trial> {
    let n_trials = trials.len();
    let by_key: BTreeMap<TrialKey, Trial> = trials.into_iter().map(|trial| (trial.key(), trial)).collect();
    assert_eq!(by_key.len(), n_trials, "a key stands twice");
    by_key
}

fn open(dir: &Path) -> (RunFolder, Vec<Trial>) {
    RunFolder::create_or_resume(dir, manifest(), false).unwrap()
}

/// A path for messages.
fn nowhere() -> &'static Path {
    Path::new("run/trials.jsonl")
}

proptest! {
    #[test]
    fn a_trial_is_read_as_it_was_written(trial in any_trial()) {
        let mut line = Vec::new();
        wire::write(&trial, &mut line).unwrap();
        prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        prop_assert_eq!(wire::parse(&line).unwrap(), trial);
    }

    #[test]
    fn the_last_line_of_a_key_wins(trials in prop::collection::vec(any_trial(), 0..40)) {
        let replayed = replay(&lines(&trials).unwrap()[..], nowhere()).unwrap();
        prop_assert_eq!(by_key(replayed.trials), last_of_each_key(&trials));
    }

    #[test]
    fn one_dataset_is_read_as_it_stands_among_the_others(
        trials in prop::collection::vec(any_trial(), 1..20),
        is_foreign in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = lines(&trials).unwrap();
        if is_foreign {
            // Another program may write the same with spaces, and with fields in another order.
            let text = String::from_utf8(bytes).unwrap();
            let foreign = text.lines().enumerate().map(|(index, line)| match index % 2 {
                0 => line.replacen("{\"dataset\":", "{\"dataset\": ", 1),
                _ => line.replacen('{', "{ ", 1),
            });
            bytes = foreign.flat_map(|line| [line.into_bytes(), vec![b'\n']].concat()).collect();
        }
        fs::write(dir.path().join("trials.jsonl"), bytes).unwrap();
        let wanted = trials[0].dataset.clone();
        let key = |trial: &Trial| (trial.key(), trial.outcome);
        let found: Vec<_> = read_outcomes(dir.path(), &wanted).unwrap().iter().map(key).collect();
        let all = replay(&lines(&trials).unwrap()[..], nowhere()).unwrap().trials;
        let expected: Vec<_> = all.iter().filter(|trial| trial.dataset == wanted).map(key).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_journal_cut_at_any_byte_keeps_every_line_before_the_cut(
        trials in prop::collection::vec(any_trial(), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = lines(&trials).unwrap();
        let cut = cut.index(bytes.len());
        let n_lines_whole = bytes[..cut].iter().filter(|&&byte| byte == b'\n').count();
        // A line that lacks only its newline is complete.
        let is_next_whole = bytes[cut] == b'\n';
        let replayed = replay(&bytes[..cut], nowhere()).unwrap();
        let expected = last_of_each_key(&trials[..n_lines_whole + usize::from(is_next_whole)]);
        prop_assert_eq!(by_key(replayed.trials), expected);
        prop_assert_eq!(replayed.n_bytes_whole + replayed.n_bytes_torn, cut as u64);
        prop_assert_eq!(replayed.lacks_newline, is_next_whole);
    }

    #[test]
    fn a_line_cut_in_the_middle_of_a_journal_is_an_error(cut in any::<prop::sample::Index>()) {
        let (first, second) = (lines(&[trial(0)]).unwrap(), lines(&[trial(1)]).unwrap());
        let cut = cut.index(first.len() - 2) + 1;
        let bytes = [&first[..cut], b"\n", &second[..]].concat();
        let is_error = matches!(replay(&bytes[..], nowhere()), Err(RecordError::BrokenLine { line: 1, .. }));
        prop_assert!(is_error);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(manifest_bytes in any::<Vec<u8>>(), journal_bytes in any::<Vec<u8>>()) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("run.json"), manifest_bytes).unwrap();
        fs::write(dir.path().join("trials.jsonl"), &journal_bytes).unwrap();
        prop_assert!(read_run(dir.path()).is_err(), "random bytes are no manifest");
        let _ = replay(&journal_bytes[..], nowhere());
    }

    #[test]
    fn a_changed_byte_never_makes_a_reader_panic(
        trials in prop::collection::vec(any_trial(), 1..4),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = lines(&trials).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(replayed) = replay(&bytes[..], nowhere()) {
            prop_assert!(replayed.trials.len() <= trials.len() + 1);
        }
    }
}

proptest! {
    // Few cases, since each writes folders and syncs them.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_interrupted_run_ends_as_an_uninterrupted_one(
        n_trials in 1..30usize,
        n_in_batch in 1..8usize,
        stops in prop::collection::vec((0..30usize, 0..400usize), 0..4),
    ) {
        let trials: Vec<Trial> = (0..n_trials).map(trial).collect();
        let order: Vec<TrialKey> = trials.iter().map(Trial::key).collect();
        let folders = tempfile::tempdir().unwrap();

        let whole = folders.path().join("whole");
        let (mut folder, _) = open(&whole);
        folder.append(&trials).unwrap();
        folder.finish(&order).unwrap();

        let broken = folders.path().join("broken");
        for (n_done_before_stop, n_bytes_lost) in stops {
            let (mut folder, _) = open(&broken);
            for batch in trials[..n_done_before_stop.min(n_trials)].chunks(n_in_batch) {
                folder.append(batch).unwrap();
            }
            drop(folder);
            let journal = fs::OpenOptions::new().write(true).open(broken.join("trials.jsonl")).unwrap();
            let n_bytes = journal.metadata().unwrap().len();
            journal.set_len(n_bytes.saturating_sub(n_bytes_lost as u64)).unwrap();
        }
        let (mut folder, present) = open(&broken);
        let present = by_key(present);
        let missing: Vec<Trial> = trials.iter().filter(|trial| !present.contains_key(&trial.key())).cloned().collect();
        folder.append(&missing).unwrap();
        let returned = folder.finish(&order).unwrap();

        prop_assert_eq!(&returned, &trials);
        let journal = |dir: &Path| fs::read(dir.join("trials.jsonl")).unwrap();
        prop_assert_eq!(journal(&whole), journal(&broken));
        let (mut left, _) = read_run(&whole).unwrap();
        let (mut right, read) = read_run(&broken).unwrap();
        prop_assert_eq!(read, trials);
        prop_assert_eq!(left.state, RunState::Complete);
        left.environment.clear();
        right.environment.clear();
        prop_assert_eq!(left, right);
    }
}

#[test]
fn a_torn_line_is_cut_off_on_resume_and_ignored_on_reading() {
    let dir = tempfile::tempdir().unwrap();
    let (mut folder, present) = open(dir.path());
    assert_eq!((folder.opened(), present.len()), (&Opened::New, 0));
    folder.append(&[trial(0), trial(1)]).unwrap();
    drop(folder);
    let path = dir.path().join("trials.jsonl");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], b"{\"dataset\":\"mn"].concat()).unwrap();

    assert_eq!(read_run(dir.path()).unwrap().1, [trial(0), trial(1)]);
    assert_ne!(fs::read(&path).unwrap(), whole, "a reader repairs nothing");
    let (folder, present) = open(dir.path());
    let opened = Opened::Resumed { n_trials: 2, n_bytes_torn: 14, was_complete: false, added_modes: Vec::new() };
    assert_eq!(*folder.opened(), opened);
    assert_eq!(present, [trial(0), trial(1)]);
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn a_line_that_lacks_its_newline_gets_it_on_resume() {
    let dir = tempfile::tempdir().unwrap();
    let (mut folder, _) = open(dir.path());
    folder.append(&[trial(0)]).unwrap();
    drop(folder);
    let path = dir.path().join("trials.jsonl");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let (mut folder, present) = open(dir.path());
    assert_eq!(present, [trial(0)]);
    folder.append(&[trial(1)]).unwrap();
    assert_eq!(read_run(dir.path()).unwrap().1, [trial(0), trial(1)]);
}

#[test]
fn a_folder_has_one_writer_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = open(dir.path());
    let second = RunFolder::create_or_resume(dir.path(), manifest(), false);
    assert!(matches!(second, Err(RecordError::InUse { .. })));
    assert!(read_run(dir.path()).is_ok(), "reading needs no lock");
    drop(folder);
    open(dir.path());
}

#[test]
fn another_run_in_the_folder_is_refused_and_the_field_is_named() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).0.append(&[trial(0)]).unwrap();
    let mut asked = manifest();
    asked.spec.datasets[1].split = "train".into();
    asked.identity = super::identity(&asked.spec);
    let before = fs::read(dir.path().join("run.json")).unwrap();
    let message = RunFolder::create_or_resume(dir.path(), asked, false).unwrap_err().to_string();
    assert!(message.contains("`datasets[1].split` is \"test\" there and \"train\" here"), "{message}");
    assert_eq!(fs::read(dir.path().join("run.json")).unwrap(), before, "a refused command changes nothing");
}

/// [`manifest`] with label scoring added.
fn with_scoring() -> Manifest {
    let mut spec = manifest().spec;
    spec.modes.push(Mode::Score);
    for dataset in &mut spec.datasets {
        dataset.prompts.insert(1, SubjectPrompt { mode: Mode::Score, ..dataset.prompts[0].clone() });
    }
    Manifest::new(spec, manifest().environment)
}

#[test]
fn a_run_that_grows_says_so_before_its_first_new_trial_and_can_be_gone_on_with_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (mut folder, _) = open(dir.path());
    folder.append(&[trial(0)]).unwrap();
    drop(folder);
    let small = fs::read(dir.path().join("run.json")).unwrap();
    // Killed before anything was asked: the folder is unchanged, and either command can resume it.
    let (folder, present) = RunFolder::create_or_resume(dir.path(), with_scoring(), false).unwrap();
    assert_eq!(present, [trial(0)]);
    assert!(matches!(folder.opened(), Opened::Resumed { added_modes, .. } if *added_modes == [Mode::Score]));
    drop(folder);
    assert_eq!(fs::read(dir.path().join("run.json")).unwrap(), small);
    open(dir.path());
    // Killed after the first new trial: the folder holds the larger run.
    let scored = Trial { mode: Mode::Score, verdicts: Vec::new(), ..trial(0) };
    let (mut folder, _) = RunFolder::create_or_resume(dir.path(), with_scoring(), false).unwrap();
    folder.append(&[scored]).unwrap();
    drop(folder);
    let (grown, trials) = read_run(dir.path()).unwrap();
    assert_eq!((&grown.identity, trials.len()), (&with_scoring().identity, 2));
    assert_eq!(grown.environment["earlier_identities"], serde_json::json!([manifest().identity]));
    assert_eq!(grown.comparable, with_scoring().comparable);
    let message = RunFolder::create_or_resume(dir.path(), manifest(), false).unwrap_err().to_string();
    assert!(message.contains("generate,score") && message.contains("`--modes generate,score`"), "{message}");
    let (folder, _) = RunFolder::create_or_resume(dir.path(), with_scoring(), false).unwrap();
    folder.finish(&[]).unwrap();
    let (finished, trials) = read_run(dir.path()).unwrap();
    assert_eq!((finished.identity, trials.len()), (with_scoring().identity, 2));
    assert_eq!(finished.environment["earlier_identities"], serde_json::json!([manifest().identity]));
}

#[test]
fn another_run_may_begin_where_nothing_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    let mut asked = manifest();
    asked.spec.datasets[1].split = "train".into();
    asked.identity = super::identity(&asked.spec);
    let (folder, present) = RunFolder::create_or_resume(dir.path(), asked.clone(), false).unwrap();
    assert!(present.is_empty());
    drop(folder);
    assert_eq!(read_run(dir.path()).unwrap().0.identity, asked.identity);
}

#[test]
fn fresh_refuses_a_folder_that_is_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    drop(RunFolder::create_or_resume(dir.path(), manifest(), true).unwrap());
    let second = RunFolder::create_or_resume(dir.path(), manifest(), true);
    assert!(matches!(second, Err(RecordError::NotFresh { .. })));
}

#[test]
fn trials_without_a_manifest_are_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut folder, _) = open(dir.path());
    folder.append(&[trial(0)]).unwrap();
    drop(folder);
    fs::remove_file(dir.path().join("run.json")).unwrap();
    let message = RunFolder::create_or_resume(dir.path(), manifest(), false).unwrap_err().to_string();
    assert!(message.contains("`run.json` is missing"), "{message}");
    assert!(!fs::read(dir.path().join("trials.jsonl")).unwrap().is_empty());
}

#[test]
fn a_complete_run_takes_more_trials_of_a_larger_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut folder, _) = open(dir.path());
    folder.append(&[trial(0)]).unwrap();
    folder.finish(&[trial(0).key()]).unwrap();
    let (mut folder, present) = open(dir.path());
    let opened = Opened::Resumed { n_trials: 1, n_bytes_torn: 0, was_complete: true, added_modes: Vec::new() };
    assert_eq!(*folder.opened(), opened);
    assert_eq!(read_run(dir.path()).unwrap().0.state, RunState::Complete, "nothing has changed yet");
    folder.append(&[trial(1)]).unwrap();
    assert_eq!(read_run(dir.path()).unwrap().0.state, RunState::Running);
    let environment = &folder.manifest().environment;
    assert_eq!(environment["started"], "2026-01-31T12:00:00Z");
    assert_eq!(environment["n_sittings"], 2);
    let trials = folder.finish(&[trial(0).key(), trial(1).key()]).unwrap();
    assert_eq!(trials, [present[0].clone(), trial(1)]);
}

#[test]
fn a_run_without_its_journal_is_no_run() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    fs::remove_file(dir.path().join("trials.jsonl")).unwrap();
    assert!(matches!(read_run(dir.path()), Err(RecordError::NoRun { name: "trials.jsonl", .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(read_run(empty.path()), Err(RecordError::NoRun { name: "run.json", .. })));
}
