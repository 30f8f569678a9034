//! Decides all datasets of a candidate at one look: Holm shares out the levels, then the same rules apply to each
//! dataset.

use super::evidence::{is_near_chance, known_beyond_chance, needs_exact, shows_any_fall, shows_fail, shows_pass};
use super::judges::{Levels, contradiction};
use super::limits::{Broken, broken};
use super::sequence::{Look, Spending};
use super::{Corrections, DatasetDecision, DatasetPolicy, Reason, ReasonCode, Verdict};
use crate::compare::DatasetComparison;
use crate::stats::{
    exact_inferiority_p, exact_non_inferiority_p, inferiority_p, n_needed, non_inferiority_p, tango_interval,
};

/// One dataset at a look.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub comparison: &'a DatasetComparison,
    pub policy: &'a DatasetPolicy,
    /// The margin in force.
    pub margin: f64,
    pub look: &'a Look,
    pub spending: &'a Spending,
}

/// A dataset's decision, with values that only the family needs.
#[derive(Clone)]
pub(super) struct Settled {
    pub decision: DatasetDecision,
    /// Whether its fall is shown, also in the worst case; Holm counts it as rejected.
    pub is_rejected: bool,
    pub warnings: Vec<String>,
}

impl Member<'_> {
    fn is_near_chance(&self) -> bool {
        is_near_chance(&self.comparison.table, self.comparison.n_classes)
    }

    /// The level of this look's test if the whole schedule may spend `alpha`.
    fn level(&self, alpha: f64) -> f64 {
        self.spending.level(self.look, alpha)
    }

    /// Whether a fall is tested at all.
    pub fn is_tested(&self) -> bool {
        !self.policy.ignore
            && self.comparison.n_distinct_images >= self.policy.min_pairs
            && (self.policy.tuned_on || !self.is_near_chance())
    }

    /// Whether the fall is shown at the overall level `alpha`, by the scored pairs or in the worst case.
    fn shows_fall(&self, alpha: f64, is_worst_case: bool) -> bool {
        let table = self.comparison.table;
        let counts = if is_worst_case { table.against_a_fail() } else { table.scored() };
        let level = self.level(alpha);
        if self.policy.tuned_on { shows_any_fall(counts, level) } else { shows_fail(counts, self.margin, level) }
    }
}

