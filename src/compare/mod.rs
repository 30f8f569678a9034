//! Turns trials into a [`Summary`], and two runs' trials into what was forgotten ([`Comparison`]); pure.

mod bare_answer;
mod calibration;
mod comparability;
mod comparison;
mod correct;
mod image_counts;
mod images;
mod measure;
mod pair_table;
mod pairing;
mod recode;
mod runs;
mod same_model;
mod settings;
mod summarise;
mod summary;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;

pub use bare_answer::bare_answer;
pub use calibration::{
    CALIBRATION_SCHEMA, CalibratedAccuracy, Calibration, GroupBy, GroupMeasured, JudgeIdentity, MarkedPair, Measured,
    OtherJudge, StratumErrors, output_style,
};
pub use comparability::{GENERATION_CONFIG, LABEL_SCORING, SAMPLES, field_differences};
pub use comparison::*;
pub use correct::{CorrectedAccuracy, CorrectedForgetting, corrected_accuracy, corrected_forgetting};
pub use pair_table::PairTable;
pub use pairing::{Pairing, pair};
pub use recode::recode;
pub use runs::{Candidate, RunView, compare_runs, outcome_pairs};
pub use same_model::{is_same_model, model_key};
pub use settings::{setting_differences, settings_in_words, shown_setting_differences};
pub use summarise::{summarise, uncertain_share};
pub use summary::*;
pub use sweep::{
    ArmDetails, FailedArm, RowDataset, SWEEP_SCHEMA, Sweep, SweepOptions, SweepRow, SweepTask, SweptDataset, SweptRun,
    TaskDataset, sweep,
};
