//! Studies: what a user of the library asks for, as typed requests with typed results.
//!
//! [`Evaluate`] evaluates models, [`Train`] fine-tunes one, [`Compare`] compares recorded runs, [`Decide`] and
//! [`DecideInSequence`] decide whether a candidate may be released, [`DiagnosisPlan`] finds why it forgot, and
//! [`RecoveryPlan`](recover::RecoveryPlan) finds the strength at which it keeps both. [`measure`] says which of several trainings
//! forgets least. A request says everything: nothing here reads flags or the environment, and nothing prints. To see progress,
//! hand in an [`Observer`](crate::eval::Observer).

pub mod comparability;
pub mod compare;
mod decide;
mod diagnose;
mod evaluate;
mod recorded_run;
pub mod recover;
mod sweep;
mod train;
pub mod tuned_on;

pub use compare::{Compare, Passing};
pub use decide::{
    Attempts, Calibrations, CheckedSequence, Decide, DecideInSequence, Decided, DecidedInSequence, DecisionRules,
    History,
};
pub use diagnose::{DiagnosisPlan, LookInside, LookedInside, MirPairs};
pub use evaluate::{
    BASE_NAME, ComparatorChoice, ComparatorRequest, Evaluate, EvaluatedRun, Evaluation, LOGPROB_TOLERANCE,
    OpenedEvaluation, PlannedEvaluation, PlannedRun, RespondentRequest, logprobs_apart, probe_logprobs, summary,
};
pub use recorded_run::{RecordedRun, make_names_differ, server_flips};
pub use sweep::{SweptTraining, epoch_dir, measure, reuse_answers};
pub use train::{OLD_ANSWER, OpenedTraining, ReadyTraining, Restrain, Source, Train};
