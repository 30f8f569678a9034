//! The EMT paper's own accuracies: Zhai et al. 2023, "Investigating the Catastrophic Forgetting in Multimodal Large
//! Language Model Fine-Tuning" (PMLR 234), Table 2: zero-shot, graded by GPT-3.5, on images of the training splits.

/// The columns of [`TABLE_2`], by the names of the catalog.
pub const DATASETS: [&str; 4] = ["mnist", "cifar10", "cifar100", "miniimagenet"];

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaperRow {
    /// As the paper names it.
    pub name: &'static str,
    /// `None` for an encoder; for a model the name of the encoder's row.
    pub encoder: Option<&'static str>,
    /// The family as `emt` names it, where `emt` knows one; the models' rows only.
    pub family: &'static str,
    /// Accuracies in percent, by [`DATASETS`].
    pub percents: [f64; 4],
}

impl PaperRow {
    /// The accuracy on `dataset` as a fraction in 0..1; `None` where the table has no such column.
    pub fn accuracy(&self, dataset: &str) -> Option<f64> {
        let column = DATASETS.iter().position(|&name| name == dataset)?;
        Some(self.percents[column] / 100.0)
    }
}

const fn encoder(name: &'static str, percents: [f64; 4]) -> PaperRow {
    PaperRow { name, encoder: None, family: "", percents }
}

const fn model(name: &'static str, encoder: &'static str, family: &'static str, percents: [f64; 4]) -> PaperRow {
    PaperRow { name, encoder: Some(encoder), family, percents }
}

/// Table 2, each encoder above the models that use it.
pub const TABLE_2: [PaperRow; 9] = [
    encoder("CLIP ViT-L-14", [77.36, 95.39, 76.04, 78.92]),
    model("LLaVA-7b (v0)", "CLIP ViT-L-14", "llava", [56.96, 56.71, 34.53, 14.12]),
    model("LLaVA-13b (v0)", "CLIP ViT-L-14", "llava", [53.84, 67.67, 44.79, 30.11]),
    model("Otter", "CLIP ViT-L-14", "otter", [49.59, 78.11, 57.63, 14.94]),
    encoder("openclip ViT-H-14", [73.75, 88.17, 85.09, 85.84]),
    model("LENS (Flan-T5)", "openclip ViT-H-14", "lens", [22.84, 12.97, 0.03, 7.08]),
    encoder("openclip ViT-g-14", [63.67, 89.72, 78.86, 83.84]),
    model("InstructBLIP-7b", "openclip ViT-g-14", "instructblip", [45.12, 94.95, 17.00, 12.76]),
    model("InstructBLIP-13b", "openclip ViT-g-14", "instructblip", [37.49, 88.72, 17.70, 14.82]),
];

/// The rows to show beside a model of `family`: its encoder and the models of that family, else those of LLaVA, which
/// is the paper's main subject.
pub fn rows_beside(family: &str) -> Vec<&'static PaperRow> {
    let family =
        if TABLE_2.iter().any(|row| !row.family.is_empty() && row.family == family) { family } else { "llava" };
    let models: Vec<&PaperRow> = TABLE_2.iter().filter(|row| row.family == family).collect();
    let is_their_encoder = |row: &&PaperRow| models.iter().any(|model| model.encoder == Some(row.name));
    TABLE_2.iter().filter(is_their_encoder).chain(models.iter().copied()).collect()
}

#[cfg(test)]
mod tests;
