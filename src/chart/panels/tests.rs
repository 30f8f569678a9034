//! Tests of `panels`.

use resvg::usvg::roxmltree::Document;

use super::*;
use crate::chart::diagnosis_samples::{dataset, diagnosis, with_all_probes, with_lens};
use crate::chart::raster;
use crate::diagnose::{DatasetDiagnosis, LayerDiagnosis};

fn drawn(datasets: Vec<DatasetDiagnosis>) -> Option<String> {
    let whole = diagnosis(datasets);
    let chart = PanelChart::of_layers(&whole, &whole.datasets)?;
    raster::parse(&panels_in(&chart, Layout::Narrow)).unwrap();
    Some(panels(&chart))
}

fn n_of_class(svg: &str, class: &str) -> usize {
    let document = Document::parse(svg).unwrap();
    document.descendants().filter(|node| node.attribute("class") == Some(class)).count()
}

#[test]
fn a_lens_has_two_curves_with_bands_and_the_place_where_they_part() {
    let svg = drawn(vec![with_lens(dataset("<a>"), 4), dataset("b")]).unwrap();
    assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<a>"), "{svg}");
    assert_eq!((n_of_class(&svg, "band-before"), n_of_class(&svg, "band-model")), (1, 1));
    // One line each in the plot and in the key, and a dot per state and in the key.
    assert_eq!((n_of_class(&svg, "before-line"), n_of_class(&svg, "model-line")), (2, 2));
    assert_eq!((n_of_class(&svg, "before"), n_of_class(&svg, "model")), (6, 6));
    assert!(svg.contains(">base and candidate part at 3</text>") && svg.contains(r#"stroke-dasharray="6 4""#));
    assert!(svg.contains(">Lens: log-probability of the label&#39;s first token</text>"), "{svg}");
    for absent in ["Patch", "Knockout", "Attention", "Similarity"] {
        assert!(!svg.contains(absent), "{absent}");
    }
}

#[test]
fn a_decision_has_a_panel_of_its_own_without_bands() {
    let mut of = with_lens(dataset("a"), 4);
    for layer in &mut of.layers {
        (layer.decision_baseline, layer.decision_candidate) = (layer.lens_candidate, layer.lens_baseline);
    }
    let svg = drawn(vec![of]).unwrap();
    assert!(svg.contains("Lens: log-probability of the token that tells the label from others"), "{svg}");
    assert!(svg.contains(">Lens: log-probability of the label&#39;s first token</text>"), "{svg}");
    assert_eq!((n_of_class(&svg, "band-before"), n_of_class(&svg, "band-model")), (1, 1));
}

#[test]
fn every_probe_has_its_panel() {
    let svg = drawn(vec![with_all_probes(dataset("a"), 32)]).unwrap();
    for title in ["Lens: ", "Patch: ", "Knockout: ", "Attention: ", "Similarity of "] {
        assert_eq!(svg.matches(&format!(r#"font-weight="700">{title}"#)).count(), 1, "{title}");
    }
    assert!(svg.contains("first of 4 layers") && !svg.contains("NaN"), "{svg}");
    assert!(svg.contains(">20%</text>"), "attention is in percent: {svg}");
}

#[test]
fn one_value_or_none_is_no_trouble() {
    assert_eq!(drawn(vec![dataset("a")]), None);
    let mut of = dataset("a");
    of.layers = vec![LayerDiagnosis { layer: 3, similarity_last: Some(1.0), ..LayerDiagnosis::default() }];
    let svg = drawn(vec![of.clone()]).unwrap();
    assert!(svg.contains("Similarity of") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    of.layers[0].similarity_last = Some(f64::NAN);
    assert_eq!(drawn(vec![of]), None);
}

#[test]
fn an_axis_covers_its_values_with_few_round_steps() {
    let scale = |values: &[f64], is_share| {
        let point = |(x, y): (usize, &f64)| PanelPoint { x: x as f64, y: *y, interval: None };
        let curve = PanelCurve {
            name: "a".to_owned(),
            look: CurveLook::After,
            points: values.iter().enumerate().map(point).collect(),
        };
        let panel = Panel {
            title: "t".to_owned(),
            x_label: "x".to_owned(),
            is_large: false,
            is_share,
            curves: vec![curve],
            levels: Vec::new(),
            mark: None,
        };
        y_scale(&panel)
    };
    assert_eq!(scale(&[-9.7, -0.2], false).0, [-10.0, 0.0]);
    assert_eq!(scale(&[1.0, 0.45], false).2, 1);
    let (range, ticks, n_decimals) = scale(&[0.031, 0.18], true);
    assert!(range[0] == 0.0 && (range[1] - 0.2).abs() < 1e-9 && n_decimals == 2, "{range:?} {n_decimals}");
    assert_eq!(ticks.len(), 5);
    let (range, ticks, _) = scale(&[2.0, 2.0], false);
    assert!(range[0] <= 2.0 && range[1] > 2.0 && ticks.len() >= 2, "{range:?}");
}
