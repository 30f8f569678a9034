//! The data types of `emt`, pure: no tensors, files, clocks or sockets.
//!
//! Read them in this order. An [`RgbImage`] belongs to a [`Sample`], whose label is one of a [`LabelSet`]. A
//! [`Subject`] answers a [`Prompt`] with a [`Response`]. Judges give [`JudgeVerdict`]s, which make an [`Outcome`]. All
//! of it is a [`Trial`].

mod answer;
mod cause;
mod component;
mod computing;
mod conversation;
mod error_kind;
mod image;
mod item;
mod label;
mod method;
mod nearest;
mod outcome;
mod probe;
mod prompt;
mod run_set;
mod run_spec;
mod sample;
mod sample_names;
mod strength;
pub mod text;
mod thought;
mod training_spec;
mod trial;
mod verdict;

pub use answer::{Answer, Response, Stop};
pub use cause::{Cause, CauseShare};
pub use component::{Component, ImageAttention, MergedType, ModelPart, layer_of};
pub use computing::Computing;
pub use conversation::{Conversation, Turn};
pub use error_kind::{ErrorCode, ErrorKind};
pub use image::RgbImage;
pub use item::Item;
pub use label::{AnswerType, Label, LabelSet, LabelSetError};
pub use method::{Arm, Method};
pub use nearest::{closest, nearest};
pub use outcome::{Outcome, UnscoredReason};
pub use probe::{ProbeClassifier, ProbeShots, ProbeSpec};
pub use prompt::Prompt;
pub use run_set::{RunId, RunSet};
pub use run_spec::{
    DatasetSpec, EncoderRelation, EncoderSpec, JudgeSpec, ModelSpec, RunSpec, ServedSpec, SubjectPrompt, TowerChange,
};
pub use sample::{Sample, select};
pub use sample_names::{SampleNames, SampleNamesError, SampleSet};
pub use strength::{NoShare, Share, Strength};
pub use thought::{SplitReply, ends_in_thought, with_thought_opened};
pub use training_spec::{
    ArmSettings, Decay, ElasticWeights, EncoderKind, LoraShape, Mixing, MixtureSettings, ReplaySpec, Restraints,
    Targets, TrainingDatasetSpec, TrainingNumbers, TrainingSpec, VirtualTokenSettings, VirtualTokenStart,
};
pub use trial::{FewerShots, Mode, N_SCORES_KEPT, PriorCorrected, ScoredLabel, Subject, Trial, TrialKey};
pub use verdict::{JudgeKind, JudgeVerdict, Judgement};
