use plotters::prelude::{Circle, IntoDrawingArea, PathElement};

use super::*;

#[test]
fn what_is_drawn_has_its_class_its_dashes_and_its_tooltip() {
    let paper = Paper::new(Svg::default(), 100.0, 50.0);
    let area = paper.clone().into_drawing_area();
    paper.take_up(Pen { shape: "line", dashes: Some("8 4"), tooltip: Some("a & b".to_owned()), ..Pen::default() });
    area.draw(&PathElement::new(vec![(5, 10), (15, 20)], stroke("#0072B2", 3.5))).unwrap();
    paper.take_up(Pen { shape: "dot", rim: Some(("#FFFFFF", 1.0)), ..Pen::default() });
    area.draw(&Circle::new((100, 100), 50, fill("#A63C00"))).unwrap();
    drop(area);
    let drawn = paper.into_svg().finish(100.0, 50.0, "", "");
    let line = concat!(
        r##"<path class="line" d="M0.5 1L1.5 2" fill="none" stroke="#0072B2" stroke-width="3.5" "##,
        r#"stroke-dasharray="8 4" stroke-linejoin="round"><title>a &amp; b</title></path>"#
    );
    assert!(drawn.contains(line), "{drawn}");
    assert!(drawn.contains(r##"<circle class="dot" cx="10" cy="10" r="5" fill="#A63C00" stroke="#FFFFFF""##));
}

#[test]
fn a_texts_class_follows_from_its_colour() {
    let paper = Paper::new(Svg::default(), 100.0, 50.0);
    let area = paper.clone().into_drawing_area();
    paper.take_up(Pen { text: ("#0072B2", "line-name"), ..Pen::default() });
    for colour in [svg::MUTED, "#0072B2"] {
        area.draw_text("a<b", &lettering(12.0, colour, false, HPos::Right), (100, 100)).unwrap();
    }
    drop(area);
    let drawn = paper.into_svg().finish(100.0, 50.0, "", "");
    assert!(drawn.contains(r#"class="muted" x="10""#) && drawn.contains(r#"class="line-name" x="10""#), "{drawn}");
    assert!(drawn.contains(r#"text-anchor="end">a&lt;b</text>"#), "{drawn}");
}
