use resvg::usvg::roxmltree::{Document, Node};

use super::*;
use crate::chart::diagnosis_samples::{dataset, diagnosis};
use crate::chart::raster;

/// The x and y of all corners of a path with `M`, `L` and `Z`.
fn corners(node: &Node<'_, '_>) -> Vec<[f64; 2]> {
    let data = node.attribute("d").unwrap().trim_matches(['M', 'Z']);
    let corner = |place: &str| place.split_once(' ').map(|(x, y)| [x, y].map(|at| at.parse().unwrap())).unwrap();
    data.split('L').map(corner).collect()
}

/// The shapes of a class that lie in the plot and not in the key.
fn plotted<'a>(document: &'a Document<'a>, class: &str) -> Vec<Node<'a, 'a>> {
    let is_of_key = |node: &Node<'_, '_>| node.ancestors().any(|one| one.attribute("class") == Some("legend"));
    let found = document.descendants().filter(|node| node.attribute("class") == Some(class));
    found.filter(|node| !is_of_key(node)).collect()
}

#[test]
fn a_cause_has_its_count_and_a_bar_of_its_share() {
    let whole = diagnosis(vec![dataset("<a>")]);
    let chart = BarChart::of_causes(&whole, &whole.datasets).unwrap();
    let svg = bars(&chart);
    let document = Document::parse(&svg).unwrap();
    for words in [">alignment, 24 images<", ">unexplained, 1 image<", ">60.0 (45.0–74.0)<", ">100%<", "&lt;a&gt;"] {
        assert!(svg.contains(words), "{words}: {svg}");
    }
    let widths: Vec<f64> = plotted(&document, "model")
        .iter()
        .map(|bar| corners(bar))
        .map(|corners| corners[1][0] - corners[0][0])
        .collect();
    assert_eq!(widths.len(), 3);
    assert!((widths[0] / widths[1] - 24.0 / 15.0).abs() < 0.01, "{widths:?}");
    assert!(!svg.contains("NaN") && !svg.contains("triangle at an end"), "{svg}");
}

#[test]
fn what_goes_beyond_the_axis_is_cut_off_and_marked() {
    let whole = diagnosis(vec![dataset("a"), dataset("b")]);
    let chart = BarChart::of_swap(&whole, &whole.datasets).unwrap();
    let svg = bars(&chart);
    let document = Document::parse(&svg).unwrap();
    let restored = plotted(&document, "before");
    assert_eq!((restored.len(), plotted(&document, "model").len()), (10, 6));
    // Of each dataset, three parts have a Shapley value, and three bars go on beyond the axis.
    assert_eq!(plotted(&document, "dot open").len(), 2 * (3 + 3));
    let frame = Frame::of(&chart, Layout::Wide, 0.0);
    assert_eq!((frame.low, frame.high), (-0.25, 1.25));
    let [_, right] = frame.plot();
    assert!(restored.iter().flat_map(corners).all(|[x, _]| x < right), "{svg}");
    for words in [">−25%<", ">125%<", ">140.0 (110.0–190.0)<", "A triangle at an end", ">Shapley value<", ">b<"] {
        assert!(svg.contains(words), "{words}: {svg}");
    }
    assert!(!svg.contains("NaN"));
    raster::parse(&bars_in(&chart, Layout::Narrow)).unwrap();
}

#[test]
fn without_lost_images_or_a_fall_there_is_no_chart() {
    let mut empty = dataset("a");
    empty.causes.clear();
    for share in &mut empty.swap {
        (share.restore.recovered, share.restore.recovered_interval, share.keep) = (None, None, None);
    }
    let whole = diagnosis(vec![empty]);
    assert_eq!(BarChart::of_causes(&whole, &whole.datasets), None);
    assert_eq!(BarChart::of_swap(&whole, &whole.datasets), None);
    let mut broken = diagnosis(vec![dataset("a")]);
    broken.datasets[0].swap[0].restore.recovered = Some(f64::NAN);
    broken.datasets[0].swap[1].restore.recovered_interval = Some([f64::NAN, 0.5]);
    let chart = BarChart::of_swap(&broken, &broken.datasets).unwrap();
    assert!(!bars(&chart).contains("NaN"));
}
