use super::*;

#[test]
fn a_chart_is_never_so_narrow_that_its_smallest_text_is_below_nine_pixels() {
    let svg = r#"<svg viewBox="0 0 960 430" width="960"><text font-size="21"/><text font-size="12"/></svg>"#;
    assert_eq!(width_px_min(svg), Some(720.0));
    assert_eq!(width_px_min("<svg><text/></svg>"), None);
    let mut body = String::new();
    let chart = Drawn { wide: svg.to_owned(), narrow: svg.to_owned() };
    Figures::default().write(&mut body, &chart, "caption");
    assert!(body.contains("style=\"min-width:720px\"") && body.contains("tabindex=\"0\""), "{body}");
}
