//! Tests of the documents of a diagnosis.

use super::*;
use crate::chart::diagnosis_samples::{dataset, diagnosis, integration, lost_images, with_all_probes, with_lens};
use crate::domain::Cause;
use crate::report::{Absence, Picture};

/// Two datasets, one of them with every probe, and what is known of the models.
fn everything() -> Diagnosis {
    let mut whole = diagnosis(vec![with_all_probes(dataset("embedded/cifar10"), 6), dataset("<b>mnist")]);
    whole.mir = Some(integration(6));
    whole
}

fn page(whole: &Diagnosis, images: &[ImageDiagnosis]) -> String {
    let chosen = whole.datasets.iter().flat_map(|dataset| diagnosed_choice(images, &dataset.dataset));
    let lost: Vec<DiagnosedImage<'_>> =
        chosen.map(|image| DiagnosedImage { image, picture: Picture::Absent(Absence::NotAtHand) }).collect();
    diagnosis_html(whole, &DiagnosisCharts::draw(whole), &lost, "emt diagnose <x>")
}

#[test]
fn a_page_shows_the_charts_of_each_dataset_between_its_headline_and_its_tables() {
    let whole = everything();
    let page = page(&whole, &lost_images("embedded/cifar10", 30));
    let mut from = 0;
    let in_order = [
        "Why lora forgot",
        "<h2 id=\"d0\">embedded/cifar10",
        "Cause: alignment.",
        ">Why images were lost</title>",
        ">Which part carries the fall</title>",
        ">Layer by layer</title>",
        "<th scope=\"row\">projector</th>",
        "<th scope=\"col\" class=\"number\">Lens, candidate</th>",
        "<h3>Lost images</h3>",
        "<h2 id=\"d1\">&lt;b&gt;mnist",
        ">Why images were lost</title>",
        "<h2 id=\"models\">",
        "Modality Integration Rate over 100 pairs",
    ];
    for words in in_order {
        let place = page[from..].find(words).unwrap_or_else(|| panic!("`{words}` is not below the one before"));
        from += place;
    }
    assert!(!page.contains("<b>") && !page.contains("NaN") && !page.contains("<x>"));
    assert_eq!(page.matches("<figure class=\"chart\"").count(), 5);
}

#[test]
fn lost_images_take_turns_over_causes_and_no_more_than_twelve_are_shown() {
    let images = lost_images("embedded/cifar10", 30);
    let chosen = diagnosed_choice(&images, "embedded/cifar10");
    assert_eq!(chosen.len(), 12);
    assert_eq!(chosen.iter().filter(|image| image.cause == Some(Cause::Wording)).count(), 1, "the only one is shown");
    assert!(diagnosed_choice(&images, "mnist").is_empty());
    let page = page(&everything(), &images);
    assert!(page.contains("28 more are in <code>images.jsonl</code>."), "40 were lost");
    for words in
        ["<dt>before</dt><dd><q>A cat.</q></dd>", "<q>&lt;b&gt;7&lt;/b&gt;</q>", "right with the base&#39;s projector<"]
    {
        assert_eq!(page.matches(words).count(), 12, "{words}");
    }
}

#[test]
fn markdown_has_every_table_but_those_that_are_too_long() {
    let text = diagnosis_markdown(&everything());
    for row in [
        "| projector | 62.0 (41.0–85.0) | 48.0 (20.0–70.0) | 55.0 |",
        "| 6 | −0.60 (−1.00 to −0.20) | −4.00 (−4.70 to −3.40) | 0.0 → 0.0 |",
        "| 0 | 200 | 0.400 | 0.300 |",
        "| 8 | 10.0% → 20.0% | – | 70.0% → 50.0% |",
        "| operations of reading a prompt | 8.10 TFLOP | 3.90 TFLOP | 48.1% |",
        "| bf16 | 188 | 200 | 94.0% |",
        "| language.20 | paper | 190 | 0.44 | – |",
        "| candidate | – |",
        "| 0 | 120.0 → 150.0 | 100.0 → 130.0 |",
    ] {
        assert!(text.contains(row), "{row}: {text}");
    }
    assert!(text.contains("the base needs no image from layer 16 on:"), "{text}");
    assert!(!text.contains("at decision"), "columns without a value are left out");
    let long = diagnosis(vec![with_lens(dataset("a"), 40)]);
    assert!(!diagnosis_markdown(&long).contains("Lens, base"));
    let page = page(&long, &[]);
    assert!(page.contains("Lens, base") && page.contains("<summary>Log-probabilities of the label"), "it is folded");
}
