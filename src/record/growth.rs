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
mod tests;
