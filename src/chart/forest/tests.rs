use resvg::usvg::roxmltree::Document;

use super::*;
use crate::chart::raster;

fn row(name: &str, fall: Option<f64>, interval: Option<Interval>) -> ForestRow {
    ForestRow { name: name.to_owned(), fall, interval, remark: None }
}

fn chart(rows: Vec<ForestRow>, margin: Option<f64>) -> ForestChart {
    let groups = vec![ForestGroup { name: "run <a>".to_owned(), rows }];
    ForestChart { title: "Forgetting".to_owned(), subtitle: Vec::new(), groups, margin }
}

#[test]
fn a_dot_stands_between_the_ends_of_its_whisker_and_zero_where_zero_is() {
    let drawn = chart(vec![row("a", Some(0.1), Some([0.05, 0.15])), row("b", Some(-0.3), Some([-0.4, -0.2]))], None);
    let frame = Frame::of(&drawn, Layout::Wide);
    assert!(frame.ticks().iter().any(|tick| tick.abs() < 1e-12));
    let [left, right] = Layout::Wide.plot();
    let svg = forest(&drawn);
    let document = Document::parse(&svg).unwrap();
    let places = |class: &str| -> Vec<Vec<f64>> {
        let nodes = document.descendants().filter(|node| node.attribute("class") == Some(class));
        let x_of = |place: &str| place.split(' ').next().unwrap().parse::<f64>().unwrap();
        let xs = |data: &str| data.trim_matches(['M', 'Z']).split('L').map(x_of).collect();
        nodes.map(|node| xs(node.attribute("d").unwrap())).collect()
    };
    // Zero is first; then each row has the whisker and its two ends.
    let (whiskers, dots) = (places("whisker"), places("dot fell"));
    let (zero, first, second) = (whiskers[0][0], &whiskers[1], &whiskers[4]);
    let dot = f64::midpoint(dots[0][0], dots[0][1]);
    assert!(zero < first[0] && first[0] < dot && dot < first[1], "{svg}");
    assert!((dot - f64::midpoint(first[0], first[1])).abs() < 0.2, "it lies in the middle of its interval");
    assert!(second[0] > left && second[1] < zero && first[1] < right, "{svg}");
    assert!(svg.contains(">−40</text>") && svg.contains(">10</text>"), "the axis has numbers: {svg}");
    assert_eq!((svg.matches("dot fell").count(), svg.matches("dot rose-up").count()), (1, 1));
    assert!(svg.contains("10.0 (5.0–15.0)") && svg.contains("−30.0 (−40.0 to −20.0)"), "{svg}");
}

#[test]
fn what_is_not_defined_is_said_and_has_no_dot() {
    let svg = forest(&chart(vec![row("a", None, None)], Some(0.02)));
    assert!(svg.contains("no scored pairs") && !svg.contains("class=\"dot") && svg.contains("margin 2</text>"));
    assert!(!svg.contains("NaN") && !svg.contains("<a>"));
    Document::parse(&svg).unwrap();
    raster::parse(&forest(&chart(Vec::new(), None))).unwrap();
}

#[test]
fn an_interval_that_holds_zero_shows_neither() {
    assert_eq!(shown(Some([-0.01, 0.2])), Shown::Neither);
    assert_eq!(shown(None), Shown::Neither);
    assert_eq!(shown(Some([0.01, 0.2])), Shown::Fall);
    assert_eq!(shown(Some([-0.2, -0.01])), Shown::Rise);
}
