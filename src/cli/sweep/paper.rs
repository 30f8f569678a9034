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

/// The file that fine-tunes `model` on each dataset in both ways, and evaluates it on all of them after each of three epochs.
pub(super) fn file(model: &Path) -> String {
    let is_miniature = is_embedded(model);
    let datasets: &[&str] = if is_miniature { &EMBEDDED_DATASETS } else { &DATASETS };
    let numbers = match is_miniature {
        true => {
            "# Few images: the miniature is to be done in minutes.\nlimit = 120\neval_limit = 40\nmax_new_tokens = 12\n"
        }
        false => {
            "# Without it, all training images: weeks on a CPU.\n# limit = 2000\n# Held-out images per dataset after each epoch.\neval_limit = 1000\n"
        }
    };
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
mod tests {
    use super::*;
    use crate::cli::sweep::SweepFile;

    #[test]
    fn what_is_printed_is_a_sweep_of_both_methods_on_every_dataset() {
        for (model, n_arms) in [("embedded", 6), ("./llava \"7b\"", 8)] {
            let text = file(Path::new(model));
            let parsed = SweepFile::parse(Path::new("paper.toml"), &text, &crate::cli::command()).unwrap();
            assert_eq!(parsed.arms.len(), n_arms, "{text}");
            assert_eq!(parsed.arms[1].name, "lora-mnist");
            let (args, _) = parsed.arms[1].arguments(&crate::cli::command(), 0, Path::new("out"), &[]).unwrap();
            assert_eq!((args.model.as_path(), args.hyperparameters().unwrap().n_epochs), (Path::new(model), 3));
        }
    }
}
