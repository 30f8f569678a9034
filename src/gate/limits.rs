//! The limits of a policy: those exceeded with confidence, and those exceeded only by the measured rate.

use super::{DatasetPolicy, Reason, ReasonCode};
use crate::compare::{DatasetComparison, Errors};
use crate::domain::{ErrorCode, ErrorKind};
use crate::stats::{PairedCounts, clopper_pearson_lower, normal_cdf};

use super::evidence::shows_fail;

/// The caps and floors that a dataset breaks.
#[derive(Debug, Default)]
pub(super) struct Broken {
    /// Limits broken beyond their bounds.
    pub reasons: Vec<Reason>,
    /// Limits broken, but possibly by chance.
    pub warnings: Vec<String>,
}

impl Broken {
    fn add(&mut self, code: ReasonCode, is_shown: bool, message: String) {
        if is_shown {
            self.reasons.push(Reason { code, message, dataset: None });
        } else {
            self.warnings.push(format!("{message}, which may be chance"));
        }
    }
}

/// Compares the candidate with every limit of `policy` at the one-sided `level`.
pub(super) fn broken(comparison: &DatasetComparison, policy: &DatasetPolicy, level: f64) -> Broken {
    let mut broken = Broken::default();
    let errors = &comparison.errors_after;
    let of_kind = |kind: ErrorKind| errors.kinds.get(kind.name()).copied().unwrap_or(0);
    let n_leaked = errors.codes.get(ErrorCode::Leak.name()).copied().unwrap_or(0);
    for (cap, n, what) in [
        (policy.max_leak, n_leaked, "answers from the fine-tuned labels"),
        (policy.max_incorrect_prediction, of_kind(ErrorKind::IncorrectPrediction), "incorrect predictions"),
        (policy.max_intrinsic_hallucination, of_kind(ErrorKind::IntrinsicHallucination), "intrinsic hallucinations"),
        (policy.max_extrinsic_hallucination, of_kind(ErrorKind::ExtrinsicHallucination), "extrinsic hallucinations"),
    ] {
        if let Some(cap) = cap {
            cap_share(&mut broken, errors, n, cap, level, what);
        }
    }
    if let Some(cap) = policy.max_class_fall {
        cap_class_fall(&mut broken, comparison, cap, level);
    }
    if let Some(floor) = policy.min_retention {
        floor_retention(&mut broken, comparison, floor, level);
    }
    broken
}

fn cap_share(broken: &mut Broken, errors: &Errors, n: usize, cap: f64, level: f64, what: &str) {
    if errors.n_scored == 0 {
        return;
    }
    let share = n as f64 / errors.n_scored as f64;
    if share > cap {
        let is_shown = clopper_pearson_lower(n, errors.n_scored, 1.0 - level).is_some_and(|bound| bound > cap);
        let message = format!("{:.1}% of the answers are {what}, more than {:.1}%", share * 100.0, cap * 100.0);
        broken.add(ReasonCode::CapExceeded, is_shown, message);
    }
}

/// Holm over the classes: the class with the smallest p value is tested at level / classes, the next at level /
/// (classes - 1).
fn cap_class_fall(broken: &mut Broken, comparison: &DatasetComparison, cap: f64, level: f64) {
    let tested: Vec<_> = comparison.classes.iter().filter(|class| class.n_scored > 0).collect();
    let mut shown = vec![false; tested.len()];
    loop {
        let n_left = shown.iter().filter(|shown| !**shown).count();
        let next = (0..tested.len()).find(|&index| {
            let counts = PairedCounts {
                n_lost: tested[index].n_lost,
                n_gained: tested[index].n_gained,
                n: tested[index].n_scored,
            };
            !shown[index] && shows_fail(counts, cap, level / n_left as f64)
        });
        match next {
            Some(index) => shown[index] = true,
            None => break,
        }
    }
    for (class, is_shown) in tested.iter().zip(shown) {
        if let Some(fall) = class.forgetting.filter(|fall| *fall > cap) {
            let message =
                format!("the class `{}` fell by {:.1} points, more than {:.1}", class.label, fall * 100.0, cap * 100.0);
            broken.add(ReasonCode::CapExceeded, is_shown, message);
        }
    }
}

fn floor_retention(broken: &mut Broken, comparison: &DatasetComparison, floor: f64, level: f64) {
    let (Some(retention), Some(cells)) = (comparison.retention_after, comparison.encoder_cells_after) else { return };
    if retention < floor {
        let is_shown = retention_below_p(cells, floor).is_some_and(|p| p <= level);
        // A floor set for a zero-shot encoder means something else for a probe.
        let over = if comparison.tower.is_some() { " over a probe" } else { "" };
        let message = format!("retention{over} is {:.1}%, below {:.1}%", retention * 100.0, floor * 100.0);
        broken.add(ReasonCode::RetentionBelowFloor, is_shown, message);
    }
}

/// The one-sided p value of "retention is at least `floor`": the mean over images of model - floor x encoder is at least 0
/// (Fieller 1954, "Some problems in interval estimation", J. R. Stat. Soc. B 16, 175-185).
fn retention_below_p([both, only_model, only_encoder, neither]: [usize; 4], floor: f64) -> Option<f64> {
    let values = [(both, 1.0 - floor), (only_model, 1.0), (only_encoder, -floor), (neither, 0.0)];
    let n = values.iter().map(|(count, _)| *count as f64).sum::<f64>();
    if n < 2.0 {
        return None;
    }
    let mean = values.iter().map(|(count, value)| *count as f64 * value).sum::<f64>() / n;
    let variance =
        values.iter().map(|(count, value)| *count as f64 * (value - mean).powi(2)).sum::<f64>() / (n - 1.0) / n;
    (variance > 0.0).then(|| normal_cdf(mean / variance.sqrt()))
}
