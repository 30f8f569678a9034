use resvg::usvg::roxmltree::Document;

use super::*;
use crate::chart::samples::many;
use crate::chart::{RoseOptions, Scale, Style, raster};

#[test]
fn no_name_breaks_inside_a_word() {
    let options = RoseOptions { scale: Scale::Radius, style: Style::Petals, paper_rows: false };
    let drawn_with = |names: &[&str]| {
        let run = many(names.len());
        let mut chart = RoseChart::before_after(&run, &run, options);
        for (axis, name) in chart.axes.iter_mut().zip(names) {
            axis.name = (*name).to_owned();
        }
        let cell = SmallRose { name: "a".to_owned(), remark: String::new(), chart };
        small_multiples(&SmallMultiples { title: String::new(), subtitle: Vec::new(), cells: vec![cell] })
    };
    let names = ["embedded/mnist", "embedded/cifar10", "embedded/cifar100", "miniimagenet"];
    let drawn = drawn_with(&names);
    for word in ["embedded/", "mnist", "cifar10", "cifar100", "miniimagenet"] {
        assert!(drawn.contains(&format!("{word}</text>")), "{word}: {drawn}");
    }
    // A name that fits at no size gets a number, and small print has the name.
    let long = "w".repeat(60);
    let drawn = drawn_with(&["mnist", &long, "cifar10"]);
    assert!(drawn.contains(">2</text>") && drawn.contains("1: mnist · 2: w"), "{drawn}");
}

#[test]
fn every_checkpoint_has_its_rose_and_many_datasets_are_numbered() {
    let options = RoseOptions { scale: Scale::Radius, style: Style::Petals, paper_rows: false };
    for (n_datasets, n_cells) in [(0, 1), (1, 2), (4, 7), (12, 3)] {
        let run = many(n_datasets);
        let cell = |index: usize| SmallRose {
            name: format!("<step {index}>"),
            remark: String::new(),
            chart: RoseChart::before_after(&run, &run, options),
        };
        let multiples =
            SmallMultiples { title: "All".to_owned(), subtitle: Vec::new(), cells: (0..n_cells).map(cell).collect() };
        let drawn = small_multiples(&multiples);
        assert_eq!(drawn.matches("class=\"plot\"").count(), n_cells);
        assert!(!drawn.contains("NaN") && !drawn.contains("<step"));
        assert_eq!(drawn.contains("12: dataset number 11/val"), n_datasets == 12);
        Document::parse(&drawn).unwrap();
        raster::parse(&drawn).unwrap();
    }
}
