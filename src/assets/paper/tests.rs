use super::*;

#[test]
fn every_models_encoder_stands_in_the_table() {
    for row in &TABLE_2 {
        if let Some(encoder) = row.encoder {
            assert!(TABLE_2.iter().any(|other| other.name == encoder && other.encoder.is_none()), "{encoder}");
        }
    }
}

#[test]
fn retention_and_gaps_are_those_that_were_computed_from_the_paper() {
    let clip = &TABLE_2[0];
    for (name, retention, gaps) in [("LLaVA-7b (v0)", 0.491, -165.39), ("LLaVA-13b (v0)", 0.594, -131.30)] {
        let row = TABLE_2.iter().find(|row| row.name == name).unwrap();
        let shares: f64 = row.percents.iter().zip(clip.percents).map(|(model, encoder)| model / encoder).sum();
        let sum: f64 = row.percents.iter().zip(clip.percents).map(|(model, encoder)| model - encoder).sum();
        assert!((shares / 4.0 - retention).abs() < 5e-4, "{name}: {}", shares / 4.0);
        assert!((sum - gaps).abs() < 5e-3, "{name}: {sum}");
    }
}

#[test]
fn an_unknown_family_gets_the_rows_of_llava() {
    let names: Vec<&str> = rows_beside("qwen").iter().map(|row| row.name).collect();
    assert_eq!(names, ["CLIP ViT-L-14", "LLaVA-7b (v0)", "LLaVA-13b (v0)"]);
    assert_eq!(rows_beside("instructblip")[0].name, "openclip ViT-g-14");
}

#[test]
fn a_dataset_that_the_paper_lacks_has_no_figure() {
    assert_eq!(TABLE_2[0].accuracy("imagenet"), None);
    assert_eq!(TABLE_2[0].accuracy("mnist"), Some(0.7736));
}
