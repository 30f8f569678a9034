//! The page of a comparison in a browser: it loads nothing, runs nothing and shows everything.

use emt::chart::{ComparisonCharts, RoseOptions, Scale, Style};
use emt::compare::{Comparison, LostImage, Summary};
use emt::domain::{ErrorCode, RgbImage};
use emt::finetune::Curve;
use emt::gate::Verdict;
use emt::report::{
    Absence, CandidateReport, ComparisonReport, DatasetBrief, DecisionBrief, GalleryImage, Picture, Stage, StageReport,
    Thumbnail, comparison_html,
};
use serde_json::{Value, json};

use super::chromium::{Browser, Window};
use super::eval::succeed;
use super::support::emt;

/// What a hostile model says: each of these would be seen by the audit.
const HOSTILE: &str = "</q></td></table><script>window.hostile = 1</script><img src=x onerror=\"window.hostile = 2\"><svg onload=\"window.hostile = 3\"><iframe src=\"http://127.0.0.1:9/\"></iframe><style>body { display: none }</style>";

const PHONE: Window = Window { width: 375, is_dark: false };
const SCREEN: Window = Window { width: 1280, is_dark: false };

fn errors(leak: usize) -> Value {
    json!({
        "n_scored": 300, "codes": { "wrong": 30, "leak": leak },
        "kinds": { "incorrect_prediction": 30, "intrinsic_hallucination": 0, "extrinsic_hallucination": leak },
    })
}

fn dataset(name: &str) -> Value {
    let table = json!({
        "both_correct": 200, "lost": 60, "gained": 5, "both_wrong": 35, "unscored_correct": 0, "unscored_wrong": 0,
        "correct_unscored": 2, "wrong_unscored": 0, "both_unscored": 0,
    });
    let funnel = json!({ "e1s1g1": 200, "e1s1g0": 40, "e0s0g0": 60 });
    let judge = |name: &str| json!({ "judge": name, "baseline_accuracy": 0.87, "candidate_accuracy": 0.68, "forgetting": 0.19, "table": table });
    let numbers = json!({
        "dataset": name, "split": "test", "is_training_split": false, "n_classes": 10, "is_tuned_on": false,
        "n_pairs": 302, "n_unscored": 2, "n_unreadable": 0, "n_unpaired": 0,
        "baseline_accuracy": 0.867, "baseline_accuracy_interval": [0.82, 0.9],
        "candidate_accuracy": 0.683, "candidate_accuracy_interval": [0.63, 0.73],
        "forgetting": 0.183, "forgetting_interval": [0.13, 0.24], "forgetting_bounds": [0.18, 0.19],
        "n_lost": 60, "n_gained": 5, "encoder_knows": 50, "p_value_mcnemar": 1e-12, "margin": 0.02,
        "minimum_detectable_fall": 0.05,
        "negative_flip_rate": 0.2, "chance_corrected_forgetting": 0.21, "chance_corrected_gain": 0.01,
        "retention_before": 0.95, "retention_before_interval": [0.92, 0.98], "retention_after": null,
        "retention_after_interval": null,
    });
    let parts = json!({
        "funnel": { "before": funnel, "after": funnel, "lost_wording": 40, "lost_choice": 15, "lost_unknown": 5 },
        "transitions": [
            { "from": "correct", "to": "correct", "n": 200 }, { "from": "correct", "to": "leak", "n": 60 },
            { "from": "wrong", "to": "correct", "n": 5 }, { "from": "wrong", "to": "wrong", "n": 35 },
        ],
        "errors_before": errors(0), "errors_after": errors(60),
        "constant_answer_after": { "answer": HOSTILE, "share": 0.6 },
        "classes": [{
            "label": HOSTILE, "n_scored": 30, "n_lost": 20, "n_gained": 0, "baseline_accuracy": 0.9,
            "candidate_accuracy": 0.2, "forgetting": 0.7, "p_holm": 0.001,
        }],
        "confusion_shifts": [{ "label": "3", "said": HOSTILE, "n_before": 0, "n_after": 20 }],
        "judges": [judge("rules"), judge("llm")],
        "n_pairs_of_all_judges": 0,
        "judge_agreement": [{
            "side": "candidate", "judges": ["rules", "llm"], "cells": [200, 3, 2, 95], "agreement": 0.983, "kappa": 0.96,
            "kappa_interval": [0.93, 0.99],
        }],
        "table": table, "encoder_cells_after": [190, 10, 80, 20],
    });
    let fields = [numbers, parts].into_iter().filter_map(|half| half.as_object().cloned()).flatten();
    Value::Object(fields.collect())
}