/// Holm's step-down over the tested members, in a family of `n_family` of which `n_rejected` were rejected before.
/// Returns, by member, the overall level of its last test and whether its fall is shown.
fn step_down(members: &[Member<'_>], n_family: usize, n_rejected: usize, is_worst_case: bool) -> Vec<(f64, bool)> {
    let mut n_rejected = n_rejected;
    let mut tested = vec![(0.0, false); members.len()];
    loop {
        let n_left = n_family.saturating_sub(n_rejected).max(1) as f64;
        let mut n_new = 0;
        for (member, (alpha, is_shown)) in members.iter().zip(&mut tested) {
            if *is_shown {
                continue;
            }
            *alpha = member.policy.level() / n_left;
            if member.is_tested() && member.shows_fall(*alpha, is_worst_case) {
                *is_shown = true;
                n_new += 1;
            }
        }
        if n_new == 0 {
            return tested;
        }
        n_rejected += n_new;
    }
}

/// Decides each of `members`.
pub(super) fn settle(
    members: &[Member<'_>],
    n_family: usize,
    n_rejected: usize,
    corrections: Corrections<'_>,
) -> Vec<Settled> {
    let by_scored = step_down(members, n_family, n_rejected, false);
    let in_worst_case = step_down(members, n_family, n_rejected, true);
    members
        .iter()
        .zip(by_scored.iter().zip(&in_worst_case))
        .map(|(member, (&(alpha, is_shown), &(_, is_certain)))| {
            let levels = Levels { pass: member.level(member.policy.level()), fail: member.level(alpha) };
            let fall = Fall { is_shown, is_certain: is_shown && is_certain };
            let corrected = corrections(&member.comparison.dataset, 1.0 - 2.0 * levels.pass);
            let limits = broken(member.comparison, member.policy, levels.fail);
            let (decision, reasons) = rule(member, levels, fall, &limits, corrected);
            Settled {
                decision: numbers(member, levels, corrected, decision, reasons),
                is_rejected: fall.is_certain,
                warnings: limits.warnings.into_iter().chain(doubts(member, decision)).collect(),
            }
        })
        .collect()
}

/// Returns warnings that weaken a pass.
fn doubts(member: &Member<'_>, decision: Verdict) -> Vec<String> {
    let Member { comparison, margin, .. } = *member;
    let mut doubts = Vec::new();
    if decision != Verdict::Pass {
        return doubts;
    }
    if comparison.is_unchanged {
        doubts.push(
            "no answer changed, and no digit of the logits: check that the candidate's fine-tuning is applied"
                .to_owned(),
        );
    }
    if let Some(known) = known_beyond_chance(&comparison.table, comparison.n_classes)
        && known <= margin
    {
        doubts.push(format!(
            "the baseline is {:.1} points above chance, which is not more than the margin of {:.1}: a candidate that \
             only guesses would pass, too",
            known * 100.0,
            margin * 100.0
        ));
    }
    if comparison.n_unpaired > comparison.n_pairs {
        doubts.push(format!(
            "{} trials have no partner in the other run and decide nothing; {} pairs remain",
            comparison.n_unpaired, comparison.n_pairs
        ));
    }
    doubts
}

/// The result of the tests of a fall.
#[derive(Clone, Copy)]
struct Fall {
    /// Shown by the scored pairs.
    is_shown: bool,
    /// Shown whatever the unscored trials turn out to be.
    is_certain: bool,
}

/// Decides by the first rule that matches.
fn rule(
    member: &Member<'_>,
    levels: Levels,
    fall: Fall,
    limits: &Broken,
    corrected: Option<[f64; 2]>,
) -> (Verdict, Vec<Reason>) {
    let Member { comparison, policy, margin, .. } = *member;
    if policy.ignore {
        return one(Verdict::NotApplicable, ReasonCode::Ignored, "the policy leaves it out".into());
    }
    if comparison.n_distinct_images < policy.min_pairs && comparison.n_pairs >= policy.min_pairs {
        let message = format!(
            "{} pairs of only {} different images, but the policy requires at least {}",
            comparison.n_pairs, comparison.n_distinct_images, policy.min_pairs
        );
        return one(Verdict::Inconclusive, ReasonCode::TooFewPairs, message);
    }
    if comparison.n_pairs < policy.min_pairs {
        let n_more = needed(member).unwrap_or(0).max(policy.min_pairs);
        let message = format!(
            "{} pairs, but the policy requires at least {}; with no true fall, about {n_more} would show that it is \
             below the margin",
            comparison.n_pairs, policy.min_pairs
        );
        return one(Verdict::Inconclusive, ReasonCode::TooFewPairs, message);
    }
    if policy.tuned_on {
        return rule_tuned_on(comparison, fall);
    }
    if member.is_near_chance() {
        return one(Verdict::NotApplicable, ReasonCode::NearChance, near_chance(comparison));
    }
    let table = comparison.table;
    let mut failing = Vec::new();
    if fall.is_certain {
        failing.extend(forgotten(comparison, margin));
    }
    failing.extend(limits.reasons.iter().cloned());
    if failing.is_empty() {
        let unscored = unscored_reasons(member, levels, fall);
        if !unscored.is_empty() {
            return (Verdict::Inconclusive, unscored);
        }
    }
    if let Some(message) = contradiction(comparison, policy, margin, levels) {
        return one(Verdict::Inconclusive, ReasonCode::GraderDependent, message);
    }
    let passes = failing.is_empty() && shows_pass(table.scored(), margin, levels.pass);
    if let Some([low, high]) = corrected
        && (passes && high >= margin || fall.is_certain && low <= margin)
    {
        let message = format!(
            "corrected for the judge's measured error the fall is between {:+.1} and {:+.1} points",
            low * 100.0,
            high * 100.0
        );
        return one(Verdict::Inconclusive, ReasonCode::JudgeError, message);
    }
    match (failing.is_empty(), passes) {
        (false, _) => (Verdict::Fail, failing),
        (true, true) => (Verdict::Pass, Vec::new()),
        (true, false) => one(Verdict::Inconclusive, ReasonCode::Underpowered, underpowered(member)),
    }
}

/// Why the unscored trials prevent a decision: they could change the one that the scored pairs would make, or there are
/// too many for a pass.
fn unscored_reasons(member: &Member<'_>, levels: Levels, fall: Fall) -> Vec<Reason> {
    let Member { comparison, policy, margin, .. } = *member;
    let table = comparison.table;
    let would_pass = shows_pass(table.scored(), margin, levels.pass);
    let mut reasons = Vec::new();
    let mut add = |code, message| reasons.push(Reason { code, message, dataset: None });
    if fall.is_shown {
        add(ReasonCode::UnscoredCouldDecide, could_decide(comparison, "fail"));
    } else if would_pass && !shows_pass(table.against_a_pass(), margin, levels.pass) {
        add(ReasonCode::UnscoredCouldDecide, could_decide(comparison, "pass"));
    }
    if comparison.n_unscored as f64 > policy.max_unscored * comparison.n_pairs as f64 {
        let (n_unscored, n_pairs) = (comparison.n_unscored, comparison.n_pairs);
        let most = policy.max_unscored * 100.0;
        add(
            ReasonCode::TooManyUnscored,
            format!(
                "{n_unscored} of {n_pairs} pairs are unscored, more than {most:.1}%: with this many no dataset passes"
            ),
        );
    }
    reasons
}

fn rule_tuned_on(comparison: &DatasetComparison, fall: Fall) -> (Verdict, Vec<Reason>) {
    let points = comparison.forgetting.unwrap_or(0.0) * 100.0;
    match fall {
        Fall { is_certain: true, .. } => {
            let message = format!("the fine-tuning was on this dataset, and it fell by {points:.1} points");
            one(Verdict::Fail, ReasonCode::TunedDatasetFell, message)
        }
        Fall { is_shown: true, .. } => {
            one(Verdict::Inconclusive, ReasonCode::UnscoredCouldDecide, could_decide(comparison, "fail"))
        }
        _ => (Verdict::NotApplicable, Vec::new()),
    }
}

fn one(verdict: Verdict, code: ReasonCode, message: String) -> (Verdict, Vec<Reason>) {
    (verdict, vec![Reason { code, message, dataset: None }])
}

fn near_chance(comparison: &DatasetComparison) -> String {
    let (n_correct, n) = comparison.table.baseline();
    format!(
        "the baseline is right in {n_correct} of {n}, near the 1 in {} of chance: there is nothing to forget",
        comparison.n_classes
    )
}

fn could_decide(comparison: &DatasetComparison, side: &str) -> String {
    format!(
        "the scored pairs alone would {side}, but the {} unscored ones could change that; hint: judge them again",
        comparison.n_unscored
    )
}

fn underpowered(member: &Member<'_>) -> String {
    let n = member.comparison.n_pairs;
    let margin = member.margin * 100.0;
    match needed(member) {
        Some(n_needed) if n_needed > n => format!(
            "{n} pairs show neither a fall above {margin:.1} points nor one below; with no true fall about {n_needed} would"
        ),
        _ => format!("{n} pairs show neither a fall above {margin:.1} points nor one below: it is near the margin"),
    }
}

/// Reports the fall, and the stage at which most of it was lost.
fn forgotten(comparison: &DatasetComparison, margin: f64) -> Vec<Reason> {
    let reason = |code, message| Reason { code, message, dataset: None };
    let fall = comparison.forgetting.unwrap_or(0.0) * 100.0;
    let mut reasons = vec![reason(
        ReasonCode::Forgetting,
        format!("fell by {fall:.1} points, shown to be more than {:.1}", margin * 100.0),
    )];
    if let Some(funnel) = &comparison.funnel {
        let n_lost = comparison.n_lost;
        if 2 * funnel.lost_wording > n_lost {
            let message = format!("{} of {n_lost} lost images are still right by label scoring", funnel.lost_wording);
            reasons.push(reason(ReasonCode::ForgettingWording, message));
        }
        if 2 * funnel.lost_choice > n_lost {
            let message = format!(
                "{} of {n_lost} lost images are known to the {}, and label scoring chooses wrongly",
                funnel.lost_choice,
                comparison.encoder_noun()
            );
            reasons.push(reason(ReasonCode::ForgettingChoice, message));
        }
    }
    reasons
}

fn needed(member: &Member<'_>) -> Option<usize> {
    n_needed(member.comparison.table.scored(), member.margin, member.policy.level())
}

fn numbers(
    member: &Member<'_>,
    levels: Levels,
    corrected: Option<[f64; 2]>,
    decision: Verdict,
    reasons: Vec<Reason>,
) -> DatasetDecision {
    let Member { comparison, margin, look, .. } = *member;
    let scored = comparison.table.scored();
    let confidence = 1.0 - 2.0 * levels.pass;
    let exact = |p: Option<f64>, level: f64, test: fn(crate::stats::PairedCounts, f64) -> Option<f64>| {
        // The exact test is not computed if Tango's test shows nothing.
        p.filter(|p| *p <= level && needs_exact(scored)).and_then(|_| test(scored, margin))
    };
    let p_value = non_inferiority_p(scored, margin);
    let p_value_fail = inferiority_p(scored, margin);
    DatasetDecision {
        dataset: comparison.dataset.clone(),
        n_pairs: comparison.n_pairs,
        n_unscored: comparison.n_unscored,
        n_unreadable: comparison.n_unreadable,
        baseline_accuracy: comparison.baseline_accuracy,
        candidate_accuracy: comparison.candidate_accuracy,
        forgetting: comparison.forgetting,
        forgetting_interval: tango_interval(scored, confidence),
        confidence,
        forgetting_bounds: comparison.forgetting_bounds,
        n_lost: comparison.n_lost,
        n_gained: comparison.n_gained,
        encoder_knows: comparison.encoder_knows,
        margin,
        p_value,
        p_value_fail,
        p_value_mcnemar: comparison.p_value_mcnemar,
        p_value_exact: exact(p_value, levels.pass, exact_non_inferiority_p),
        p_value_fail_exact: exact(p_value_fail, levels.fail, exact_inferiority_p),
        n_needed: needed(member),
        look: look.number,
        n_looks: look.n_looks(),
        n_max: look.n_max(),
        alpha_look: levels.pass,
        alpha_look_fail: levels.fail,
        corrected_interval: corrected,
        decision,
        reasons,
        causes: Vec::new(),
    }
}
