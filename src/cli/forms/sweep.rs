//! The flags of `emt sweep`.

use super::form::{Axis, Form};
use super::table::{CommandForms, Group, Need, always, hinted, only};

const SWEEPS: &[Need] = &[hinted(&[Form::SweepsFile], "--print-paper only prints a file; leave one of them out")];

pub(super) const SWEEP: CommandForms = CommandForms {
    path: &["sweep"],
    axes: &[Axis::Sweep],
    groups: &[Group {
        rules: &[
            only("file", SWEEPS),
            only("out", SWEEPS),
            always("print-paper"),
            only("model", &[hinted(&[Form::PrintsPaper], "the file of arms names the checkpoint; leave it out")]),
        ],
        needs: &[],
    }],
};
