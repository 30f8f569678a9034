use super::*;

fn row(canvas: &Canvas, row: usize, columns: Range<usize>) -> Vec<u8> {
    let mut out = Vec::new();
    canvas.extend_with_row(row, columns, &mut out);
    out.into_iter().step_by(3).collect()
}

#[test]
fn the_ground_lies_around_the_image() {
    let tall = RgbImage::from_grey(1, 4, &[1, 2, 3, 4]).unwrap();
    let canvas = Canvas::new(&tall, Some([9, 8, 7]));
    assert_eq!(canvas.size(), (4, 4));
    assert_eq!(row(&canvas, 2, 0..4), [9, 3, 9, 9]);
    assert_eq!(row(&canvas, 2, 2..4), [9, 9]);
    assert_eq!(row(&canvas, 2, 1..2), [3]);
    let wide = RgbImage::from_grey(3, 1, &[1, 2, 3]).unwrap();
    let canvas = Canvas::new(&wide, Some([9, 8, 7]));
    assert_eq!(
        [row(&canvas, 0, 0..3), row(&canvas, 1, 0..3), row(&canvas, 2, 1..3)].concat(),
        [9, 9, 9, 1, 2, 3, 9, 9]
    );
}

#[test]
fn without_a_ground_the_canvas_is_the_image() {
    let image = RgbImage::from_grey(2, 3, &[1, 2, 3, 4, 5, 6]).unwrap();
    let canvas = Canvas::new(&image, None);
    assert_eq!(canvas.size(), (2, 3));
    assert_eq!(row(&canvas, 2, 0..2), [5, 6]);
}
