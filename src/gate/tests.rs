//! Tests of each rule and of their common properties.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::compare::{CandidateComparison, DatasetComparison, Funnel, JudgeComparison, PairTable};

/// A table of 10 classes and `n` scored pairs; the baseline is right in `share` of them.
fn table(n: usize, lost: usize, gained: usize, share: f64) -> PairTable {
    let n_right = (n as f64 * share).round() as usize;
    PairTable { both_correct: n_right - lost, lost, gained, both_wrong: n - n_right - gained, ..PairTable::default() }
}

fn dataset(name: &str, table: PairTable) -> DatasetComparison {
    DatasetComparison::of_table(name, 10, table)
}

fn candidate(datasets: Vec<DatasetComparison>) -> CandidateComparison {
    CandidateComparison {
        run: "after".into(),
        identity: "blake3:1".into(),
        datasets,
        only_candidate: Vec::new(),
        differences: Vec::new(),
        settings: Vec::new(),
        tuned_on: Vec::new(),
    }
}

fn decided(policy: &str, datasets: Vec<DatasetComparison>) -> Decision {
    decide(&Policy::parse(policy).unwrap(), &candidate(datasets), &no_corrections)
}

fn one(policy: &str, dataset: DatasetComparison) -> (Verdict, Vec<ReasonCode>) {
    let decision = decided(policy, vec![dataset]);
    let of_dataset = &decision.datasets[0];
    (of_dataset.decision, of_dataset.reasons.iter().map(|reason| reason.code).collect())
}

#[test]
fn a_small_fall_in_many_pairs_passes_although_it_is_significant() {
    let decision = decided("", vec![dataset("d", table(10_000, 300, 200, 0.7))]);
    let found = &decision.datasets[0];
    assert_eq!((found.decision, decision.decision, decision.exit_code), (Verdict::Pass, Verdict::Pass, 0));
    assert!(found.p_value_mcnemar.unwrap() < 1e-4 && found.p_value.unwrap() < 1e-4);
    assert_eq!(
        (found.alpha_look, found.alpha_look_fail, found.look, found.n_looks, found.n_max),
        (0.025, 0.025, 1, 1, 10_000)
    );
    assert!((found.confidence - 0.95).abs() < 1e-12);
}

#[test]
fn a_fall_beyond_the_margin_fails_and_says_where_it_was_lost() {
    let mut fallen = dataset("d", table(2_000, 200, 50, 0.7));
    assert_eq!(one("", fallen.clone()), (Verdict::Fail, vec![ReasonCode::Forgetting]));
    fallen.funnel = Some(Funnel { lost_wording: 150, lost_choice: 30, lost_unknown: 20, ..Funnel::default() });
    assert_eq!(one("", fallen.clone()), (Verdict::Fail, vec![ReasonCode::Forgetting, ReasonCode::ForgettingWording]));
    fallen.funnel = Some(Funnel { lost_wording: 50, lost_choice: 101, lost_unknown: 49, ..Funnel::default() });
    assert_eq!(one("", fallen), (Verdict::Fail, vec![ReasonCode::Forgetting, ReasonCode::ForgettingChoice]));
    assert_eq!(decided("", vec![dataset("d", table(2_000, 200, 50, 0.7))]).exit_code, 1);
}

#[test]
fn too_few_pairs_decide_nothing_whatever_the_fall() {
    let decision = decided("", vec![dataset("d", table(199, 90, 0, 0.9))]);
    let reason = &decision.datasets[0].reasons[0];
    assert_eq!((decision.exit_code, reason.code), (3, ReasonCode::TooFewPairs));
    assert!(reason.message.contains("199") && reason.message.contains("200"), "{}", reason.message);
}

