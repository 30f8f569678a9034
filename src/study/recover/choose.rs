//! Which point is chosen on the selection half.

use crate::gate::{Decision, Verdict};

/// What the selection half says of a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// The mean accuracy over the new datasets minus the base's; `None` if a dataset has no scored answer.
    pub gain: Option<f64>,
    /// The mean fall over the old datasets.
    pub fall: Option<f64>,
    /// What the gate says of the old datasets.
    pub verdict: Verdict,
    /// Whether no old dataset fell by more than its margin.
    pub is_within_margin: bool,
}

/// How a point was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// The gate passed it on the selection half.
    Gate,
    /// The gate passed no point on the selection half, and does not fail this one; no old dataset fell by more than its margin.
    Margin,
}

impl ChosenBy {
    /// The name in `recovery.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Margin => "margin",
        }
    }
}

/// Whether no dataset that `decision` is about fell by more than its margin. It is false if it is about none.
pub fn is_within_margin(decision: &Decision) -> bool {
    let mut tested = decision.datasets.iter().filter(|dataset| dataset.decision != Verdict::NotApplicable).peekable();
    tested.peek().is_some()
        && tested.all(|dataset| dataset.forgetting.is_some_and(|forgetting| forgetting <= dataset.margin + 1e-12))
}

/// Chooses the point with the largest gain among those that the gate passes on the selection half. If it passes none, it is the one
/// with the largest gain among those whose old datasets fell by no more than their margins and that the gate does not fail. Of equal
/// gains the smaller fall wins, and then the later point, which is the stronger one.
///
/// The choice promises nothing: the gate on the other half alone decides.
pub fn choose(points: &[Evidence]) -> Option<(usize, ChosenBy)> {
    let best = |is_eligible: &dyn Fn(&Evidence) -> bool| {
        let mut best: Option<usize> = None;
        for (at, point) in points.iter().enumerate().filter(|(_, point)| point.gain.is_some() && is_eligible(point)) {
            let key = |point: &Evidence| (point.gain, point.fall.map(|fall| -fall));
            if best.is_none_or(|other| key(point) >= key(&points[other])) {
                best = Some(at);
            }
        }
        best
    };
    let by_gate = best(&|point| point.verdict == Verdict::Pass).map(|at| (at, ChosenBy::Gate));
    by_gate.or_else(|| {
        let is_eligible = |point: &Evidence| point.is_within_margin && point.verdict != Verdict::Fail;
        best(&is_eligible).map(|at| (at, ChosenBy::Margin))
    })
}

#[cfg(test)]
mod tests;
