#![expect(clippy::disallowed_methods, reason = "tests read the shared references")]

use std::path::PathBuf;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

/// The folder of real data and references, if the environment names one.
fn shared() -> Option<PathBuf> {
    let folder = std::env::var("EMT_SHARED").ok().map(PathBuf::from);
    if folder.is_none() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped: EMT_SHARED is not set");
    }
    folder
}

#[test]
fn every_reference_file_decodes_to_pillows_pixels() {
    let Some(shared) = shared() else { return };
    let text = std::fs::read_to_string(shared.join("fixtures/decode/decode.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
    let files = reference["files"].as_object().unwrap();
    assert!(files.len() > 1000);
    let mut wrong = Vec::new();
    for (name, expected) in files {
        let bytes = std::fs::read(shared.join(name)).unwrap();
        match decode(&bytes) {
            Ok(image) => {
                let digest =
                    Sha256::digest(image.pixels()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                if digest != expected["sha256"]
                    || image.width() != expected["width"]
                    || image.height() != expected["height"]
                {
                    wrong.push(format!("{name} ({})", expected["mode"]));
                }
            }
            Err(message) => wrong.push(format!("{name}: {message}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ: {wrong:#?}", wrong.len(), files.len());
}

fn png(width: u32, height: u32) -> Vec<u8> {
    encode(image::DynamicImage::ImageRgb8(image::RgbImage::from_fn(width, height, pattern)), image::ImageFormat::Png)
}

fn pattern(x: u32, y: u32) -> image::Rgb<u8> {
    image::Rgb([(x * 7) as u8, (y * 11) as u8, (x * y) as u8])
}

fn encode(image: image::DynamicImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg() -> Vec<u8> {
    let image = image::RgbImage::from_fn(24, 16, pattern);
    let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    compress.set_size(24, 16);
    let mut started = compress.start_compress(Vec::new()).unwrap();
    started.write_scanlines(image.as_raw()).unwrap();
    started.finish().unwrap()
}

#[test]
fn a_jpeg_that_lost_its_end_is_truncated_and_no_grey_image() {
    let whole = jpeg();
    assert!(decode(&whole).is_ok());
    for n_lost in [1, 2, 10, 100] {
        assert!(decode(&whole[..whole.len() - n_lost]).is_err(), "{n_lost} bytes lost");
    }
    // Bytes after the end of the image are ignored.
    assert!(decode(&[whole, vec![0; 9]].concat()).is_ok());
}

#[test]
fn a_header_that_claims_a_bomb_is_refused_before_anything_is_allocated() {
    let mut bomb = png(4, 4);
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = decode(&bomb).unwrap_err();
    assert!(error.contains("65536 x 65536"), "{error}");
    let mut bomb = jpeg();
    let frame = bomb.windows(2).position(|pair| pair[0] == 0xff && matches!(pair[1], 0xc0 | 0xc2)).unwrap();
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xfa, 0, 0xfa, 0]);
    let error = decode(&bomb).unwrap_err();
    assert!(error.contains("64000 x 64000"), "{error}");
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn nothing_and_text_are_no_images() {
    assert_eq!(decode(b"").unwrap_err(), "it is empty");
    assert!(decode(b"<html>not found</html>").unwrap_err().contains("not a JPEG"));
}

#[test]
fn transparency_is_dropped_and_not_blended() {
    let image = image::RgbaImage::from_pixel(2, 2, image::Rgba([10, 20, 30, 0]));
    let decoded = decode(&encode(image::DynamicImage::ImageRgba8(image), image::ImageFormat::Png)).unwrap();
    assert_eq!(decoded.pixels()[..3], [10, 20, 30]);
}

#[test]
fn outside_the_first_frame_a_gif_shows_its_palettes_first_colour() {
    // 2 x 1 canvas, palette (9, 8, 7), (1, 2, 3); the frame covers the right pixel with colour 1.
    let mut bytes = b"GIF89a\x02\0\x01\0\x80\0\0\x09\x08\x07\x01\x02\x03".to_vec();
    bytes.extend(b",\x01\0\0\0\x01\0\x01\0\0\x02\x02L\x01\0;");
    assert_eq!(decode(&bytes).unwrap().pixels(), [9, 8, 7, 1, 2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn broken_images_are_errors_or_images_and_never_panics(
        cut in 0usize..2000, places in proptest::collection::vec((0usize..2000, any::<u8>()), 0..6),
    ) {
        let pattern = || image::DynamicImage::ImageRgb8(image::RgbImage::from_fn(20, 12, pattern));
        let mut files = vec![jpeg()];
        for format in [image::ImageFormat::Png, image::ImageFormat::Gif, image::ImageFormat::Bmp,
            image::ImageFormat::Tiff, image::ImageFormat::WebP, image::ImageFormat::Pnm] {
            files.push(encode(pattern(), format));
        }
        for mut bytes in files {
            bytes.truncate(cut.max(8));
            for &(place, value) in &places {
                let place = place % bytes.len();
                bytes[place] = value;
            }
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn noise_behind_a_magic_number_never_panics(
        magic in 0usize..7, noise in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let magics: [&[u8]; 7] =
            [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\x20\0\0\0WEBPVP8 ", b"P6\n"];
        let _ = decode(&[magics[magic], &noise].concat());
    }
}

#[test]
fn grey_of_sixteen_bits_is_clipped_and_colours_keep_their_high_byte() {
    let grey = image::ImageBuffer::from_fn(2, 1, |x, _| image::Luma([if x == 0 { 200u16 } else { 300 }]));
    let decoded = decode(&encode(image::DynamicImage::ImageLuma16(grey), image::ImageFormat::Png)).unwrap();
    assert_eq!(decoded.pixels(), [200, 200, 200, 255, 255, 255]);
    let colour = image::ImageBuffer::from_pixel(1, 1, image::Rgb([0x12ffu16, 0x3400, 0x56ab]));
    let decoded = decode(&encode(image::DynamicImage::ImageRgb16(colour), image::ImageFormat::Png)).unwrap();
    assert_eq!(decoded.pixels(), [0x12, 0x34, 0x56]);
}

#[test]
fn a_pnm_of_another_maximum_is_scaled_with_halves_to_even() {
    // 10 / 100 * 255 = 25.5, 30 / 100 * 255 = 76.5
    assert_eq!(decode(b"P6 # a comment\n1 1\n100\n\x0a\x1e\x64").unwrap().pixels(), [26, 76, 255]);
    assert_eq!(decode(b"P6\n1 1\n100\n\x0a\x1e").unwrap_err(), "it is truncated");
}

#[test]
fn sixteen_bits_of_a_bmp_are_widened_rounding_down() {
    let mut bytes = b"BM".to_vec();
    for value in [58u32, 0, 54, 40, 1, 1, 1 | 16 << 16, 0, 4, 2835, 2835, 0, 0] {
        bytes.extend(value.to_le_bytes());
    }
    // 0RRRRRGGGGGBBBBB: 3, 4, 5 of 31 are 24.7, 32.9, 41.1 of 255.
    bytes.extend((3u32 << 10 | 4 << 5 | 5).to_le_bytes());
    assert_eq!(decode(&bytes).unwrap().pixels(), [24, 32, 41]);
}

#[test]
fn a_tiff_of_jpeg_is_refused_because_its_decoder_rounds_otherwise() {
    let mut bytes = b"II*\0\x08\0\0\0\x01\0\x03\x01\x03\0\x01\0\0\0\x07\0\0\0".to_vec();
    bytes.extend([0; 4]);
    assert!(decode(&bytes).unwrap_err().contains("TIFF with JPEG"));
}