fn comparison() -> Comparison {
    let made = json!({
        "schema": "emt.comparison/1", "baseline": "base", "baseline_identity": "blake3:00", "tuned_on": ["cifar10"],
        "allowed_different": ["prompt_text"],
        "candidates": [{
            "run": "lora", "identity": "blake3:01", "only_candidate": [], "datasets": [dataset("mnist"), dataset(HOSTILE)],
            "differences": [{ "field": "prompt_text", "place": "mnist.model.generate", "baseline": "?", "candidate": HOSTILE }],
        }],
    });
    let mut comparison: Comparison = serde_json::from_value(made).unwrap();
    for dataset in &mut comparison.candidates[0].datasets {
        dataset.lost = (0..3)
            .map(|index| LostImage {
                sample: format!("mnist/test/{index:05}"),
                content: format!("blake3:{index}"),
                label: "3".to_owned(),
                said_before: "3".to_owned(),
                said_after: HOSTILE.to_owned(),
                code_after: ErrorCode::Leak,
                encoder: Some(("3".to_owned(), true)),
                scoring: Some(("8".to_owned(), false)),
            })
            .collect();
    }
    comparison
}

fn summary(run: &str, accuracy: f64) -> Summary {
    let subject = json!({
        "n_trials": 300, "n_correct": 260, "n_incorrect": 40, "n_unscored": 0, "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.04, accuracy + 0.04], "accuracy_bounds": null, "balanced_accuracy": null,
        "kinds": {}, "codes": {},
    });
    let dataset = |name: &str| {
        json!({
            "dataset": name, "split": "test", "n_samples": 300, "n_classes": 10, "model": subject, "encoder": subject,
            "retention": null, "retention_interval": null, "pairs": null,
        })
    };
    let made = json!({
        "schema": "emt.summary/1", "run": run,
        "model": { "name": run, "family": "llava", "adapter": null, "compute_type": "f32", "device_kind": "cpu" },
        "encoder": {
            "relation": "own", "comparator": "zero_shot", "tower_equal": true, "name": "clip", "family": "clip",
        },
        "judge": { "name": "rules", "judges": [], "uncertain_share": null },
        "datasets": [dataset("mnist"), dataset(HOSTILE)],
    });
    serde_json::from_value(made).unwrap()
}

fn curve() -> Curve {
    let point = |epoch: usize, accuracy: f64| {
        json!({
            "epoch": epoch, "step": 10 * epoch, "n_trials": 40, "accuracy": accuracy, "accuracy_interval": null,
            "codes": {}, "marks": [],
        })
    };
    let made = json!({
        "schema": "emt.curve/1", "method": "lora", "tuned_on": ["cifar10"],
        "datasets": [{ "dataset": "mnist", "is_tuned_on": false, "points": [point(0, 0.9), point(1, 0.6)] }],
    });
    serde_json::from_value(made).unwrap()
}

fn page() -> String {
    page_of(comparison())
}

/// What the gate says, of a dataset of that name and for that reason.
fn decision(text: &str) -> DecisionBrief {
    let dataset = DatasetBrief {
        dataset: text.to_owned(),
        verdict: Verdict::Fail,
        n_scored: 300,
        why: format!("forgetting: {text}"),
    };
    DecisionBrief {
        verdict: Verdict::Fail,
        headline: text.to_owned(),
        datasets: vec![dataset],
        notes: vec![text.to_owned()],
    }
}

