//! Studies: what a user of the library asks for, as typed requests with typed results.
//!
//! A request says everything; nothing here reads flags or the environment, and nothing prints. Who wants to see progress
//! hands in an [`Observer`](crate::eval::Observer).

mod evaluate;

pub use evaluate::{
    ComparatorChoice, ComparatorRequest, Evaluate, EvaluatedRun, Evaluation, OpenedEvaluation, PlannedEvaluation,
    PlannedRun, RespondentRequest,
};
