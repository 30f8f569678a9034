//! Trials to a [`Summary`], two runs' trials to what was forgotten; pure.

mod calibration;
mod correct;
mod forgetting;
mod measure;
mod pairing;
mod summarise;
mod summary;

pub use calibration::{
    CALIBRATION_SCHEMA, CalibratedAccuracy, Calibration, GroupBy, GroupMeasured, JudgeIdentity, MarkedPair, Measured,
    OtherJudge, StratumErrors, output_style,
};
pub use correct::{CorrectedAccuracy, CorrectedForgetting, corrected_accuracy, corrected_forgetting};
pub use forgetting::{Forgetting, forgetting};
pub use pairing::{Pairing, pair};
pub use summarise::{summarise, uncertain_share};
pub use summary::*;