fn page_of(comparison: Comparison) -> String {
    let decision = decision(HOSTILE);
    let (before, after, curve) = (summary("base", 0.867), summary("lora", 0.683), curve());
    let options = RoseOptions { scale: Scale::Radius, style: Style::Petals, paper_rows: false };
    let afters = vec![&after; comparison.candidates.len()];
    let charts = ComparisonCharts::draw(&comparison, &before, &afters, options, Some(0.02));
    let small = RgbImage::new(28, 28, (0..28 * 28 * 3).map(|index| (index % 251) as u8).collect()).unwrap();
    let large = RgbImage::new(500, 375, vec![120; 500 * 375 * 3]).unwrap();
    let pictures = [
        Picture::Shown(Thumbnail::of(&small).unwrap()),
        Picture::Shown(Thumbnail::of(&large).unwrap()),
        Picture::Absent(Absence::NotAtHand),
    ];
    let images = comparison.candidates[0].datasets.iter().flat_map(|dataset| {
        let lost = dataset.lost.iter().zip(&pictures);
        lost.map(|(lost, picture)| GalleryImage { dataset: &dataset.dataset, lost, picture: picture.clone() })
    });
    let gallery: Vec<GalleryImage<'_>> = images.collect();
    let candidate = CandidateReport {
        after: &after,
        gallery: &gallery,
        curve: Some(&curve),
        decision: Some(&decision),
        diagnosis: None,
    };
    let candidates = vec![candidate; comparison.candidates.len()];
    let stage = |run: &str, tuned_on: Option<&str>| Stage {
        run: run.to_owned(),
        tuned_on: tuned_on.map(str::to_owned),
        accuracies: vec![Some(0.5)],
    };
    let stages = StageReport {
        datasets: vec!["mnist".to_owned()],
        stages: vec![stage("base", None), stage(HOSTILE, Some("mnist"))],
        ..StageReport::default()
    };
    comparison_html(&ComparisonReport {
        title: "What lora forgot",
        comparison: &comparison,
        before: &before,
        candidates: &candidates,
        charts: &charts,
        stages: Some(&stages),
        warnings: &[HOSTILE.to_owned()],
        command: HOSTILE,
    })
}

#[test]
fn the_page_of_a_comparison_shows_everything_and_loads_and_runs_nothing() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    std::fs::write(&file, page()).unwrap();
    let mut papers = Vec::new();
    for window in [SCREEN, PHONE, Window { is_dark: true, ..SCREEN }] {
        let audit = browser.audit(&file, window);
        assert_eq!(audit.requests, [""; 0], "{window:?}");
        assert_eq!(audit.complaints, [""; 0], "{window:?}");
        assert_eq!((audit.n_images, audit.n_broken_images), (4, 0));
        assert_eq!((audit.n_scripts, audit.n_handlers, audit.foreign.len()), (0, 0, 0), "{:?}", audit.foreign);
        assert!(!audit.was_taken_over);
        assert_eq!((audit.n_charts, audit.n_titled_charts), (4, 4), "forest, rose, curve and transitions");
        assert!(audit.n_tables > 25, "{}", audit.n_tables);
        assert_eq!(audit.overflow, 0, "no page scrolls sideways: {window:?}");
        for heading in
            ["What lora forgot", "Overview", "Stage by stage", "After lora", "Not alike", "How this was made", HOSTILE]
        {
            assert_eq!(audit.headings.iter().filter(|text| *text == heading).count(), 1, "{heading}");
        }
        let of_a_dataset = [
            "Before and after",
            "Forgetting",
            "Where it was lost",
            "Kinds of error",
            "What became of the images",
            "Classes",
            "Confusions",
            "Judges",
            "Lost images",
        ];
        for heading in of_a_dataset {
            assert_eq!(audit.headings.iter().filter(|text| *text == heading).count(), 2, "{heading}");
        }
        assert!(audit.text.contains(HOSTILE), "an answer is shown as it is");
        assert!(
            audit.text.contains("no image: its file was not found") && audit.text.contains("57 more are not shown")
        );
        assert!(audit.chart_text_px_min.unwrap() >= 8.99, "{window:?}: {:?}", audit.chart_text_px_min);
        assert_eq!((&audit.cut_charts[..], &audit.cut_words[..]), (&[][..], &[][..]), "{window:?}");
        papers.push(audit.background);
    }
    assert!(papers[0] == papers[1] && papers[0] != papers[2], "{papers:?}");
}

