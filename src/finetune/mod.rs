//! Fine-tuning: which tensors train, the loop, the schedule, and its output.
//!
//! A training is a function of its specification alone. Initial values, the order of samples and dropout follow from
//! (seed, epoch, step). A resumed training therefore needs no generator state.

mod anchor;
mod arms;
#[cfg(test)]
mod arms_tests;
mod curve;
mod example;
mod features;
mod hyperparameters;
mod importance;
mod objective;
mod optimizer;
mod output;
mod run;
mod schedule;
#[cfg(test)]
mod tests;
mod trainable;
mod trainer;

pub use anchor::{Anchor, Anchored};
#[cfg(test)]
use arms::ENCODER_FILE;
pub use arms::{Base, Start};
pub use curve::{Curve, DatasetCurve, EpochPoint, Mark};
pub use example::{AnswerTemplate, Classified, Item, Material, TrainingSet, chosen, epoch_order, mixed};
pub use features::Features;
pub use hyperparameters::Hyperparameters;
pub use importance::importance;
pub use objective::Objective;
pub use output::{ADAPTER_SCHEMA, Output, read_encoder};
pub use run::{Training, TrainingEnded, TrainingEvent, Watcher};
pub use schedule::Schedule;
pub use trainable::{Parameter, Trainable, TrainableConfig};
pub use trainer::{Example, StepReport, Stopped, Trainer};

/// Returns a number that depends only on the seed and the parts.
fn seeded(seed: u64, parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
