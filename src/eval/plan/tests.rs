//! Tests of `plan`.

use super::*;
use crate::dataset::{Catalog, DataRoots, OpenRequest, open};
use crate::domain::{Prompt, RunId};
use crate::eval::Question;

fn digits() -> Dataset {
    let request = OpenRequest { text: "embedded/mnist", split: None, labels_file: None, ..OpenRequest::default() };
    open(&Catalog::embedded(), &DataRoots::default(), &request).unwrap()
}

fn first(limit: usize) -> Selection<'static> {
    Selection { sample_seed: 7, limit: Some(limit), samples: None }
}

const FIRST: RunId = RunId::new(0);
const GENERATE: [Mode; 1] = [Mode::Generate];
const FOUR: Batching = Batching { size: 4, is_served: false };
const ZERO_SHOT: Option<Mode> = Some(Mode::ZeroShot);

#[test]
fn a_probe_is_asked_in_the_encoders_place() {
    let dataset = digits();
    let whole = plan(&dataset, first(4), &GENERATE, Some(Mode::Probe), &[HashSet::new()], FOUR);
    assert!(whole.remaining.iter().all(|work| work.encoder.is_empty() && work.probe.contains(FIRST)));
    let probed = whole.selected.iter().map(|&at| key(&dataset, at, Subject::Encoder, Mode::Probe)).collect();
    let resumed = plan(&dataset, first(4), &GENERATE, Some(Mode::Probe), &[probed], FOUR);
    assert!(resumed.remaining.iter().all(|work| work.probe.is_empty() && work.generate.contains(FIRST)));
    let only = whole.remaining[0].only(RunSet::of(2, |run| run == RunId::new(1)));
    assert!(only.runs().is_empty() && !whole.remaining[0].runs().is_empty());
}

#[test]
fn a_server_is_asked_only_about_what_is_lacking_and_the_encoder_about_whole_batches() {
    let dataset = digits();
    let whole = plan(&dataset, first(8), &GENERATE, ZERO_SHOT, &[HashSet::new()], FOUR);
    let of = |&position: &usize| key(&dataset, position, Subject::Model, Mode::Generate);
    let recorded: HashSet<TrialKey> = whole.selected[..3].iter().map(of).collect();
    let served = Batching { is_served: true, ..FOUR };
    let resumed = plan(&dataset, first(8), &GENERATE, ZERO_SHOT, &[recorded], served);
    let asked: Vec<bool> = resumed.remaining.iter().map(|work| !work.generate.is_empty()).collect();
    assert_eq!(asked, [false, false, false, true, true, true, true, true]);
    assert!(resumed.remaining.iter().all(|work| !work.encoder.is_empty()));
}

#[test]
fn modes_are_planned_apart_and_ordered_with_the_encoder_last() {
    let dataset = digits();
    let both = [Mode::Generate, Mode::Score];
    let whole = plan(&dataset, first(4), &both, ZERO_SHOT, &[HashSet::new()], FOUR);
    let generated: HashSet<TrialKey> =
        whole.selected.iter().map(|&at| key(&dataset, at, Subject::Model, Mode::Generate)).collect();
    let resumed = plan(&dataset, first(4), &both, ZERO_SHOT, &[generated], FOUR);
    assert_eq!((resumed.remaining.len(), resumed.n_recorded), (4, 0));
    for (before, after) in whole.remaining.iter().zip(&resumed.remaining) {
        assert!(before.generate.contains(FIRST) && before.score.contains(FIRST) && before.encoder.contains(FIRST));
        assert!(after.generate.is_empty() && after.score.contains(FIRST) && after.encoder.contains(FIRST));
    }
    let prompt = Prompt { name: "emt".to_owned(), text: String::new() };
    let mut task = Task::new(dataset, Question::about_one_image(prompt, Vec::new()), None);
    task.work = whole;
    let keys = order(&[task]);
    let modes: Vec<Mode> = keys[..4].iter().map(|key| key.mode).collect();
    assert_eq!(modes, [Mode::Generate, Mode::Score, Mode::ZeroShot, Mode::Probe]);
}

