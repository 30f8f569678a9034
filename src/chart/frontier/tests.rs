//! Tests of `frontier`.

use resvg::usvg::roxmltree::Document;

use super::super::samples::frontier as sample;
use super::*;

#[test]
fn a_point_lies_at_its_values_and_its_intervals_cross_there() {
    let drawn = frontier(&sample());
    let document = Document::parse(&drawn).unwrap();
    let of = |name: &'static str| document.descendants().filter(move |node| node.tag_name().name() == name);
    let read = |node: &resvg::usvg::roxmltree::Node<'_, '_>, name: &str| -> f64 {
        node.attribute(name).unwrap().parse().unwrap()
    };
    let dots: Vec<(f64, f64)> = of("circle")
        .filter(|node| node.descendants().any(|child| child.tag_name().name() == "title"))
        .map(|node| (read(&node, "cx"), read(&node, "cy")))
        .collect();
    assert_eq!(dots.len(), 6);
    // Four points by strength, from 0 to 1: x grows, and places are linear in values.
    let values: Vec<(f64, f64)> = sample().series[0].points.iter().map(|point| (point.x, point.y)).collect();
    let slope = (dots[3].0 - dots[0].0) / (values[3].0 - values[0].0);
    for (dot, value) in dots.iter().zip(&values) {
        assert!((dot.0 - dots[0].0 - slope * (value.0 - values[0].0)).abs() < 0.3, "{dots:?}");
    }
    let slope = (dots[3].1 - dots[0].1) / (values[3].1 - values[0].1);
    assert!(slope < 0.0, "high values are at the top");
    for (dot, value) in dots.iter().zip(&values) {
        assert!((dot.1 - dots[0].1 - slope * (value.1 - values[0].1)).abs() < 0.3, "{dots:?}");
    }
    let crossing = |data: &str| data.starts_with('M') && data.contains(&format!(" {}", number(dots[0].1)));
    assert!(of("path").filter_map(|node| node.attribute("d")).any(crossing));
}

#[test]
fn the_marked_point_has_a_ring_and_a_label_and_markup_stays_text() {
    let mut chart = sample();
    chart.series[0].name = "scale <b>".to_owned();
    let drawn = frontier(&chart);
    assert_eq!(drawn.matches(r#"r="9""#).count(), 1);
    assert!(drawn.contains(">0.5</text>") && drawn.contains("scale &lt;b&gt;") && !drawn.contains("<b>"), "{drawn}");
    assert!(super::super::png(&drawn, 960).unwrap().len() > 1000);
}

#[test]
fn labels_cover_no_other_label_however_many_points_there_are() {
    let mut chart = sample();
    let crowd = (0..60).map(|index| FrontierPoint {
        label: format!("strength {index}"),
        x: 0.5 + 0.001 * f64::from(index % 7),
        y: 0.5 + 0.001 * f64::from(index / 7),
        x_interval: None,
        y_interval: None,
        is_marked: index == 30,
    });
    chart.series[0].points = crowd.collect();
    for layout in [Layout::Wide, Layout::Narrow] {
        let drawn = frontier_in(&chart, layout);
        let document = Document::parse(&drawn).unwrap();
        let is_label = |text: &str| text.starts_with("strength ");
        let labels: Vec<Rect> = document
            .descendants()
            .filter(|node| node.tag_name().name() == "text" && node.text().is_some_and(is_label))
            .map(|node| {
                let read = |name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
                let width = text::width(node.text().unwrap(), LABEL_SIZE, node.attribute("font-weight").is_some());
                Rect::centred(read("x"), read("y"), width, LABEL_SIZE)
            })
            .collect();
        assert!(labels.len() > 3 && labels.len() < 60, "{}", labels.len());
        for (index, label) in labels.iter().enumerate() {
            assert!(labels[..index].iter().all(|other| !other.overlaps(label)), "{layout:?} {index}");
        }
        assert!(drawn.contains("strength 30</text>"), "the marked point comes first");
    }
}

#[test]
fn without_points_and_with_values_that_are_no_numbers_a_chart_is_still_well_formed() {
    let mut chart = sample();
    chart.series[0].points[1].x = f64::NAN;
    chart.series[1].points.clear();
    for chart in [chart, Frontier { series: Vec::new(), ..sample() }] {
        for layout in [Layout::Wide, Layout::Narrow] {
            let drawn = frontier_in(&chart, layout);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
            super::super::raster::parse(&drawn).unwrap();
        }
    }
}

#[test]
fn ticks_of_dense_axes_have_a_decimal_and_none_is_negative_zero() {
    assert_eq!(tick_label(-0.2, 0.1), "−20%");
    assert_eq!(tick_label(-1e-9, 0.1), "0%");
    assert_eq!(tick_label(0.125, 0.005), "12.5%");
}
