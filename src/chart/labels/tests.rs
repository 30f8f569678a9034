use super::super::layout::Layout;
use super::super::rose::label_style;
use super::*;
use crate::chart::geometry::Slots;
use crate::chart::{Axis, Scale, Style};

fn chart(n: usize) -> RoseChart {
    let axes = (0..n).map(|index| Axis {
        name: format!("a rather long dataset name/validation_{index}"),
        chance: None,
        remarks: vec!["retention 77.3%".into()],
        warning: (index == 1).then(|| "training split".into()),
    });
    RoseChart {
        title: String::new(),
        subtitle: Vec::new(),
        warnings: Vec::new(),
        footer: Vec::new(),
        axes: axes.collect(),
        series: Vec::new(),
        scale: Scale::Radius,
        style: Style::Petals,
    }
}

#[test]
fn labels_of_one_to_twenty_datasets_touch_neither_each_other_nor_the_ring() {
    for layout in [Layout::Wide, Layout::Narrow] {
        let style = label_style(layout);
        for n in 1..=20 {
            let labels = place_axis_labels(&chart(n), &Slots::new(n).angles, style);
            for (index, label) in labels.iter().enumerate() {
                let place = format!("{layout:?} {n}: {index}");
                assert!(label.rect.distance_from_centre() > RADIUS + 10.0, "{place}");
                let edge = style.half_width + 1e-9;
                assert!(label.rect.x0 >= -edge && label.rect.x1 <= edge, "{place}");
                for other in &labels[..index] {
                    assert!(!label.rect.overlaps(&other.rect), "{place}");
                }
            }
        }
    }
}

#[test]
fn two_numbers_of_one_tip_stand_apart() {
    let mut obstacles = Obstacles::default();
    let number = TipNumber {
        role: Role::Model,
        text: "73.2".into(),
        ink: ink(14.0, svg::INK, "ink"),
        radius: 100.0,
        angles: vec![0.5],
    };
    draw_tip_numbers(&mut Svg::default(), &[number.clone(), number], &mut obstacles);
    let [first, second] = obstacles.rects[..] else { panic!("two rects") };
    assert!(!first.overlaps(&second));
}
