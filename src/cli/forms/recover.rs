//! The flags of `emt recover`.

use super::form::Axis;
use super::table::{CommandForms, Group, JUDGE, JUDGE_CONNECTION, NOTHING, always};

pub(super) const RECOVER: CommandForms = CommandForms {
    path: &["recover"],
    axes: &[Axis::Judge],
    groups: &[
        Group {
            rules: &[
                always("model"),
                always("adapter"),
                always("out"),
                always("new"),
                always("old"),
                always("methods"),
                always("strengths"),
                always("diagnosis"),
                always("policy"),
                always("data"),
                always("datasets-file"),
                always("split"),
                always("exif"),
                always("image-column"),
                always("label-column"),
                always("limit"),
                always("prompt"),
                always("max-new-tokens"),
                always("min-pixels"),
                always("max-pixels"),
                always("batch-size"),
                always("lock-step"),
                always("device"),
                always("dtype"),
                always("fresh"),
                always("format"),
                always("judge"),
                always("download"),
            ],
            needs: NOTHING,
        },
        Group { rules: JUDGE, needs: NOTHING },
        Group { rules: JUDGE_CONNECTION, needs: NOTHING },
    ],
};
