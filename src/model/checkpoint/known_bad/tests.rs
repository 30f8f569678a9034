use super::*;

fn is_warned(model_type: &str, version: &str) -> bool {
    !warnings("it", model_type, version).is_empty()
}

#[test]
fn versions_that_computed_wrongly_are_told_and_their_neighbours_are_not() {
    for (model_type, bad, good) in [
        ("qwen2_5_vl", &["5.3.0", "5.4.0", "5.5.3", "5.5.0.dev0"][..], &["4.57.6", "5.2.9", "5.6.0", "5.23.0"][..]),
        ("smolvlm", &["4.55.1", "4.56.0", "4.57.6"], &["4.53.3", "4.55.0", "5.0.0"]),
        ("idefics3", &["4.57.0rc1"], &["4.46.3", "5.23.0"]),
        ("t5", &["5.0.0"], &["4.57.6", "5.0.1", "5.1.0"]),
        ("instructblip", &["5.0.0", "4.52.1", "4.52.4"], &["4.46.3", "4.53.3"]),
        ("llava", &["4.46.3"], &["4.36.2", "4.57.6", "5.23.0"]),
        ("llava_onevision", &["4.46.3"], &["4.57.6"]),
        ("qwen2_vl", &[], &["5.3.0", "5.4.0"]),
    ] {
        bad.iter().for_each(|version| assert!(is_warned(model_type, version), "{model_type} {version}"));
        good.iter().for_each(|version| assert!(!is_warned(model_type, version), "{model_type} {version}"));
    }
    for odd in ["", "5", "main", "v5.4.0", "5.x.0"] {
        assert!(!is_warned("qwen2_5_vl", odd), "{odd}");
    }
}

#[test]
fn a_warning_names_the_model_the_version_and_the_mend() {
    let warning = warnings("`tuned`", "qwen2_5_vl", "5.4.0").remove(0);
    for part in ["`tuned`", "5.4.0", "qwen2_5_vl", "hint: train again with 5.6"] {
        assert!(warning.contains(part), "{warning}");
    }
}
