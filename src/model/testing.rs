//! Helpers of the parity tests.

use std::collections::HashMap;
use std::ops::Index;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::layers::Watched;
use crate::model::families::{ImageEmbedding, Model, RenderedPrompt};
use crate::model::run::prefix::{Opening, Prefix, PromptRow};

/// The tensors of a fixture's `reference.safetensors`.
pub(crate) struct References(HashMap<String, Tensor>);

impl References {
    pub(crate) fn open(fixture: &Path) -> Self {
        Self::open_file(&fixture.join("reference.safetensors"))
    }

    /// Opens another file of references.
    pub(crate) fn open_file(path: &Path) -> Self {
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Those of `reference2.safetensors`.
    pub(crate) fn open_second(fixture: &Path) -> Self {
        Self(candle_core::safetensors::load(fixture.join("reference2.safetensors"), &Device::Cpu).unwrap())
    }
}

impl Index<&str> for References {
    type Output = Tensor;

    fn index(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the reference has no `{name}`"))
    }
}

impl Index<&String> for References {
    type Output = Tensor;

    fn index(&self, name: &String) -> &Tensor {
        &self[name.as_str()]
    }
}

/// Asserts a relative error ‖a − b‖ / ‖b‖ below 1e-4, the limit of the fixtures.
#[track_caller]
pub(crate) fn assert_close(actual: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(actual.dims(), expected.dims(), "{what}: shape");
    let flat = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (a, b) = (flat(actual), flat(expected));
    let difference: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b.powi(2)).sum();
    let error = (difference / norm).sqrt();
    assert!(error < 1e-4, "{what}: relative error {error:e}");
}

/// Returns a matrix of ids.
pub(crate) fn ids(tensor: &Tensor) -> Vec<Vec<u32>> {
    tensor.to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

/// Prompts with embedded images.
impl Model {
    /// Returns the prompt with `images` in their places.
    pub(crate) fn place(&self, prompt: &RenderedPrompt, images: &[ImageEmbedding]) -> anyhow::Result<PromptRow> {
        prompt.placed(images, self.mllm.decoder())
    }

    /// Reads `prompts`, each with its image.
    pub(crate) fn read_about(
        &self,
        opening: Option<&Opening>,
        prompts: &[&RenderedPrompt],
        images: &[ImageEmbedding],
        n_new: usize,
    ) -> anyhow::Result<Prefix> {
        let row =
            |(prompt, image): (&&RenderedPrompt, &ImageEmbedding)| self.place(prompt, std::slice::from_ref(image));
        let rows = prompts.iter().zip(images).map(row).collect::<anyhow::Result<Vec<_>>>()?;
        self.mllm.read(opening, &rows, n_new, Watched::by_none())
    }

    /// Returns the logits of the first token of an answer about `image`.
    pub(crate) fn first_logits_about(
        &self,
        prompt: &RenderedPrompt,
        image: &ImageEmbedding,
    ) -> anyhow::Result<Vec<f32>> {
        self.first_logits(self.place(prompt, std::slice::from_ref(image))?)
    }
}