#[test]
fn near_the_margin_nothing_is_shown_and_the_number_needed_is_named() {
    let decision = decided("", vec![dataset("d", table(500, 20, 20, 0.7))]);
    let found = &decision.datasets[0];
    assert_eq!(found.reasons[0].code, ReasonCode::Underpowered);
    // (1.96 + 0.8416)^2 psi / margin^2 with psi = 41 / 502.
    assert_eq!(found.n_needed, Some(1_603));
    assert!(found.reasons[0].message.contains("1603"), "{}", found.reasons[0].message);
}

#[test]
fn a_baseline_near_chance_has_nothing_to_forget() {
    assert_eq!(
        one("", dataset("d", table(2_000, 100, 0, 0.11))),
        (Verdict::NotApplicable, vec![ReasonCode::NearChance])
    );
    let decision = decided("", vec![dataset("d", table(2_000, 100, 0, 0.11))]);
    assert_eq!((decision.decision, decision.exit_code), (Verdict::Inconclusive, 3));
    assert_eq!(decision.reasons.last().unwrap().code, ReasonCode::NothingPassed);
}

#[test]
fn an_ignored_dataset_and_a_tuned_one_do_not_count_as_passed() {
    let good = || dataset("d", table(2_000, 10, 10, 0.7));
    assert_eq!(one("ignore = [\"d\"]", good()), (Verdict::NotApplicable, vec![ReasonCode::Ignored]));
    assert_eq!(one("tuned_on = [\"d\"]", good()), (Verdict::NotApplicable, vec![]));
    assert_eq!(decided("tuned_on = [\"d\"]", vec![good()]).exit_code, 3);
    // The margin is 0: a fall that passes elsewhere fails here.
    let fell = dataset("d", table(2_000, 30, 8, 0.7));
    assert_eq!(one("margin = 0.05", fell.clone()).0, Verdict::Pass);
    assert_eq!(one("margin = 0.05\ntuned_on = [\"d\"]", fell), (Verdict::Fail, vec![ReasonCode::TunedDatasetFell]));
}

#[test]
fn unscored_trials_can_take_a_decision_back_but_never_make_one() {
    let scored = table(2_000, 20, 20, 0.7);
    assert_eq!(one("", dataset("d", scored)).0, Verdict::Pass);
    let with_gap = PairTable { correct_unscored: 39, ..scored };
    assert_eq!(one("", dataset("d", with_gap)), (Verdict::Inconclusive, vec![ReasonCode::UnscoredCouldDecide]));
    let more = PairTable { wrong_unscored: 60, ..scored };
    assert_eq!(one("", dataset("d", more)), (Verdict::Inconclusive, vec![ReasonCode::TooManyUnscored]));
    let both = PairTable { correct_unscored: 60, ..scored };
    let reasons = vec![ReasonCode::UnscoredCouldDecide, ReasonCode::TooManyUnscored];
    assert_eq!(one("", dataset("d", both)), (Verdict::Inconclusive, reasons));
    // A fail that holds in its worst case stays one, however many trials are unscored.
    let fallen = PairTable { unscored_correct: 100, ..table(2_000, 400, 50, 0.7) };
    assert_eq!(one("", dataset("d", fallen)).0, Verdict::Fail);
    let barely = PairTable { unscored_correct: 30, ..table(2_000, 120, 40, 0.7) };
    assert_eq!(one("", dataset("d", barely)), (Verdict::Inconclusive, vec![ReasonCode::UnscoredCouldDecide]));
}

fn judge(name: &str, table: PairTable) -> JudgeComparison {
    let accuracies = table.accuracies();
    JudgeComparison {
        judge: name.into(),
        baseline_accuracy: accuracies.map(|[before, _]| before),
        candidate_accuracy: accuracies.map(|[_, after]| after),
        forgetting: table.scored().fall(),
        table,
    }
}

