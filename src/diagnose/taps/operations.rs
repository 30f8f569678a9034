//! What reading a prompt costs if positions of the image attend to themselves only (EE-MLLM).

use anyhow::{Context, Result};

use super::{BASE, Batch, Inside, Tap};

/// The counts of the first image's prompt.
#[derive(Default)]
pub(super) struct Operations {
    counted: Option<[f64; 2]>,
}

impl Tap for Operations {
    fn visit(&mut self, batch: &Batch<'_>) -> Result<()> {
        let (model, _, prompts) = batch.of(BASE);
        let prompt = prompts.first().context("a batch has a prompt")?;
        let n_image = prompt.spans.image_positions().len();
        self.counted.get_or_insert_with(|| model.mllm.decoder().n_operations(n_image, prompt.n_tokens() - n_image));
        Ok(())
    }

    fn conclude(self: Box<Self>, inside: &mut Inside) {
        inside.operations = self.counted;
    }
}
