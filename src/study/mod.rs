//! Studies: what a user of the library asks for, as typed requests with typed results.
//!
//! A request says everything; nothing here reads flags or the environment, and nothing prints. Who wants to see progress
//! hands in an [`Observer`](crate::eval::Observer).

mod evaluate;
mod train;

pub use evaluate::{
    BASE_NAME, ComparatorChoice, ComparatorRequest, Evaluate, EvaluatedRun, Evaluation, LOGPROB_TOLERANCE,
    OpenedEvaluation, PlannedEvaluation, PlannedRun, RespondentRequest, logprobs_apart, probe_logprobs,
};
pub use train::{OpenedTraining, ReadyTraining, Train};