/// Constructed trials. The paper publishes only the marginals of two graders of the same answers: 56.71% falling to
/// 9.20% by its judge, 68.10% rising to 80.60% by the nearest label. At n = 10,000 they allow every discordance from
/// the least (all change goes one way) to the greatest.
#[test]
fn graders_that_contradict_each_other_as_in_the_paper_decide_nothing() {
    let n = 10_000;
    let of = |before: usize, after: usize, is_greatest: bool| {
        // Right before and after: as many, or as few, as the marginals allow.
        let both_correct = if is_greatest { (before + after).saturating_sub(n) } else { before.min(after) };
        let (lost, gained) = (before - both_correct, after - both_correct);
        PairTable { both_correct, lost, gained, both_wrong: n - both_correct - lost - gained, ..PairTable::default() }
    };
    for is_greatest in [false, true] {
        let by_judge = of(5_671, 920, is_greatest);
        let by_nearest_label = of(6_810, 8_060, is_greatest);
        assert_eq!(by_judge.accuracies(), Some([0.5671, 0.0920]));
        assert_eq!(by_nearest_label.accuracies(), Some([0.6810, 0.8060]));
        let mut found = dataset("cifar10", by_judge);
        found.judges = vec![judge("llm", by_judge), judge("nearest_label", by_nearest_label)];
        found.n_pairs_of_all_judges = n;
        assert_eq!(one("", found.clone()), (Verdict::Inconclusive, vec![ReasonCode::GraderDependent]));
        assert_eq!(one("judges_must_agree = \"no\"", found).0, Verdict::Fail);
    }
}

#[test]
fn required_judges_must_have_judged_nearly_all_pairs() {
    let good = table(2_000, 20, 20, 0.7);
    let mut found = dataset("d", good);
    found.judges = vec![judge("rules", good), judge("llm", table(1_800, 18, 18, 0.7))];
    found.n_pairs_of_all_judges = 1_800;
    assert_eq!(one("", found.clone()).0, Verdict::Pass);
    let required = "judges_must_agree = \"required\"";
    assert_eq!(one(required, found.clone()), (Verdict::Inconclusive, vec![ReasonCode::GraderDependent]));
    found.n_pairs_of_all_judges = 1_950;
    assert_eq!(one(required, found).0, Verdict::Pass);
}

#[test]
fn a_pass_on_a_doubted_judge_is_inconclusive_and_a_fail_stays_one() {
    for (table, before, after) in [
        (table(2_000, 20, 20, 0.7), Verdict::Pass, (Verdict::Inconclusive, 3)),
        (table(2_000, 200, 50, 0.7), Verdict::Fail, (Verdict::Fail, 1)),
    ] {
        let mut decision = decided("", vec![dataset("d", table)]);
        assert_eq!(decision.decision, before);
        decision.doubt_judge("it says yes to everything".to_owned());
        assert_eq!((decision.decision, decision.exit_code), after);
        let reason = decision.reasons.last().unwrap();
        assert_eq!((reason.code, &*reason.message), (ReasonCode::JudgeError, "it says yes to everything"));
    }
}

#[test]
fn a_judges_measured_error_can_take_a_decision_back() {
    let corrected = |interval: [f64; 2], found: PairTable| {
        let policy = Policy::default();
        let correction = move |_: &str, confidence: f64| {
            assert!((confidence - 0.95).abs() < 1e-12);
            Some(interval)
        };
        let decision = decide(&policy, &candidate(vec![dataset("d", found)]), &correction);
        (decision.datasets[0].decision, decision.datasets[0].reasons.first().map(|reason| reason.code))
    };
    let (good, fallen) = (table(2_000, 20, 20, 0.7), table(2_000, 200, 50, 0.7));
    assert_eq!(corrected([-0.01, 0.01], good), (Verdict::Pass, None));
    assert_eq!(corrected([-0.01, 0.03], good), (Verdict::Inconclusive, Some(ReasonCode::JudgeError)));
    assert_eq!(corrected([0.03, 0.09], fallen), (Verdict::Fail, Some(ReasonCode::Forgetting)));
    assert_eq!(corrected([0.01, 0.09], fallen), (Verdict::Inconclusive, Some(ReasonCode::JudgeError)));
}

