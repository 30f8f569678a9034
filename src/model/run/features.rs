//! Conversion of one image's tower features to bytes and back.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use crate::model::Placement;
use crate::model::families::Seen;

/// The tower features of one image.
#[derive(Clone, Debug, Default)]
pub struct TowerFeatures {
    /// By tower, in the order of [`Subjects::towers`](super::subjects::Subjects::towers): the projector's input.
    /// Unknown entries are `None` or missing at the end.
    pub seen: Vec<Option<Seen>>,
    /// The embedding that the encoder compares with captions.
    pub embedding: Option<ImageVector>,
}

impl TowerFeatures {
    /// Returns the features from tower number `tower`, if they are known.
    pub(in crate::model) fn of_tower(&self, tower: usize) -> Option<&Seen> {
        self.seen.get(tower)?.as_ref()
    }

    /// Stores the features from tower number `tower`.
    pub fn set_tower(&mut self, tower: usize, seen: Seen) {
        if self.seen.len() <= tower {
            self.seen.resize_with(tower + 1, || None);
        }
        self.seen[tower] = Some(seen);
    }
}

/// An encoder's unit-length embedding of one image.
#[derive(Clone, Debug)]
pub struct ImageVector(pub(in crate::model) Tensor);

/// Identifies everything except the image that decides a tower's output: the `tower` (its weights and configuration),
/// the image `preparation`, the device and compute type, and the kernels (none on a CPU if `is_differentiable`).
pub fn computed_by(
    tower: &str,
    preparation: &serde_json::Value,
    placement: &Placement,
    is_differentiable: bool,
) -> String {
    let instructions = match &placement.device {
        Device::Cpu if !is_differentiable => crate::model::kernels_name(),
        Device::Cuda(_) if cfg!(feature = "flash-attn") => "flash attention",
        _ => "none",
    };
    format!(
        "emt {}, {tower}, {preparation}, {} on {}, {instructions}, {}",
        env!("CARGO_PKG_VERSION"),
        placement.dtype.as_str(),
        placement.device_kind(),
        std::env::consts::ARCH
    )
}

const GRID: &str = "grid";
const ORIGINAL_SIZE: &str = "original_size";

impl Seen {
    /// Serialises all fields, in the types in which they were computed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let pair = |(a, b): (String, String)| format!("{a} {b}");
        let ((rows, columns), (height, width)) = (self.grid, self.original_size);
        let header = HashMap::from([
            (GRID.to_owned(), pair((rows.to_string(), columns.to_string()))),
            (ORIGINAL_SIZE.to_owned(), pair((height.to_string(), width.to_string()))),
        ]);
        let states = self.states.iter().enumerate().map(|(index, state)| (index.to_string(), state));
        Ok(safetensors::serialize(states, Some(header))?)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, onto the device of `placement`.
    ///
    /// # Errors
    /// `bytes` were not written by `to_bytes`.
    pub fn from_bytes(bytes: &[u8], placement: &Placement) -> Result<Self> {
        let stored = SafeTensors::deserialize(bytes)?;
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let header = metadata.metadata().as_ref().context("features lack their header")?;
        let (rows, columns) = pair(header, GRID)?;
        let (height, width) = pair(header, ORIGINAL_SIZE)?;
        let state = |index: usize| Ok(stored.tensor(&index.to_string())?.load(&placement.device)?);
        Ok(Self {
            states: (0..stored.len()).map(state).collect::<Result<_>>()?,
            grid: (usize::try_from(rows)?, usize::try_from(columns)?),
            original_size: (height, width),
        })
    }
}

fn pair(header: &HashMap<String, String>, name: &str) -> Result<(u32, u32)> {
    match header.get(name).and_then(|text| text.split_once(' ')) {
        Some((a, b)) => Ok((a.parse()?, b.parse()?)),
        None => bail!("features lack `{name}`"),
    }
}

