use proptest::prelude::*;

use super::*;

/// EXIF with an orientation.
fn exif(orientation: u8, is_little: bool) -> Vec<u8> {
    if is_little {
        [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[orientation, 0, 0, 0], &[0; 4]].concat()
    } else {
        [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01".as_slice(), &[0, orientation, 0, 0], &[0; 4]].concat()
    }
}

fn jpeg(kind: &[u8], body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(2 + kind.len() + body.len()).unwrap().to_be_bytes();
    [&[0xff, 0xd8, 0xff, 0xe1], len.as_slice(), kind, body, &[0xff, 0xda]].concat()
}

fn png(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    [b"\x89PNG\r\n\x1a\n".as_slice(), &len, kind, body, &[0; 4]].concat()
}

#[test]
fn the_orientation_is_found_wherever_pillow_finds_it() {
    let xmp = b"<x tiff:Orientation=\"8\"/>";
    for is_little in [true, false] {
        assert_eq!(of(&jpeg(b"Exif\0\0", &exif(6, is_little))), Some(6));
        assert_eq!(of(&png(b"eXIf", &exif(3, is_little))), Some(3));
        assert_eq!(of(&exif(5, is_little)), Some(5));
        let webp = [b"RIFF\0\0\0\0WEBPEXIF".as_slice(), &26u32.to_le_bytes(), &exif(7, is_little)].concat();
        assert_eq!(of(&webp), Some(7));
        for upright in [0, 1, 9, 200] {
            assert_eq!(of(&jpeg(b"Exif\0\0", &exif(upright, is_little))), None);
        }
    }
    assert_eq!(of(&jpeg(b"http://ns.adobe.com/xap/1.0/\0", xmp)), Some(8));
    assert_eq!(of(&png(b"iTXt", &[b"XML:com.adobe.xmp\0\0\0\0\0".as_slice(), xmp].concat())), Some(8));
    assert_eq!(of(&png(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>2</tiff:Orientation>")), Some(2));
    let digits: String = exif(4, true).iter().map(|byte| format!("{byte:02x}")).collect();
    let profile = format!("Raw profile type exif\0\nexif\n      26\n{digits}\n");
    assert_eq!(of(&png(b"tEXt", profile.as_bytes())), Some(4));
}

#[test]
fn each_orientation_turns_as_pillow_turns() {
    // Two columns, three rows; the letters of each row.
    let letters = |text: &[u8]| text.iter().flat_map(|&letter| [letter; 3]).collect::<Vec<u8>>();
    let image = RgbImage::new(2, 3, letters(b"abcdef")).unwrap();
    for (orientation, width, expected) in [
        (1, 2, b"abcdef"),
        (2, 2, b"badcfe"),
        (3, 2, b"fedcba"),
        (4, 2, b"efcdab"),
        (5, 3, b"acebdf"),
        (6, 3, b"ecafdb"),
        (7, 3, b"fdbeca"),
        (8, 3, b"bdface"),
    ] {
        let turned = turned(image.clone(), orientation);
        assert_eq!((turned.width(), turned.pixels()), (width, letters(expected).as_slice()), "{orientation}");
    }
}

proptest! {
    #[test]
    fn any_bytes_have_an_orientation_or_none(noise in proptest::collection::vec(any::<u8>(), 0..80), place in 0usize..40, value: u8) {
        for start in [jpeg(b"Exif\0\0", &exif(6, true)), png(b"eXIf", &exif(6, false)), exif(6, true),
                      png(b"zTXt", b"Raw profile type exif\0\0x"), b"RIFF\0\0\0\0WEBPEXIF\x1a\0\0\0".to_vec()] {
            let mut bytes = [start, noise.clone()].concat();
            let place = place % bytes.len();
            bytes[place] = value;
            let _ = of(&bytes);
        }
    }
}