#[test]
fn caps_fail_beyond_their_bound_and_warn_before_it() {
    let leaky = |n: usize| {
        let mut found = dataset("d", table(2_000, 20, 20, 0.7));
        found.errors_after.n_scored = 2_000;
        found.errors_after.codes = BTreeMap::from([("leak".to_owned(), n)]);
        found
    };
    assert_eq!(one("max_leak = 0.05", leaky(160)), (Verdict::Fail, vec![ReasonCode::CapExceeded]));
    let decision = decided("max_leak = 0.05", vec![leaky(105)]);
    assert_eq!(decision.decision, Verdict::Pass);
    assert!(
        decision.warnings[0].contains("5.2% of the answers are answers from the fine-tuned labels"),
        "{:?}",
        decision.warnings
    );
    let mut unretained = dataset("d", table(2_000, 20, 20, 0.7));
    unretained.retention_after = Some(1_400.0 / 1_800.0);
    unretained.encoder_cells_after = Some([1_350, 50, 450, 150]);
    assert_eq!(one("min_retention = 0.9", unretained.clone()), (Verdict::Fail, vec![ReasonCode::RetentionBelowFloor]));
    assert_eq!(one("min_retention = 0.78", unretained).0, Verdict::Pass);
}

#[test]
fn a_relative_margin_is_a_share_of_what_the_baseline_knows() {
    let found = dataset("d", table(2_000, 20, 20, 0.3));
    let decision = decided("relative_margin = 0.05", vec![found]);
    // The lower 95% bound of 600 of 2,000 is 0.2803; minus chance it is 0.1803; the margin is 5% of that.
    assert!((decision.datasets[0].margin - 0.009_016).abs() < 5e-6, "{}", decision.datasets[0].margin);
}

#[test]
fn holm_gives_the_level_of_a_failed_dataset_to_the_others() {
    // At alpha / 2 the second is not shown (p = 0.0165); after the first has failed it is tested at alpha.
    let (first, second) = (table(2_000, 300, 20, 0.7), table(2_000, 120, 52, 0.7));
    let decision = decided("", vec![dataset("a", first), dataset("b", second)]);
    let levels: Vec<f64> = decision.datasets.iter().map(|dataset| dataset.alpha_look_fail).collect();
    let p = decision.datasets[1].p_value_fail.unwrap();
    assert!(0.0125 < p && p < 0.025, "{p}");
    assert_eq!(levels, [0.0125, 0.025]);
    assert!(decision.datasets.iter().all(|dataset| dataset.decision == Verdict::Fail));
    let alone = decided("", vec![dataset("a", table(2_000, 40, 40, 0.7)), dataset("b", second)]);
    assert_eq!(alone.datasets[1].decision, Verdict::Inconclusive);
}

#[test]
fn with_few_discordant_pairs_the_exact_test_must_agree() {
    let found = &decided("", vec![dataset("d", table(400, 2, 0, 0.7))]).datasets[0];
    let exact = found.p_value_exact.unwrap();
    assert!(exact > 0.001 && found.p_value.unwrap() < 0.025, "{exact} {:?}", found.p_value);
    assert_eq!(found.decision == Verdict::Pass, exact <= 0.025);
    assert!(reachable(400, 0.02, 0.025) && !reachable(100, 0.02, 0.025));
    assert!(!reachable(100_000, 0.02, 0.0009), "the exact p value is at least 0.001");
}