#[test]
fn a_batch_that_lacks_one_trial_is_asked_as_a_whole_by_the_runs_that_lack_it() {
    let dataset = digits();
    let whole = plan(&dataset, first(10), &GENERATE, ZERO_SHOT, &[HashSet::new(), HashSet::new()], FOUR);
    assert_eq!(whole.remaining.len(), 10);
    let all: HashSet<TrialKey> = whole
        .selected
        .iter()
        .flat_map(|&position| ASKED.map(|(subject, mode)| key(&dataset, position, subject, mode)))
        .collect();
    let mut torn = all.clone();
    torn.remove(&key(&dataset, whole.selected[5], Subject::Model, Mode::Generate));
    let resumed = plan(&dataset, first(10), &GENERATE, ZERO_SHOT, &[all.clone(), torn.clone()], FOUR);
    assert_eq!(resumed.n_recorded, 9);
    let positions: Vec<usize> = resumed.remaining.iter().map(|work| work.position).collect();
    assert_eq!(positions, whole.selected[4..8]);
    for work in &resumed.remaining {
        assert_eq!(work.generate.iter().collect::<Vec<_>>(), [RunId::new(1)]);
        assert!(work.score.is_empty() && work.encoder.is_empty());
    }
    // The scores are recorded, so a run that only scores lacks nothing.
    assert!(plan(&dataset, first(10), &[Mode::Score], ZERO_SHOT, &[torn], FOUR).remaining.is_empty());
    assert!(plan(&dataset, first(10), &GENERATE, ZERO_SHOT, &[all.clone(), all], FOUR).remaining.is_empty());
}

#[test]
fn a_larger_limit_asks_the_last_batch_of_the_smaller_one_again() {
    let dataset = digits();
    let small = plan(&dataset, first(10), &GENERATE, None, &[HashSet::new()], FOUR);
    let of = |&position: &usize| key(&dataset, position, Subject::Model, Mode::Generate);
    let recorded = small.selected.iter().map(of).collect();
    let larger = plan(&dataset, first(20), &GENERATE, None, &[recorded], FOUR);
    let positions: Vec<usize> = larger.remaining.iter().map(|work| work.position).collect();
    assert_eq!(positions, larger.selected[8..], "its batch has other neighbours now");
}

#[test]
fn named_samples_keep_their_order_among_all_and_the_limit_counts_within_them() {
    let dataset = digits();
    let all = Selection { sample_seed: 7, ..Selection::default() }.of(&dataset);
    let places = [3, 40, 41, 599];
    let ids = places.iter().map(|&place| dataset.samples[all[place]].id.clone()).collect();
    let set: SampleSet = [(dataset.name.clone(), ids)].into_iter().collect();
    let of = |limit| Selection { sample_seed: 7, limit, samples: Some(&set) };
    let planned = |limit| plan(&dataset, of(limit), &GENERATE, None, &[HashSet::new()], FOUR).selected;
    assert_eq!(planned(None), places.map(|place| all[place]));
    assert_eq!(planned(Some(2)), [all[3], all[40]]);
    assert_eq!(planned(Some(9)).len(), 4);
    let none = SampleSet::default();
    assert!(Selection { samples: Some(&none), ..of(None) }.of(&dataset).is_empty());
}

#[test]
fn after_named_samples_only_batches_that_are_recorded_as_a_whole_are_not_asked_again() {
    let dataset = digits();
    let all = plan(&dataset, first(12), &GENERATE, None, &[HashSet::new()], FOUR);
    let of = |place: usize| key(&dataset, all.selected[place], Subject::Model, Mode::Generate);
    let recorded: HashSet<TrialKey> = [0, 1, 2, 3, 9].map(of).into_iter().collect();
    let resumed = plan(&dataset, first(12), &GENERATE, None, &[recorded], FOUR);
    let positions: Vec<usize> = resumed.remaining.iter().map(|work| work.position).collect();
    assert_eq!((positions, resumed.n_recorded), (all.selected[4..].to_vec(), 5));
}
