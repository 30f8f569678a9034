//! Tests of what a reader of a chart relies on.
#![expect(clippy::disallowed_methods, reason = "the golden picture is rewritten on request: EMT_BLESS=1")]

use resvg::usvg::roxmltree::{Document, Node};

use super::comparison_samples::{candidate, compared, comparison, summaries};
use super::diagnosis_samples::{dataset as diagnosed, diagnosis, with_all_probes};
use super::geometry::{RADIUS, Rect, petal};
use super::samples::{dataset, four, frontier, many, subject, summary, without_encoder};
use super::{ComparisonCharts, DiagnosisCharts, Drawn, RoseChart, RoseOptions, Scale, Style, png, raster, rose, text};
use crate::compare::Summary;

const PLAIN: RoseOptions = RoseOptions { scale: Scale::Radius, style: Style::Petals, paper_rows: false };

fn draw(summary: &Summary, options: RoseOptions) -> String {
    rose(&RoseChart::of_summary(summary, options))
}

/// The plot's elements (not the legend's) with this class.
fn plotted<'a>(document: &'a Document<'a>, class: &str) -> Vec<Node<'a, 'a>> {
    let plot = document.descendants().find(|node| node.attribute("class") == Some("plot")).unwrap();
    plot.descendants().filter(|node| node.attribute("class") == Some(class)).collect()
}

/// All coordinates of a path with `M`, `L`, `A` and `Z`.
fn coordinates(node: &Node<'_, '_>) -> Vec<f64> {
    let data = node.attribute("d").unwrap();
    let numbers = data.split(|letter: char| letter.is_ascii_alphabetic() || letter == ' ');
    numbers.filter(|number| !number.is_empty()).map(|number| number.parse().unwrap()).collect()
}

/// The radius of the largest arc, which is a petal's tip.
fn tip(node: &Node<'_, '_>) -> f64 {
    let data = node.attribute("d").unwrap();
    let radii = data.split('A').skip(1).map(|arc| arc.split(' ').next().unwrap().parse::<f64>().unwrap());
    radii.fold(0.0, f64::max)
}

#[test]
fn every_chart_from_none_to_twenty_datasets_is_well_formed() {
    for n in 0..=20 {
        for scale in Scale::ALL {
            for style in Style::ALL {
                let svg = draw(&many(n), RoseOptions { scale, style, paper_rows: true });
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{n}");
                Document::parse(&svg).unwrap();
                raster::parse(&svg).unwrap();
            }
        }
    }
}

#[test]
fn a_petals_tip_lies_at_its_accuracy() {
    for (scale, expected) in [(Scale::Radius, 0.64), (Scale::Area, 0.8)] {
        let run = summary(vec![dataset("d", Some(subject(640, 1000, 0)), Some(subject(1000, 1000, 0)))]);
        let svg = draw(&run, RoseOptions { scale, ..PLAIN });
        let document = Document::parse(&svg).unwrap();
        let [model] = plotted(&document, "model")[..] else { panic!("one petal") };
        let [encoder] = plotted(&document, "encoder")[..] else { panic!("one petal") };
        assert!((tip(&model) / RADIUS - expected).abs() < 1e-4);
        assert!((tip(&encoder) / RADIUS - 1.0).abs() < 1e-4);
    }
}

#[test]
fn petals_of_one_width_are_similar_so_that_areas_are_true() {
    let numbers = |path: String| -> Vec<f64> {
        let document = format!("<path d=\"{path}\"/>");
        coordinates(&Document::parse(&document).unwrap().root_element())
    };
    let (small, large) = (numbers(petal(100.0, 0.7, 0.3)), numbers(petal(200.0, 0.7, 0.3)));
    assert_eq!(small.len(), large.len());
    let flags = |value: f64| value == 0.0 || value == 1.0;
    for (small, large) in small.into_iter().zip(large).filter(|(small, large)| !(flags(*small) && flags(*large))) {
        assert!((2.0 * small - large).abs() < 0.02, "{small} {large}");
    }
}

#[test]
fn chance_is_an_arc_at_one_over_the_number_of_classes() {
    let svg = draw(&four(), PLAIN);
    let document = Document::parse(&svg).unwrap();
    let radii: Vec<f64> = plotted(&document, "chance").iter().map(tip).collect();
    assert_eq!(radii, [29.0, 29.0, 2.9, 2.9]);
}

#[test]
fn whiskers_reach_from_end_to_end_of_the_interval() {
    let run = summary(vec![dataset("d", Some(subject(500, 1000, 0)), None)]);
    let svg = draw(&without_encoder(run), PLAIN);
    let document = Document::parse(&svg).unwrap();
    let [whisker] = plotted(&document, "whisker")[..] else { panic!("one whisker") };
    // A single petal points up: the first line runs from (0, -low) to (0, -high).
    let line = coordinates(&whisker);
    assert!((line[1] + 0.48 * RADIUS).abs() < 0.01 && (line[3] + 0.52 * RADIUS).abs() < 0.01, "{line:?}");
}

