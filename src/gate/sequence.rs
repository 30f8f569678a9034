//! A comparison that grows look by look and stops each dataset as soon as it is decided.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::decide::assemble;
use super::evidence::{margin_in_force, reachable};
use super::family::{Member, Settled, settle};
use super::{Corrections, DatasetPolicy, Decision, Policy, Verdict};
use crate::compare::{CandidateComparison, DatasetComparison, PairTable};
use crate::stats::{normal_cdf, obrien_fleming_boundaries};

/// Samples at the first look; each later look doubles the number.
const N_FIRST_LOOK: usize = 250;

/// The numbers of samples at which a dataset is looked at: at least one, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    looks: Vec<usize>,
}

impl Schedule {
    /// Looks at 250, 500, 1,000, … samples below `n_max`, and at `n_max`.
    pub fn sequential(n_max: usize) -> Self {
        let mut looks: Vec<usize> =
            std::iter::successors(Some(N_FIRST_LOOK), |n| n.checked_mul(2)).take_while(|&n| n < n_max).collect();
        looks.push(n_max);
        Self { looks }
    }

    /// One look, at all of `n` samples.
    pub fn fixed(n: usize) -> Self {
        Self { looks: vec![n] }
    }

    /// The numbers of samples, ascending.
    pub fn looks(&self) -> &[usize] {
        &self.looks
    }

    fn n_max(&self) -> usize {
        self.looks.last().copied().unwrap_or(0)
    }

    fn information(&self) -> Vec<f64> {
        self.looks.iter().map(|&n| n as f64 / self.n_max() as f64).collect()
    }
}

/// One look of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Its number, from 1.
    pub number: usize,
    schedule: Schedule,
}

impl Look {
    /// The only look of a fixed design.
    pub(super) fn fixed(n: usize) -> Self {
        Self { number: 1, schedule: Schedule::fixed(n) }
    }

    /// The number of looks in the schedule.
    pub fn n_looks(&self) -> usize {
        self.schedule.looks.len()
    }

    /// Samples at the last look.
    pub fn n_max(&self) -> usize {
        self.schedule.n_max()
    }

    /// Samples at this look.
    pub fn n_samples(&self) -> usize {
        self.schedule.looks[self.number - 1]
    }

    fn is_last(&self) -> bool {
        self.number == self.n_looks()
    }

    /// The levels of all looks if the whole schedule may spend `alpha`; empty if there is no boundary.
    fn levels(&self, alpha: f64) -> Vec<f64> {
        let boundaries = obrien_fleming_boundaries(alpha, &self.schedule.information());
        boundaries.unwrap_or_default().into_iter().map(|boundary| normal_cdf(-boundary)).collect()
    }
}

/// The spending of levels over looks: Lan and DeMets (1983), of O'Brien-Fleming form.
///
/// Levels are cached because the same few schedules recur, and a boundary is an integral over all earlier looks. Clones
/// share the cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Spending {
    known: Rc<RefCell<KnownLevels>>,
}

/// Levels of all looks by overall level (as bits) and schedule.
type KnownLevels = BTreeMap<(u64, Vec<usize>), Vec<f64>>;

impl Spending {
    /// The level of the test at `look` if its whole schedule may spend `alpha`.
    pub(super) fn level(&self, look: &Look, alpha: f64) -> f64 {
        if look.n_looks() == 1 {
            return alpha;
        }
        let mut known = self.known.borrow_mut();
        let key = (alpha.to_bits(), look.schedule.looks.clone());
        let levels = known.entry(key).or_insert_with(|| look.levels(alpha));
        // Nothing can be shown without a boundary.
        levels.get(look.number - 1).copied().unwrap_or(0.0)
    }
}

/// One dataset of a sequence.
#[derive(Clone)]
struct DatasetCourse {
    dataset: String,
    policy: DatasetPolicy,
    look: Look,
    /// The margin, fixed beforehand if it depends on the baseline.
    margin: Option<f64>,
    state: State,
}

#[derive(Clone)]
enum State {
    /// Waits for the evidence of its look.
    Open,
    /// Undecided after its last look; a fail elsewhere may still raise its level.
    Exhausted { evidence: Box<DatasetComparison>, settled: Box<Settled> },
    /// Decided.
    Decided(Box<Settled>),
}

/// The group-sequential gate. Two one-sided boundaries, pass and fail, each spend their own level. The level of a fail
/// is shared by the datasets, and the share of a failed dataset goes to the others (Maurer and Bretz 2013, "Multiple
/// testing in group sequential trials using graphical approaches", Statistics in Biopharmaceutical Research 5,
/// 311-320).
#[derive(Clone)]
pub struct Sequence {
    policy: Policy,
    courses: Vec<DatasetCourse>,
    spending: Spending,
    n_family: usize,
    n_rejected: usize,
}

