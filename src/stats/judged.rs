//! Estimates the true accuracy behind that of a fallible judge.

use super::normal_quantile;

/// A judge's results on answers that people have marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgeError {
    /// Answers that are right.
    pub n_right: usize,
    /// Right answers that the judge called correct.
    pub n_right_accepted: usize,
    /// Answers that are wrong.
    pub n_wrong: usize,
    /// Wrong answers that the judge called incorrect.
    pub n_wrong_rejected: usize,
}

impl JudgeError {
    /// Returns the share of right answers that the judge calls correct.
    pub fn sensitivity(self) -> Option<f64> {
        share(self.n_right_accepted, self.n_right)
    }

    /// Returns the share of wrong answers that the judge calls incorrect.
    pub fn specificity(self) -> Option<f64> {
        share(self.n_wrong_rejected, self.n_wrong)
    }
}

/// An accuracy corrected for a judge's errors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JudgedRate {
    /// The corrected accuracy.
    pub rate: f64,
    /// `[low, high]`, including the uncertainty of the marked answers.
    pub interval: [f64; 2],
}

/// A judge whose sensitivity and specificity sum to no more than this hardly distinguishes right from wrong.
const LEAST_SKILL: f64 = 1.1;

/// Returns the accuracy behind `n_judged_correct` of `n` answers, corrected for the judge's errors, two-sided at
/// `confidence`.
///
/// (judged + specificity - 1) / (sensitivity + specificity - 1): Rogan and Gladen (1978), American Journal of
/// Epidemiology 107, 71-76. The interval is that of Lang and Reiczigel (2014), Preventive Veterinary Medicine 113,
/// 13-22, as used for judges by Lee et al. (2025), arXiv 2511.21140. Both are clamped to [0, 1]. It assumes that the
/// judge errs on these answers as on the marked ones. `None` without answers or without marked answers of either kind,
/// if sensitivity and specificity sum to 1.1 or less, or for a confidence outside (0, 1).
pub fn rogan_gladen(n_judged_correct: usize, n: usize, error: JudgeError, confidence: f64) -> Option<JudgedRate> {
    let is_level = confidence > 0.0 && confidence < 1.0;
    let (sensitivity, specificity) = (error.sensitivity()?, error.specificity()?);
    if !is_level || sensitivity + specificity <= LEAST_SKILL {
        return None;
    }
    let z = normal_quantile(0.5 + confidence / 2.0)?;
    let rate = (share(n_judged_correct, n)? + specificity - 1.0) / (sensitivity + specificity - 1.0);
    // Counts are moved towards the middle, as in Agresti and Coull's interval, with one success and one failure added
    // to each of the judge's rates.
    let size = n as f64 + z * z;
    let judged = (n_judged_correct as f64 + z * z / 2.0) / size;
    let (n_wrong, n_right) = (error.n_wrong as f64 + 2.0, error.n_right as f64 + 2.0);
    let specificity = (error.n_wrong_rejected as f64 + 1.0) / n_wrong;
    let sensitivity = (error.n_right_accepted as f64 + 1.0) / n_right;
    let skill = sensitivity + specificity - 1.0;
    if skill <= 0.0 {
        return None;
    }
    let moved = (judged + specificity - 1.0) / skill;
    let of_specificity = specificity * (1.0 - specificity) / n_wrong;
    let of_sensitivity = sensitivity * (1.0 - sensitivity) / n_right;
    let shift = 2.0 * z * z * (moved * of_sensitivity - (1.0 - moved) * of_specificity);
    let variance = judged * (1.0 - judged) / size
        + (1.0 - moved) * (1.0 - moved) * of_specificity
        + moved * moved * of_sensitivity;
    let half = z * variance.sqrt() / skill;
    let end = |end: f64| end.clamp(0.0, 1.0);
    Some(JudgedRate { rate: end(rate), interval: [end(moved + shift - half), end(moved + shift + half)] })
}

fn share(n: usize, of: usize) -> Option<f64> {
    (of > 0 && n <= of).then(|| n as f64 / of as f64)
}

#[cfg(test)]
mod tests;
