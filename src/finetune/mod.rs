//! Fine-tuning: which tensors train, the loop, the schedule, and its output.
//!
//! A training is a function of its specification alone. Initial values, the order of samples and dropout follow from
//! (seed, epoch, step). A resumed training therefore needs no generator state.

mod curve;
mod example;
mod features;
mod method;
mod optimizer;
mod output;
mod run;
mod schedule;
#[cfg(test)]
mod tests;
mod trainable;
mod trainer;

pub use curve::{Curve, DatasetCurve, EpochPoint, Mark};
pub use example::{AnswerTemplate, Item, TrainingSet, chosen, epoch_order, mixed};
pub use features::Features;
pub use method::{Decay, Hyperparameters, LoraShape, Method};
pub use output::{ADAPTER_SCHEMA, Output};
pub use run::{Training, TrainingEnded, TrainingEvent, Watcher};
pub use schedule::Schedule;
pub use trainable::{Parameter, Trainable, TrainableConfig};
pub use trainer::{Example, StepReport, Stopped, Trainer};
