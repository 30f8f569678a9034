//! Models that see an image in tiles, from the command line to the run folder.

use std::path::Path;

use serde_json::{Value, json};

use super::eval::{succeed, trials};
use super::support::{any_shared, emt, fixtures, root};

/// `emt eval` of a fixture on digits and on images in colour, `batch_size` at a time.
fn eval(model: &Path, batch_size: usize, arguments: &[&str], out: &Path) {
    let mut command = emt();
    command.arg("eval").arg("--model").arg(model).args(["--encoder", "none"]);
    let photographs = any_shared().join("data/imagenet20/val");
    command.args(["--datasets", &format!("embedded/mnist,{}", photographs.display()), "--limit", "4"]);
    command.args(["--modes", "generate,score", "--max-new-tokens", "4", "--quiet"]);
    command.args(["--batch-size", &batch_size.to_string()]).args(arguments).arg("--out").arg(out);
    succeed(&mut command);
}

fn run_json(run: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(run.join("run.json")).unwrap()).unwrap()
}

/// What was answered, without the numbers that rounding moves.
fn answers(run: &Path) -> Vec<Value> {
    let of_trial = |trial: Value| {
        json!([trial["sample"], trial["mode"], trial["answer"], trial["n_prompt_tokens"], trial["n_answer_tokens"]])
    };
    trials(run).into_iter().map(of_trial).collect()
}

#[test]
fn each_family_answers_one_image_at_a_time_as_four() {
    let schemes = [("smolvlm", "idefics3"), ("idefics3", "idefics3"), ("llava_onevision", "anyres")];
    let models =
        schemes.into_iter().flat_map(|(family, scheme)| fixtures(family).into_iter().map(move |dir| (dir, scheme)));
    for (model, scheme) in models {
        let folder = tempfile::tempdir().unwrap();
        let family = model.display();
        let of_size = |batch_size: usize| {
            let out = folder.path().join(batch_size.to_string());
            eval(&model, batch_size, &[], &out);
            out
        };
        let (alone, together) = (of_size(1), of_size(4));
        let answered = answers(&alone);
        assert_eq!(answered.len(), 2 * 4 * 2, "{family}");
        assert_eq!(answered, answers(&together), "{family}");
        let recorded = &run_json(&alone)["comparable"]["preprocessing"]["model"];
        assert_eq!(recorded["scheme"], scheme, "{recorded}");
    }
}

#[test]
fn an_adapter_on_tower_and_language_model_runs_beside_its_base() {
    let folder = tempfile::tempdir().unwrap();
    for family in ["smolvlm", "llava_onevision"] {
        let adapter = root().join(format!("tests/golden/tiled/{family}_lora")).display().to_string();
        let (both, alone) = (folder.path().join(family), folder.path().join(format!("{family}-alone")));
        let model = root().join("tests/golden/fixtures").join(family);
        eval(&model, 4, &["--adapter", &adapter], &both);
        eval(&model, 4, &["--adapter", &adapter, "--no-base"], &alone);
        let adapted = answers(&both.join(format!("{family}_lora")));
        assert_eq!(adapted, answers(&alone), "{family}");
        assert_ne!(adapted, answers(&both.join("base")), "{family}");
    }
}