#[test]
fn a_sequence_stops_each_dataset_at_its_own_decision() {
    let names = [("good".to_owned(), 2_000), ("bad".to_owned(), 2_000), ("small".to_owned(), 300)];
    let mut sequence = Sequence::new(Policy::default(), &names);
    let mut asked = Vec::new();
    while !sequence.open().is_empty() {
        let open: Vec<(String, usize)> = sequence.open().into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        let datasets = open.iter().map(|(name, n)| {
            let (lost, gained) = match name.as_str() {
                "bad" => (n / 2, n / 50),
                _ => (n / 50, n / 50),
            };
            dataset(name, table(*n, lost, gained, 0.7))
        });
        sequence.observe(&candidate(datasets.collect()), &no_corrections);
        asked.push(open);
    }
    let decision = sequence.decision();
    let found: BTreeMap<&str, (Verdict, usize, usize)> = decision
        .datasets
        .iter()
        .map(|dataset| (dataset.dataset.as_str(), (dataset.decision, dataset.look, dataset.n_pairs)))
        .collect();
    assert_eq!(found["bad"], (Verdict::Fail, 1, 250));
    assert_eq!(found["small"], (Verdict::Inconclusive, 2, 300));
    assert_eq!(found["good"].0, Verdict::Pass);
    assert!(found["good"].1 > 1, "{found:?}");
    assert!(asked[1].iter().all(|(name, _)| name != "bad"), "a decided dataset is not asked again");
    assert_eq!((decision.decision, decision.design.as_str()), (Verdict::Fail, "sequential"));
}

#[test]
fn the_boundaries_of_a_sequence_are_published_ones() {
    // Looks at 1,000 and 2,000: 2.963 and 1.969.
    let schedule = Schedule::sequential(2_000);
    assert_eq!(schedule.looks(), [250, 500, 1_000, 2_000]);
    assert_eq!(Schedule::sequential(250).looks(), [250]);
    assert_eq!(Schedule::sequential(251).looks(), [250, 251]);
    assert_eq!(Schedule::sequential(30).looks(), [30]);
}

fn tables() -> impl Strategy<Value = PairTable> {
    (0..400_usize, 0..60_usize, 0..60_usize, 0..400_usize, proptest::array::uniform5(0..12_usize)).prop_map(
        |(both_correct, lost, gained, both_wrong, [a, b, c, d, e])| PairTable {
            both_correct,
            lost,
            gained,
            both_wrong,
            unscored_correct: a,
            unscored_wrong: b,
            correct_unscored: c,
            wrong_unscored: d,
            both_unscored: e,
        },
    )
}

fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Fail => 0,
        Verdict::Inconclusive => 1,
        Verdict::NotApplicable | Verdict::Pass => 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn more_losses_never_turn_a_fail_into_a_pass(found in tables(), other in tables()) {
        // A kept image is lost; the baseline does not change.
        prop_assume!(found.both_correct > 0);
        let worse = PairTable { both_correct: found.both_correct - 1, lost: found.lost + 1, ..found };
        let of = |table| decided("margin = 0.05", vec![dataset("d", table), dataset("other", other)]);
        let (before, after) = (of(found), of(worse));
        prop_assert!(rank(after.datasets[0].decision) <= rank(before.datasets[0].decision), "{before:?} {after:?}");
        prop_assert!(rank(after.decision) <= rank(before.decision));
    }

    #[test]
    fn the_order_of_datasets_does_not_matter(found in proptest::collection::vec(tables(), 1..5)) {
        let named: Vec<DatasetComparison> =
            found.into_iter().enumerate().map(|(index, table)| dataset(&index.to_string(), table)).collect();
        let mut turned = named.clone();
        turned.reverse();
        let (first, mut second) = (decided("", named), decided("", turned));
        second.datasets.reverse();
        prop_assert_eq!(first.decision, second.decision);
        prop_assert_eq!(first.datasets, second.datasets);
    }

    #[test]
    fn a_decision_is_read_back_as_it_was_written(found in proptest::collection::vec(tables(), 1..4)) {
        let named = found.into_iter().enumerate().map(|(index, table)| dataset(&index.to_string(), table)).collect();
        let decision = decided("", named);
        let read: Decision = serde_json::from_str(&serde_json::to_string(&decision).unwrap()).unwrap();
        prop_assert_eq!(read, decision);
    }
}
