use super::*;

fn chart(is_share: bool) -> LineChart {
    let point = |x: f64, y: f64, marks: &str| LinePoint { x, y, interval: None, marks: marks.to_owned() };
    LineChart {
        title: "Accuracy <after> each epoch".to_owned(),
        subtitle: String::new(),
        x_label: "epoch".to_owned(),
        y_label: "accuracy".to_owned(),
        is_share,
        lines: vec![
            Line {
                name: "cifar10 (tuned on)".to_owned(),
                is_bold: true,
                points: vec![point(0.0, 0.6, ""), point(1.0, 0.9, "")],
            },
            Line { name: "mnist".to_owned(), is_bold: false, points: vec![point(0.0, 0.6, ""), point(1.0, 0.89, "L")] },
        ],
        notes: vec!["L: leak".to_owned()],
    }
}

#[test]
fn a_chart_can_be_drawn_and_its_text_is_escaped() {
    let drawn = lines(&chart(true));
    assert!(drawn.contains("&lt;after&gt;") && drawn.contains(">L</text>"), "{drawn}");
    assert!(drawn.contains(">60%</text>") && drawn.contains(">1</text>"), "both axes have numbers: {drawn}");
    assert!(super::super::png(&drawn, 960).unwrap().len() > 1000);
}

#[test]
fn a_narrow_chart_names_its_lines_below_and_keeps_long_words_inside() {
    let mut long = chart(true);
    long.lines[1].name = "a-dataset-with-a-rather-long-name/validation, which was not tuned on".to_owned();
    long.notes = vec!["L: more than a tenth of the answers name a label of what was tuned on".to_owned()];
    let drawn = lines_in(&long, Layout::Narrow);
    assert_eq!(drawn.matches("line-name").count(), 2);
    assert!(drawn.contains("viewBox=\"0 0 360 ") && drawn.contains("…") && !drawn.contains("NaN"), "{drawn}");
    super::super::raster::parse(&drawn).unwrap();
}

#[test]
fn names_at_the_ends_do_not_overlap() {
    let drawn = lines(&chart(true));
    let ends: Vec<f64> = drawn
        .lines()
        .filter(|line| line.contains("line-name"))
        .map(|line| line.split(" y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ends.len(), 2);
    assert!((ends[0] - ends[1]).abs() >= NAME_HEIGHT - 0.01, "{ends:?}");
}

#[test]
fn an_axis_ends_at_a_round_number() {
    assert_eq!(nice_above(11.9), 20.0);
    assert_eq!(nice_above(0.23), 0.25);
    assert_eq!(nice_above(1.0), 1.0);
    assert_eq!(nice_above(0.0), 1.0);
}