#[test]
fn no_column_of_a_comparison_is_cut_off_on_a_screen() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wide.html");
    let mut wide = comparison();
    wide.candidates[0].datasets.remove(1);
    for name in ["embedded/cifar10", "embedded/cifar100"] {
        let mut dataset = wide.candidates[0].datasets[0].clone();
        (dataset.dataset, dataset.is_tuned_on) = (name.to_owned(), true);
        wide.candidates[0].datasets.push(dataset);
    }
    wide.candidates[0].differences.clear();
    let several = folder.path().join("several.html");
    let mut pair = wide.clone();
    pair.candidates.push(wide.candidates[0].clone());
    pair.candidates[1].run = "a-checkpoint-with-a-long-name/step-1000".to_owned();
    std::fs::write(&several, page_of(pair)).unwrap();
    std::fs::write(&file, page_of(wide)).unwrap();
    for is_dark in [false, true] {
        let audit = browser.audit(&file, Window { is_dark, ..SCREEN });
        assert!(audit.text.contains("Retention"));
        assert_eq!(audit.cut_columns, [""; 0]);
        assert_eq!(audit.overflow, 0);
        for (file, n_charts) in [(&file, 4), (&several, 8)] {
            let phone = browser.audit(file, Window { width: 390, is_dark });
            assert_eq!(phone.overflow, 0, "tables scroll in their own boxes");
            assert_eq!((phone.n_charts, phone.n_titled_charts), (n_charts, n_charts));
            assert_eq!((&phone.cut_charts[..], &phone.cut_words[..]), (&[][..], &[][..]), "charts fit a phone");
            assert!(phone.chart_text_px_min.unwrap() >= 8.99, "{:?}", phone.chart_text_px_min);
        }
    }
}

#[test]
fn the_page_of_a_run_shows_its_errors_with_images_and_cuts_nothing_off() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let datasets = "embedded/mnist,embedded/cifar10,embedded/cifar100";
    let mut command = emt();
    command.args(["eval", "--model", "embedded", "--datasets", datasets, "--limit", "20", "--modes", "generate,score"]);
    succeed(command.args(["--max-images", "9", "--out"]).arg(&out));
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(page.matches("<img ").count(), 9);
    assert!(page.find(" images right").unwrap() < page.find("<svg").unwrap(), "the result stands first");
    // The same page is made again from the record, with as many images as are asked for, or none.
    for (flags, n_images) in [(&["--max-images", "4"][..], 4), (&["--no-images"], 0), (&["--max-images", "0"], 0)] {
        let into = folder.path().join("again");
        succeed(emt().arg("report").arg(&out).args(flags).arg("--out").arg(&into));
        let again = std::fs::read_to_string(into.join("report.html")).unwrap();
        assert_eq!(again.matches("<img ").count(), n_images, "{flags:?}");
        assert_eq!(again.contains("img-src"), n_images > 0, "without images the page may load none");
    }
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let file = out.join("report.html");
    for window in [SCREEN, Window { width: 390, is_dark: true }] {
        let audit = browser.audit(&file, window);
        assert_eq!((audit.n_images, audit.n_broken_images, audit.overflow), (9, 0, 0), "{window:?}");
        assert_eq!((audit.n_scripts, audit.requests.len(), audit.complaints.len()), (0, 0, 0), "{audit:?}");
        assert!(audit.chart_text_px_min.unwrap() >= 8.99, "{window:?}: {:?}", audit.chart_text_px_min);
        assert_eq!((&audit.cut_charts[..], &audit.cut_words[..]), (&[][..], &[][..]), "{window:?}");
        if window.width == SCREEN.width {
            assert_eq!(audit.cut_columns, [""; 0]);
        }
    }
}

#[test]
fn a_page_that_loads_runs_or_overflows_is_seen_to_do_so() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.html");
    let bad = "<img src='http://127.0.0.1:9/a.png' onerror='window.hostile = 1'><div style='width:3000px'>x</div><script>throw new Error('oh')</script>";
    std::fs::write(&file, format!("<!doctype html><title>bad</title>{bad}")).unwrap();
    let audit = browser.audit(&file, PHONE);
    assert!(audit.requests.iter().any(|url| url.starts_with("http://127.0.0.1:9/")), "{:?}", audit.requests);
    assert!(audit.complaints.iter().any(|text| text.contains("oh")), "{:?}", audit.complaints);
    assert_eq!((audit.n_broken_images, audit.n_scripts, audit.n_handlers), (1, 1, 1));
    assert!(audit.was_taken_over && audit.overflow > 0);
}
