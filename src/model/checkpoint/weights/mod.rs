//! Checkpoint folders: a model's files, and its tensors by canonical name.
//!
//! [`Checkpoint`] opens a folder and returns its files. [`open_checkpoint`] also opens the miniature, whose files are
//! part of the program, and [`Hub`] finds folders in the hub's cache. [`Weights`] locates each tensor, under the
//! canonical name that a [`canonical`] rule gives to the stored one, and returns every tensor exactly once. Tensors are
//! read in place (memory-mapped), from safetensors files and from PyTorch archives. The archives' pickles are read by
//! an interpreter that can build tensors and refuses everything else by name.

mod adapter;
mod candidate;
pub mod canonical;
mod checkpoint;
mod embedded;
mod hub;
mod mapped;
mod notes;
mod pickle;
mod quantised;
mod remembered;
mod safetensors_file;
mod second_tower;
mod store;
mod stored;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod torch_archive;
mod write;

pub use adapter::{Adapter, SAVED_VIRTUAL_TOKENS, SOFT_PROMPT, Weakening, WriteFile};
pub use candidate::{OwnFiles, OwnSettings};
pub use canonical::{
    Canonical, canonical_clip_tower, canonical_dinov2, canonical_dual_encoder, canonical_llava, canonical_open_clip,
    canonical_qwen_vl, is_computed_buffer,
};
pub use checkpoint::{Checkpoint, TEXT_MODEL_FOLDER, TOWER_FOLDER, config_hash, read_text_file};
pub use embedded::{EMBEDDED, Miniature, is_embedded, open_checkpoint};
pub use hub::{FoundRevision, Hub, HubEvent, Located, RepositoryId, Role};
pub(in crate::model) use notes::{MODELFILE, SWIFT_ARGUMENTS};
pub use notes::{SwiftArguments, TrainerNotes};
pub use remembered::HashMemory;
pub use second_tower::{MixtureConfig, SECOND_PROJECTOR, SECOND_TOWER, extend_with_second_tower, open_dinov2};
pub use store::Weights;
pub use write::{COMPANIONS, NamedTensor, read_tensors, safetensors_bytes, torch_archive_bytes};
