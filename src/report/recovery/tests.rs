//! Documents of recoveries.

use super::*;
use crate::chart::Frontier;
use crate::study::recover::{ConfirmationHalf, RECOVERY_SCHEMA, SelectionHalf};

fn of(new: f64, old: f64) -> Accuracies {
    let mean =
        |accuracy: f64| MeanAccuracy { accuracy: Some(accuracy), interval: Some([accuracy - 0.03, accuracy + 0.03]) };
    let dataset = |name: &str, accuracy: f64| DatasetAccuracy {
        dataset: name.to_owned(),
        accuracy: Some(accuracy),
        interval: Some([accuracy - 0.04, accuracy + 0.04]),
        n_scored: 200,
    };
    Accuracies { new: mean(new), old: mean(old), datasets: vec![dataset("<new>", new), dataset("mnist", old)] }
}

fn point(
    method: &str,
    strength: f64,
    component: Option<&str>,
    accuracies: Accuracies,
    verdict: Option<Verdict>,
) -> Point {
    Point {
        method: method.to_owned(),
        strength,
        component: component.map(str::to_owned),
        accuracies,
        selection_decision: verdict,
        is_within_margin: verdict.map(|verdict| verdict == Verdict::Pass),
        run: format!("{method}-{strength}"),
    }
}

fn recovery(decision: Verdict) -> Recovery {
    let is_chosen = decision != Verdict::Fail;
    let confirmed = |accuracies: Accuracies| is_chosen.then_some(accuracies);
    Recovery {
        schema: RECOVERY_SCHEMA.to_owned(),
        model: "llava".to_owned(),
        adapter: "my <lora>".to_owned(),
        new: vec!["<new>".to_owned()],
        old: vec!["mnist".to_owned()],
        baseline: of(0.4, 0.7),
        points: vec![
            point("scale", 0.0, None, of(0.4, 0.7), None),
            point("scale", 0.5, None, of(0.6, 0.69), Some(Verdict::Pass)),
            point("scale", 1.0, None, of(0.8, 0.2), Some(Verdict::Fail)),
            point("scale", 1.0, Some("projector"), of(0.7, 0.6), Some(Verdict::Inconclusive)),
        ],
        selection: SelectionHalf { n_samples: 400 },
        confirmation: ConfirmationHalf {
            n_samples: 401,
            baseline: confirmed(of(0.41, 0.71)),
            chosen: confirmed(of(0.5, 0.7)),
            is_new_within_interval: is_chosen.then_some(false),
            is_old_within_interval: is_chosen.then_some(true),
        },
        chosen: is_chosen.then(|| Chosen {
            method: "scale".to_owned(),
            strength: 0.5,
            component: None,
            by: "gate".to_owned(),
            gain: Some(0.2),
            written: None,
        }),
        decision,
        message: "What was decided.".to_owned(),
    }
}

#[test]
fn the_json_has_the_fields_of_the_contract_and_is_read_back() {
    let recovery = recovery(Verdict::Pass);
    let json = recovery_json(&recovery);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["schema"], "emt.recovery/1");
    let point = &value["points"][1];
    assert_eq!((&point["method"], &point["strength"]), (&"scale".into(), &0.5.into()));
    assert!(point["component"].is_null() && point["new"]["interval"][1].is_number(), "{point}");
    assert_eq!(point["old"]["accuracy"], 0.69);
    assert_eq!(point["datasets"][1]["dataset"], "mnist");
    assert_eq!(value["points"][3]["component"], "projector");
    assert_eq!(value["selection"]["n_samples"], 400);
    assert_eq!(value["confirmation"]["n_samples"], 401);
    assert_eq!((&value["chosen"]["strength"], &value["decision"]), (&0.5.into(), &"pass".into()));
    assert_eq!(serde_json::from_str::<Recovery>(&json).unwrap(), recovery);
    let failed: serde_json::Value = serde_json::from_str(&recovery_json(&self::recovery(Verdict::Fail))).unwrap();
    assert!(failed["chosen"].is_null() && failed["decision"] == "fail", "{failed}");
}

#[test]
fn every_document_says_the_decision_first_and_names_stay_text() {
    for (decision, word) in [(Verdict::Pass, "pass"), (Verdict::Fail, "fail"), (Verdict::Inconclusive, "inconclusive")]
    {
        let recovery = recovery(decision);
        let drawn = Drawn::frontier(&Frontier::of_recovery(&recovery));
        let html = recovery_html(&recovery, &drawn, None, "emt recover");
        let text = recovery_text(&recovery);
        let markdown = recovery_markdown(&recovery, None);
        for document in [&html, &text, &markdown] {
            assert!(document.to_lowercase().contains(word) && document.contains("What was decided."), "{document}");
        }
        assert!(!html.contains("<new>") && !html.contains("my <lora>"), "{html}");
        assert!(html.contains("with the base&#39;s projector"), "the legend names what is left out");
        let is_chosen = decision != Verdict::Fail;
        assert_eq!(text.contains("chosen\n"), is_chosen, "{text}");
        assert_eq!(html.matches("r=\"9\"").count(), if is_chosen { 2 } else { 0 }, "the ring, wide and narrow");
        assert_eq!(markdown.contains("outside the interval"), is_chosen, "{markdown}");
    }
}

#[test]
fn the_frontier_joins_points_of_one_method_and_leaves_out_what_is_not_defined() {
    let mut recovery = recovery(Verdict::Pass);
    recovery.points[2].accuracies.new.accuracy = None;
    let chart = Frontier::of_recovery(&recovery);
    let names: Vec<(&str, usize)> =
        chart.series.iter().map(|series| (series.name.as_str(), series.points.len())).collect();
    assert_eq!(names, [("base", 1), ("scale", 2), ("scale with the base's projector", 1)]);
    let marked: Vec<&str> =
        chart.series[1].points.iter().filter(|at| at.is_marked).map(|at| at.label.as_str()).collect();
    assert_eq!(marked, ["0.5"]);
}
