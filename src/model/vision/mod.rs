//! Images in: their preparation, the towers that see them, and the bare encoders that a model is compared with.

pub mod encoders;
pub mod patch_tower;
pub mod preprocess;
pub mod square_tower;
pub mod tower_comparison;
pub mod zero_shot;
