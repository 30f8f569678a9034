//! Families whose images keep their proportions, from the command line to the run folder.

use std::path::Path;

use serde_json::Value;

use super::eval::trials;
use super::support::{self, Finished};

/// `emt eval` of a small Qwen2.5-VL on four digits, with `arguments` after it.
fn eval(model: &Path, out: &Path, arguments: &[&str]) -> Finished {
    let mut command = support::emt();
    command.arg("eval").arg("--model").arg(model);
    command.args(["--encoder", "none", "--datasets", "embedded/mnist", "--limit", "4", "--modes", "generate,score"]);
    command.args(arguments).arg("--out").arg(out);
    support::finish(&mut command)
}

fn manifest(run: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(run.join("run.json")).unwrap()).unwrap()
}

#[test]
fn answers_do_not_depend_on_the_batch() {
    for model in support::fixtures("qwen2_5_vl") {
        let folder = tempfile::tempdir().unwrap();
        let answers = |batch_size: &str| {
            let out = folder.path().join(batch_size);
            let finished = eval(&model, &out, &["--batch-size", batch_size]);
            assert_eq!(finished.code, Some(0), "{}", finished.stderr);
            let answer = |trial: &Value| ["sample", "mode", "answer", "outcome"].map(|key| trial[key].clone());
            trials(&out).iter().map(answer).collect::<Vec<_>>()
        };
        let alone = answers("1");
        assert_eq!(alone.len(), 8);
        assert_eq!(alone, answers("4"));
    }
}

#[test]
fn images_of_unlike_sizes_are_answered_in_one_batch_as_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for (index, (width, height)) in
        [(60, 60), (300, 60), (150, 220), (60, 62), (280, 160), (64, 200)].iter().enumerate()
    {
        let class = folder.path().join("photographs/val").join(["cat", "dog"][index % 2]);
        std::fs::create_dir_all(&class).unwrap();
        let image =
            image::RgbImage::from_fn(*width, *height, |_, _| image::Rgb([random.u8(..), random.u8(..), random.u8(..)]));
        image.save(class.join(format!("{index}.png"))).unwrap();
    }
    for (index, model) in support::fixtures("qwen2_5_vl").iter().enumerate() {
        // From 4 to 64 positions of the language model.
        let n_pixels = [8 * 8, 28 * 28][index];
        let limits = [4 * n_pixels, 64 * n_pixels].map(|n| n.to_string());
        let answers = |batch_size: &str| {
            let out = folder.path().join(format!("{index}-{batch_size}"));
            let mut command = support::emt();
            command.arg("eval").arg("--model").arg(model).args(["--encoder", "none"]);
            command.arg("--datasets").arg(folder.path().join("photographs/val")).args(["--modes", "generate,score"]);
            command.args(["--min-pixels", &limits[0], "--max-pixels", &limits[1], "--batch-size", batch_size]);
            let finished = support::finish(command.arg("--out").arg(&out));
            assert_eq!(finished.code, Some(0), "{}", finished.stderr);
            let keys = ["sample", "mode", "answer", "outcome", "n_prompt_tokens"];
            trials(&out).iter().map(|trial| keys.map(|key| trial[key].clone())).collect::<Vec<_>>()
        };
        let alone = answers("1");
        assert_eq!(alone, answers("6"));
        let lengths: std::collections::BTreeSet<u64> = alone.iter().map(|trial| trial[4].as_u64().unwrap()).collect();
        assert!(lengths.len() > 3, "{lengths:?}");
    }
}

#[test]
fn limits_of_pixels_are_recorded_and_decide_how_long_a_prompt_is() {
    // The model's own maximum, another, and the positions that a digit of 28 x 28 pixels takes within them: in the small
    // fixture it becomes 16 x 16 or 8 x 8 pixels of 8 x 8 a position, in the other 140 x 140 or 56 x 56 of 28 x 28.
    let expected = [([512, 64], [4, 1]), ([18816, 3136], [25, 4])];
    for (model, (limits, n_positions)) in support::fixtures("qwen2_5_vl").iter().zip(expected) {
        check_limits(model, limits, n_positions);
    }
}

fn check_limits(model: &Path, [own, other]: [u64; 2], [n_own, n_other]: [u64; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, arguments: &[&str]| {
        let out = folder.path().join(name);
        let finished = eval(model, &out, arguments);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let n_tokens = trials(&out)[0]["n_prompt_tokens"].as_u64().unwrap();
        (manifest(&out)["comparable"]["preprocessing"]["model"].clone(), n_tokens)
    };
    // The fixture's own limits are below the default minimum, and its maximum holds.
    let (by_default, n_by_default) = run("default", &[]);
    assert_eq!((by_default["min_pixels"].as_u64(), by_default["max_pixels"].as_u64()), (Some(own), Some(own)));
    let text = other.to_string();
    let (given, n_given) = run("given", &["--min-pixels", &text, "--max-pixels", &text]);
    assert_eq!((given["min_pixels"].as_u64(), given["max_pixels"].as_u64()), (Some(other), Some(other)));
    assert_eq!(n_by_default - n_given, n_own - n_other);
    let finished = eval(model, &folder.path().join("none"), &["--min-pixels", "5000", "--max-pixels", "4000"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--min-pixels"), "{}", finished.stderr);
}

#[test]
fn limits_of_pixels_are_refused_where_a_family_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = support::emt();
    command.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist", "--limit", "1"]);
    let finished = support::finish(command.args(["--min-pixels", "5000", "--out"]).arg(folder.path().join("run")));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--min-pixels") && finished.stderr.contains("(Qwen)"), "{}", finished.stderr);
}