#[test]
fn what_is_not_scored_is_said_and_has_no_petal() {
    let svg = draw(&four(), PLAIN);
    let document = Document::parse(&svg).unwrap();
    assert_eq!(plotted(&document, "model").len(), 3);
    assert_eq!(plotted(&document, "encoder").len(), 4);
    let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
    assert!(texts.contains(&"model not scored"));
    assert!(!texts.contains(&"0.0"));
    assert!(
        texts.iter().any(|text| text.contains("cifar100: encoder 76.0% (95% interval 74.0–78.0), model not scored"))
    );
}

#[test]
fn an_accuracy_of_zero_is_drawn_as_zero() {
    let svg = draw(&summary(vec![dataset("d", Some(subject(0, 1000, 0)), None)]), PLAIN);
    assert!(svg.contains(">0.0</text>"));
}

#[test]
fn without_an_encoder_nothing_stands_for_one() {
    let svg = draw(&without_encoder(four()), PLAIN);
    let document = Document::parse(&svg).unwrap();
    assert!(document.descendants().all(|node| node.attribute("class") != Some("encoder")));
    assert!(svg.contains("Encoder: none"));
    assert!(!svg.contains("encoder not scored"));
}

#[test]
fn a_name_of_markup_stays_text() {
    let svg = draw(&summary(vec![dataset("<script>alert(1)</script>", Some(subject(1, 2, 0)), None)]), PLAIN);
    assert!(!svg.contains("<script"));
    let document = Document::parse(&svg).unwrap();
    assert!(document.descendants().any(|node| node.text().is_some_and(|text| text.contains("<script>"))));
}

#[test]
fn headings_name_relation_judge_and_training_split() {
    let svg = draw(&four(), PLAIN);
    for words in ["own tower, weights equal", "Judge: rules (rules version 1)", "Training split: miniimagenet (train)"]
    {
        assert!(svg.contains(&words.replace('\'', "&#39;")), "{words}");
    }
}

#[test]
fn the_papers_rows_stand_only_beside_its_datasets() {
    let with_paper = RoseOptions { paper_rows: true, ..PLAIN };
    let svg = draw(&four(), with_paper);
    let document = Document::parse(&svg).unwrap();
    assert_eq!(plotted(&document, "reference").len(), 12);
    assert!(svg.contains("paper: LLaVA-7b (v0)"));
    assert!(!draw(&many(3), with_paper).contains("paper: "));
}

#[test]
fn a_gap_in_a_polygon_is_not_bridged() {
    let radar = RoseOptions { style: Style::Radar, ..PLAIN };
    let svg = draw(&four(), radar);
    let document = Document::parse(&svg).unwrap();
    let [model] = plotted(&document, "model-line")[..] else { panic!("one polygon") };
    let data = model.attribute("d").unwrap();
    assert!(!data.contains('Z') && data.matches('M').count() == 2, "{data}");
    let [encoder] = plotted(&document, "encoder-line")[..] else { panic!("one polygon") };
    assert!(encoder.attribute("d").unwrap().ends_with('Z'));
}

#[test]
fn numbers_of_the_usual_charts_do_not_overlap() {
    for n in [1, 2, 3, 4, 6, 8, 12] {
        let svg = draw(&many(n), PLAIN);
        let document = Document::parse(&svg).unwrap();
        let numbers: Vec<(String, Rect)> = ["model-ink", "encoder-ink"]
            .into_iter()
            .flat_map(|class| plotted(&document, class))
            .map(|node| {
                let read = |name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
                let (size, words) = (read("font-size"), node.text().unwrap());
                let width = text::width(words, size, node.attribute("font-weight").is_some());
                let height = 0.74 * size;
                (words.to_owned(), Rect::centred(read("x"), read("y") - height / 2.0, width, height))
            })
            .collect();
        assert_eq!(numbers.len(), 2 * n);
        for (index, (words, rect)) in numbers.iter().enumerate() {
            for (other_words, other) in &numbers[..index] {
                assert!(!rect.overlaps(other), "{n}: {words} and {other_words}");
            }
        }
    }
}

#[test]
fn the_width_table_is_that_of_the_embedded_font() {
    for (words, is_bold) in [("imagenet-100/validation", false), ("Training split: 0123456789%", true), ("AVTo", false)]
    {
        let weight = if is_bold { 700 } else { 400 };
        let svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2000 100" font-family="Inter"><text y="50" font-size="40" font-weight="{weight}">{words}</text></svg>"#
        );
        let drawn = f64::from(raster::parse(&svg).unwrap().root().bounding_box().width());
        let told = text::width(words, 40.0, is_bold);
        // The table has no kerning and no side bearings.
        assert!((told - drawn).abs() < 0.04 * told + 3.0, "{words}: {told} {drawn}");
    }
}

