//! The sweep of Figures 3 and 4 of the EMT paper.

use std::path::Path;

use toml::Value;

use crate::model::checkpoint::weights::is_embedded;

/// The two ways of fine-tuning that the paper compares.
const METHODS: [&str; 2] = ["linear", "lora"];

/// The paper's datasets.
const DATASETS: [&str; 4] = ["mnist", "cifar10", "cifar100", "miniimagenet"];

/// The three of them that are part of the program.
const EMBEDDED_DATASETS: [&str; 3] = ["embedded/mnist", "embedded/cifar10", "embedded/cifar100"];

/// How much is trained on and evaluated.
const NUMBERS: &str = "\
# Without a limit, all training images.
# limit = 2000
# Held-out images per dataset after each epoch.
eval_limit = 1000
";

/// The same for the miniature.
const NUMBERS_OF_MINIATURE: &str = "\
# Few images: the miniature is done in minutes.
limit = 120
eval_limit = 40
max_new_tokens = 12
# It cannot learn to spell the paper's `a(n)`.
answer_template = \"The object is a {label}.\"
";

/// The file that fine-tunes `model` on each dataset in both ways, and evaluates it on all of them after each of three epochs.
pub(super) fn file(model: &Path) -> String {
    let is_miniature = is_embedded(model);
    let datasets: &[&str] = if is_miniature { &EMBEDDED_DATASETS } else { &DATASETS };
    let numbers = if is_miniature { NUMBERS_OF_MINIATURE } else { NUMBERS };
    let list: Vec<Value> = datasets.iter().map(|name| Value::from(*name)).collect();
    let mut text = format!(
        "# Figures 3 and 4 of the EMT paper (Zhai et al. 2023, arXiv 2309.10313) for one checkpoint: it is fine-tuned on each\n\
         # dataset, by the projector alone (linear) and by low-rank updates (lora), and evaluated on all datasets after each\n\
         # of three epochs. Keys are flags of `emt finetune`; `emt help sweep` explains the file.\n\
         \nmodel = {}\neval_datasets = {}\nepochs = 3\nseeds = [0]\n{numbers}",
        Value::from(model.display().to_string()),
        Value::Array(list)
    );
    for dataset in datasets {
        for method in METHODS {
            let name = dataset.rsplit('/').next().unwrap_or(dataset);
            text.push_str(&format!("\n[arms.{method}-{name}]\nmethod = \"{method}\"\ntrain = \"{dataset}\"\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests;
