use serde_json::json;

use super::*;

fn row(arm: &str, epoch: usize, rank: Option<usize>, forgetting: f64) -> serde_json::Value {
    json!({
        "arm": arm, "epoch": epoch, "seed": 0, "gain": 0.25, "gain_interval": [0.125, 0.375], "forgetting": forgetting,
        "forgetting_interval": [forgetting - 0.125, forgetting + 0.125], "rank": rank, "has_equal_gain": rank.is_some(),
        "is_on_frontier": rank == Some(1), "task": 0, "n_seeds": 1, "method": "lora", "new": ["digits"],
        "learning_rate": 0.001, "n_trainable": 1234567,
        "datasets": [
            {"dataset": "digits", "is_new": true, "n_images": 40, "baseline_accuracy": 0.5, "accuracy": 0.75},
            {"dataset": "photos", "is_new": false, "n_images": 40, "baseline_accuracy": 0.5, "accuracy": 0.5 - forgetting},
        ],
    })
}

fn sample(rows: &[serde_json::Value]) -> Sweep {
    serde_json::from_value(json!({
        "schema": "emt.sweep/1", "model": "a <base>", "confidence": 0.95, "gain_tolerance": 0.02, "n_resamples": 10,
        "tasks": [{"new": ["digits"], "arms": ["hasty", "gentle"], "notes": ["One seed."], "datasets": [
            {"dataset": "digits", "is_new": true, "n_images": 40},
            {"dataset": "photos", "is_new": false, "n_images": 40},
        ]}],
        "arms": rows,
        "failed": [{"arm": "wild", "seed": 3, "message": "the loss is not finite at step 2"}],
    }))
    .unwrap()
}

fn both() -> Sweep {
    sample(&[row("hasty", 1, None, 0.125), row("hasty", 2, Some(2), 0.375), row("gentle", 1, Some(1), 0.0)])
}

#[test]
fn the_terminal_shows_the_ranked_arms_first_with_what_they_gain_and_forget() {
    let text = sweep_table(&both());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "New: digits");
    assert_eq!(lines[1], "gentle forgets least at equal gain.");
    let gentle = lines.iter().rposition(|line| line.starts_with("gentle")).unwrap();
    assert!(lines[gentle + 1].starts_with("hasty"), "{text}");
    for part in ["25.0 (12.5–37.5)", "37.5 (25.0–50.0)", "50.0 → 12.5", "1,234,567", "note: One seed."] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_first_sentence_says_how_far_arms_can_be_told_apart() {
    let of = |ranks: &[Option<usize>]| {
        let rows: Vec<_> = ranks.iter().zip(["a", "b", "c"]).map(|(rank, arm)| row(arm, 1, *rank, 0.1)).collect();
        headline(&sample(&rows), 0)
    };
    assert_eq!(of(&[Some(1), Some(1)]), "a, b cannot be told apart by what they forget.");
    assert_eq!(of(&[Some(1), Some(1), Some(3)]), "a, b forget least at equal gain, and cannot be told apart.");
    assert_eq!(of(&[Some(1), None]), "a alone has a rank: the others gain less.");
    let mut lost = row("a", 1, Some(1), 0.1);
    lost["gain_interval"] = json!([-0.1, 0.5]);
    let expected = "No arm gains anything beyond doubt. a alone has a rank: the others gain less.";
    assert_eq!(headline(&sample(&[lost]), 0), expected);
    assert_eq!(of(&[None]), "No arm can be ranked: new and other datasets must be evaluated.");
}

#[test]
fn page_and_markdown_hold_the_failures_and_escape_names() {
    let drawn = Drawn { wide: "<svg/>".to_owned(), narrow: "<svg/>".to_owned() };
    let charts = SweepCharts { frontiers: vec![drawn.clone()], roses: Some(drawn) };
    let html = sweep_html(&both(), &charts, "emt sweep arms.toml --out sweep");
    assert!(html.contains("a &lt;base&gt;") && !html.contains("<base>"), "{html}");
    assert_eq!(html.matches("<figure").count(), 2);
    let markdown = sweep_markdown(&both(), "emt sweep arms.toml --out sweep");
    for text in [&html, &markdown] {
        assert!(text.contains("the loss is not finite at step 2") && text.contains("emt sweep arms.toml"), "{text}");
    }
    assert!(markdown.contains("(frontier.svg)") && markdown.contains("Tolerance: 2.0 points"), "{markdown}");
}

#[test]
fn digits_are_grouped() {
    assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
}