#[test]
fn a_png_has_its_size_and_ink_where_a_name_stands() {
    let svg = draw(&four(), PLAIN);
    let picture = image::load_from_memory(&png(&svg, 1920).unwrap()).unwrap().to_rgb8();
    assert_eq!(picture.width(), 1920);
    let document = Document::parse(&svg).unwrap();
    let title = document.descendants().find(|node| node.tag_name().name() == "text").unwrap();
    let read = |name: &str| title.attribute(name).unwrap().parse::<f64>().unwrap();
    let (size, scale) = (read("font-size"), 2.0);
    let width = text::width(title.text().unwrap(), size, true);
    let columns = (read("x") * scale) as u32..((read("x") + width) * scale) as u32;
    let rows = ((read("y") - 0.7 * size) * scale) as u32..(read("y") * scale) as u32;
    let n_pixels = columns.len() * rows.len();
    let pixels = columns.flat_map(|x| rows.clone().map(move |y| (x, y)));
    let n_dark = pixels.filter(|&(x, y)| picture.get_pixel(x, y).0.iter().all(|&level| level < 90)).count();
    let share = n_dark as f64 / n_pixels as f64;
    assert!((0.15..0.6).contains(&share), "{share}");
}

#[test]
fn a_picture_of_no_or_monstrous_size_is_refused() {
    let svg = draw(&four(), PLAIN);
    assert!(png(&svg, 0).is_err());
    assert!(png(&svg, 1_000_000).is_err());
    assert!(png("no svg", 100).is_err());
}

#[test]
fn scales_and_styles_are_found_by_their_unique_names() {
    for scale in Scale::ALL {
        assert_eq!(scale.name().parse(), Ok(scale));
    }
    for style in Style::ALL {
        assert_eq!(style.name().parse(), Ok(style));
    }
    let error = "pie".parse::<Style>().unwrap_err().to_string();
    assert!(error.contains("`pie`") && error.contains("petals, radar"), "{error}");
}