impl Sequence {
    /// A sequence over `datasets`, each with its largest number of samples.
    pub fn new(policy: Policy, datasets: &[(String, usize)]) -> Self {
        let courses: Vec<DatasetCourse> = datasets
            .iter()
            .map(|(dataset, n_max)| DatasetCourse {
                dataset: dataset.clone(),
                policy: policy.of(dataset).clone(),
                look: Look { number: 1, schedule: Schedule::sequential(*n_max) },
                margin: None,
                state: State::Open,
            })
            .collect();
        let n_family = courses.iter().filter(|course| !course.policy.ignore).count();
        Self { policy, courses, spending: Spending::default(), n_family, n_rejected: 0 }
    }

    /// Fixes the margin of `dataset` from the baseline's correct and scored counts over all samples that may be asked.
    pub fn fix_margin(&mut self, dataset: &str, n_classes: usize, n_correct: usize, n_scored: usize) {
        let table =
            PairTable { correct_unscored: n_correct, wrong_unscored: n_scored - n_correct, ..PairTable::default() };
        for course in self.courses.iter_mut().filter(|course| course.dataset == dataset) {
            course.margin = Some(margin_in_force(&course.policy, &table, n_classes));
        }
    }

    /// The datasets that could not pass even if no answer changed, each with its largest number of samples.
    pub fn unreachable(&self) -> Vec<(&str, usize)> {
        let cannot_pass = |course: &&DatasetCourse| {
            let (policy, n) = (&course.policy, course.look.n_max());
            let last = Look { number: course.look.n_looks(), schedule: course.look.schedule.clone() };
            let is_tested = !policy.ignore && !policy.tuned_on;
            let level = self.spending.level(&last, policy.level());
            is_tested && (n < policy.min_pairs || !reachable(n, policy.margin, level))
        };
        self.courses.iter().filter(cannot_pass).map(|course| (course.dataset.as_str(), course.look.n_max())).collect()
    }

    /// The datasets whose next look waits for evidence, with the samples that it needs; empty if all are decided.
    pub fn open(&self) -> Vec<(&str, usize)> {
        let is_open = |course: &&DatasetCourse| matches!(course.state, State::Open) && !course.policy.ignore;
        self.courses.iter().filter(is_open).map(|course| (course.dataset.as_str(), course.look.n_samples())).collect()
    }

    /// Takes in the evidence of every open dataset at its look. `comparison` holds only the samples of that look.
    pub fn observe(&mut self, comparison: &CandidateComparison, corrections: Corrections<'_>) {
        let found = |name: &str| comparison.datasets.iter().find(|dataset| dataset.dataset == name);
        let mut places = Vec::new();
        let mut members = Vec::new();
        for (place, course) in self.courses.iter().enumerate() {
            let evidence = match &course.state {
                State::Open => found(&course.dataset),
                State::Exhausted { evidence, .. } => Some(evidence.as_ref()),
                State::Decided(_) => None,
            };
            let Some(comparison) = evidence else { continue };
            let margin = course
                .margin
                .unwrap_or_else(|| margin_in_force(&course.policy, &comparison.table, comparison.n_classes));
            places.push(place);
            members.push(Member {
                comparison,
                policy: &course.policy,
                margin,
                look: &course.look,
                spending: &self.spending,
            });
        }
        let settled = settle(&members, self.n_family, self.n_rejected, corrections);
        let evidence: Vec<DatasetComparison> = members.iter().map(|member| member.comparison.clone()).collect();
        for ((place, settled), evidence) in places.into_iter().zip(settled).zip(evidence) {
            let course = &mut self.courses[place];
            let is_decided = matches!(settled.decision.decision, Verdict::Pass | Verdict::Fail);
            self.n_rejected += usize::from(is_decided && settled.is_rejected);
            if is_decided || course.policy.ignore {
                course.state = State::Decided(Box::new(settled));
            } else if course.look.is_last() {
                course.state = State::Exhausted { evidence: Box::new(evidence), settled: Box::new(settled) };
            } else {
                course.look.number += 1;
            }
        }
    }

    /// Returns the decision once no dataset is open.
    pub fn decision(&self) -> Decision {
        let settled = self.courses.iter().filter_map(|course| match &course.state {
            State::Decided(settled) | State::Exhausted { settled, .. } => Some(settled.as_ref()),
            State::Open => None,
        });
        assemble(&self.policy, "sequential", settled)
    }
}