impl ImageVector {
    /// Serialises the vector, in the type in which it was computed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(safetensors::serialize([("embedding", &self.0)], None)?)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, onto the device of `placement`.
    ///
    /// # Errors
    /// `bytes` were not written by `to_bytes`.
    pub fn from_bytes(bytes: &[u8], placement: &Placement) -> Result<Self> {
        Ok(Self(SafeTensors::deserialize(bytes)?.tensor("embedding")?.load(&placement.device)?))
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use candle_core::{DType, Device};

    use super::*;
    use crate::domain::RgbImage;
    use crate::model::checkpoint::weights::testing::golden;
    use crate::model::checkpoint::weights::{Miniature, open_checkpoint};
    use crate::model::families::OpenedModel;
    use crate::model::vision::encoders::OpenedEncoder;
    use crate::model::vision::preprocess::{ImageInput, ImageProcessor};

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let values: Vec<f32> = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn a_row_of_a_batch_with_several_states_and_a_grid_comes_back_to_the_bit() {
        let batch = Tensor::randn(0f32, 1.0, (3, 5, 4), &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let states = vec![batch.get(1).unwrap().to_dtype(dtype).unwrap(), batch.to_dtype(dtype).unwrap()];
            let seen = Seen { states, grid: (3, 7), original_size: (480, 640) };
            let back = Seen::from_bytes(&seen.to_bytes().unwrap(), &Placement::cpu()).unwrap();
            assert_eq!((back.grid, back.original_size), (seen.grid, seen.original_size));
            assert_eq!(back.states.len(), 2);
            for (back, state) in back.states.iter().zip(&seen.states) {
                assert_eq!((back.dims(), back.dtype(), bits(back)), (state.dims(), dtype, bits(state)));
            }
        }
    }

    #[test]
    fn an_embedding_comes_back_and_other_bytes_are_refused() {
        let vector = ImageVector(Tensor::randn(0f32, 1.0, (2, 8), &Device::Cpu).unwrap().get(1).unwrap());
        let bytes = vector.to_bytes().unwrap();
        assert_eq!(bits(&ImageVector::from_bytes(&bytes, &Placement::cpu()).unwrap().0), bits(&vector.0));
        assert!(Seen::from_bytes(&bytes, &Placement::cpu()).is_err());
        assert!(ImageVector::from_bytes(&bytes[..bytes.len() - 1], &Placement::cpu()).is_err());
        assert!(ImageVector::from_bytes(b"", &Placement::cpu()).is_err());
    }

    /// Images of one size with different pixels.
    fn images(n_images: usize) -> Vec<RgbImage> {
        let mut random = fastrand::Rng::with_seed(9);
        let mut pixels = || (0..40 * 32 * 3).map(|_| random.u8(..)).collect();
        (0..n_images).map(|_| RgbImage::new(40, 32, pixels()).unwrap()).collect()
    }

    #[test]
    fn no_image_depends_on_those_that_pass_a_tower_beside_it() {
        let folders = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm"].map(|name| golden("fixtures").join(name));
        for folder in std::iter::once(PathBuf::from("embedded")).chain(folders) {
            let checkpoint = open_checkpoint(&folder, Miniature::Model).unwrap();
            let folder = folder.display();
            let model = OpenedModel::open(&checkpoint, None, None).unwrap().load(&Placement::cpu()).unwrap();
            let inputs: Vec<ImageInput> = images(5).iter().map(|image| model.preprocessor.prepare(image)).collect();
            let inputs: Vec<&ImageInput> = inputs.iter().collect();
            let together = model.mllm.see(&inputs).unwrap();
            for (part, n_together) in [(&inputs[..1], 1), (&inputs[..3], 3)] {
                for (seen, beside) in model.mllm.see(part).unwrap().iter().zip(&together) {
                    for (state, expected) in seen.states.iter().zip(&beside.states) {
                        assert!(bits(state) == bits(expected), "{folder}, {n_together} at a time");
                    }
                }
            }
        }
    }

    #[test]
    fn no_embedding_depends_on_the_images_beside_it() {
        let opened = OpenedEncoder::open(open_checkpoint(Path::new("embedded"), Miniature::Encoder).unwrap()).unwrap();
        let encoder = opened.load(&Placement::cpu()).unwrap();
        let inputs: Vec<ImageInput> = images(7).iter().map(|image| encoder.preprocessor.prepare(image)).collect();
        let inputs: Vec<&ImageInput> = inputs.iter().collect();
        let embeddings = |images: &[&ImageInput]| {
            let tower = encoder.towers.tower();
            let pixels = tower.pixels(images).unwrap();
            let hidden = tower.hidden_states(&pixels, &[tower.state_before_last()]).unwrap().swap_remove(0);
            bits(&encoder.towers.image_embeddings(&hidden).unwrap())
        };
        let together = embeddings(&inputs);
        for n_together in 1..7 {
            let part = embeddings(&inputs[..n_together]);
            assert!(part == together[..part.len()], "{n_together} at a time");
        }
    }
}