#[test]
fn the_golden_rose_is_drawn_again_to_the_byte() {
    let svg = draw(&four(), RoseOptions { paper_rows: true, ..PLAIN });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/rose.svg");
    if std::env::var_os("EMT_BLESS").is_some() {
        std::fs::write(path, &svg).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert!(svg == golden, "tests/golden/rose.svg differs; hint: look at the new picture, then set EMT_BLESS=1");
}

#[test]
fn before_and_after_are_the_two_halves_of_a_petal() {
    let before = summary(vec![dataset("d", Some(subject(640, 1000, 0)), Some(subject(900, 1000, 0)))]);
    let after = summary(vec![dataset("d", Some(subject(420, 1000, 0)), Some(subject(900, 1000, 0)))]);
    let svg = rose(&RoseChart::before_after(&before, &after, PLAIN));
    let document = Document::parse(&svg).unwrap();
    let [left] = plotted(&document, "before")[..] else { panic!("one half") };
    let [right] = plotted(&document, "model")[..] else { panic!("one half") };
    assert!((tip(&left) / RADIUS - 0.64).abs() < 1e-4 && (tip(&right) / RADIUS - 0.42).abs() < 1e-4);
    assert!(coordinates(&left)[2] < 0.0, "the baseline stands on the left");
    for n in 1..=8 {
        // Accuracies are equal, so that the middles of the two tips show which half is further left.
        let datasets = (0..n).map(|_| dataset("d", Some(subject(640, 1000, 0)), Some(subject(900, 1000, 0))));
        let run = summary(datasets.collect());
        let svg = rose(&RoseChart::before_after(&run, &run, PLAIN));
        let document = Document::parse(&svg).unwrap();
        for (before, after) in plotted(&document, "before").iter().zip(plotted(&document, "model")) {
            let middle = |node: &Node<'_, '_>| (coordinates(node)[9] + coordinates(node)[16]) / 2.0;
            assert!(middle(before) <= middle(&after) + 1e-6, "{n}");
        }
    }
    assert!(svg.contains("fell by 22.0 points"));
    raster::parse(&svg).unwrap();
}

/// The column width of a page on a phone of 390 pixels.
const PHONE_COLUMN_PX: f64 = 358.0;

/// Every text with its left and right end and its size in pixels, as shown on a phone, and the width of the picture.
fn texts_on_a_phone(svg: &str) -> Vec<(String, [f64; 2], f64)> {
    let document = Document::parse(svg).unwrap();
    let view_box = document.root_element().attribute("viewBox").unwrap();
    let scale = PHONE_COLUMN_PX / view_box.split(' ').nth(2).unwrap().parse::<f64>().unwrap();
    let number = |node: &Node<'_, '_>, name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
    let texts = document.descendants().filter(|node| node.tag_name().name() == "text");
    texts
        .map(|node| {
            let words = node.text().unwrap_or_default();
            let moved: f64 = node
                .ancestors()
                .filter_map(|group| {
                    group.attribute("transform")?.strip_prefix("translate(")?.split(' ').next()?.parse::<f64>().ok()
                })
                .sum();
            let (x, size) = (number(&node, "x") + moved, number(&node, "font-size"));
            let width = text::width(words, size, node.attribute("font-weight").is_some());
            let left = match node.attribute("text-anchor") {
                Some("middle") => x - width / 2.0,
                Some("end") => x - width,
                _ => x,
            };
            (words.to_owned(), [left * scale, (left + width) * scale], size * scale)
        })
        .collect()
}

fn assert_fits_a_phone(svg: &str, what: &str) {
    raster::parse(svg).unwrap();
    let texts = texts_on_a_phone(svg);
    assert!(!texts.is_empty(), "{what}");
    for (words, [left, right], size) in texts {
        assert!(size >= 9.0, "{what}: `{words}` is {size:.1} px high");
        assert!(left >= -0.5 && right <= PHONE_COLUMN_PX + 0.5, "{what}: `{words}` from {left:.0} to {right:.0}");
    }
}

#[test]
fn on_a_phone_every_rose_is_legible_and_within_its_column() {
    for n in 0..=20 {
        for style in Style::ALL {
            let run = many(n);
            let options = RoseOptions { style, ..PLAIN };
            assert_fits_a_phone(&Drawn::rose(&RoseChart::of_summary(&run, options)).narrow, &format!("{n} {style:?}"));
            let pair = Drawn::rose(&RoseChart::before_after(&run, &run, options));
            assert_fits_a_phone(&pair.narrow, &format!("before and after, {n} {style:?}"));
        }
    }
    let paper = RoseOptions { paper_rows: true, ..PLAIN };
    let drawn = Drawn::rose(&RoseChart::of_summary(&four(), paper));
    assert_fits_a_phone(&drawn.narrow, "the paper's rows");
    assert!(drawn.wide == draw(&four(), paper), "the wide one is that of the file");
}

#[test]
fn on_a_phone_every_chart_of_a_comparison_is_legible_and_within_its_column() {
    let flows =
        [("correct", "correct", 800), ("correct", "leak", 90), ("wrong", "correct", 10), ("wrong", "wrong", 100)];
    let names = ["embedded/mnist", "embedded/cifar100", "a-dataset-with-a-rather-long-name/validation", "d"];
    let datasets = || names.map(|name| compared(name, &flows)).to_vec();
    let runs = ["lora", "checkpoint-with-a-rather-long-name-step-1000", "linear"];
    let compared = comparison(runs.map(|run| candidate(run, datasets())).to_vec());
    let (before, afters) = summaries(&compared);
    let afters: Vec<&Summary> = afters.iter().collect();
    let charts = ComparisonCharts::draw(&compared, &before, &afters, PLAIN, Some(0.02));
    assert_eq!(charts.overview().count(), 2);
    for figure in charts.overview() {
        assert_fits_a_phone(&figure.drawn.narrow, "overview");
    }
    for index in 0..runs.len() {
        assert_eq!(charts.of_candidate(index).count(), 2);
        for (name, figure) in charts.of_candidate(index) {
            assert_fits_a_phone(&figure.drawn.narrow, name);
        }
    }
}

#[test]
fn on_a_phone_every_chart_of_a_diagnosis_is_legible_and_within_its_column() {
    let mut long = with_all_probes(diagnosed("a-dataset-with-a-rather-long-name/validation"), 32);
    long.swap[0].component = "a-component-with-a-rather-long-name".to_owned();
    for layer in &mut long.layers {
        (layer.decision_baseline, layer.decision_candidate) = (layer.lens_baseline, layer.lens_candidate);
    }
    let charts = DiagnosisCharts::draw(&diagnosis(vec![long, with_all_probes(diagnosed("mnist"), 4)]));
    assert_eq!(charts.main().count(), 3);
    for (name, figure) in charts.main().chain(charts.of_dataset(0)).chain(charts.of_dataset(1)) {
        assert_fits_a_phone(&figure.drawn.narrow, name);
        raster::parse(&figure.drawn.wide).unwrap();
    }
}

#[test]
fn on_a_phone_a_frontier_is_legible_and_within_its_column() {
    assert_fits_a_phone(&Drawn::frontier(&frontier()).narrow, "frontier");
}
