//! Image preparation, vision towers, and the bare encoders with which a model is compared.

pub mod dinov2;
pub mod encoders;
pub mod internvl_tower;
pub mod patch_tower;
pub mod perceiver;
pub mod preprocess;
pub mod qformer;
pub mod square_tower;
pub mod tiled_tower;
pub mod tower_comparison;
pub mod zero_shot;
