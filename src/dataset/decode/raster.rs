//! PNG, GIF, BMP, TIFF, WebP and PNM, converted to RGB by Pillow's rules.

use std::io::Cursor;

use image::{ColorType, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{check_size, exotic, gif, rgb_image};
use crate::domain::RgbImage;

/// The limit on a decoder's working memory; `check_size` checks the pixels.
const DECODER_BYTES_MAX: u64 = 2 << 30;

/// The formats that are read.
const FORMATS: [ImageFormat; 6] =
    [ImageFormat::Png, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Pnm];

/// Decodes all formats except JPEG.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    let format = image::guess_format(bytes).ok().filter(|format| FORMATS.contains(format));
    let format = format.ok_or("it is not a JPEG, PNG, GIF, BMP, TIFF, WebP or PNM image")?;
    if format == ImageFormat::Tiff && exotic::is_jpeg_tiff(bytes) {
        return Err("it is a TIFF with JPEG compression, which is not read; hint: convert it to PNG".to_owned());
    }
    let failed = |error: image::ImageError| error.to_string();
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = check_size(u64::from(width), u64::from(height))?;
    if format == ImageFormat::Pnm
        && let Some(scaled) = exotic::scaled_pnm(bytes, width as usize * height as usize)
    {
        return rgb_image(width, height, scaled.ok_or("it is truncated")?);
    }
    let color = decoder.color_type();
    let n_bytes = usize::try_from(decoder.total_bytes()).map_err(|_| "it is too large".to_owned())?;
    if n_bytes as u64 > DECODER_BYTES_MAX {
        return Err(format!("it decodes to {n_bytes} bytes"));
    }
    let mut samples = vec![0u8; n_bytes];
    decoder.read_image(&mut samples).map_err(failed)?;
    let is_grey_png = format == ImageFormat::Png && exotic::is_grey_png(bytes);
    let mut pixels = to_rgb(&samples, color, is_grey_png, format)?;
    match format {
        ImageFormat::Gif => gif::fill_outside_first_frame(bytes, width, height, &mut pixels),
        ImageFormat::Bmp => exotic::widen_16_bit_bmp(bytes, &mut pixels),
        _ => {}
    }
    rgb_image(width, height, pixels)
}

fn to_rgb(samples: &[u8], color: ColorType, is_grey_png: bool, format: ImageFormat) -> Result<Vec<u8>, String> {
    let word = |pair: &[u8]| u16::from_ne_bytes([pair[0], pair[1]]);
    // Pillow opens 16-bit grey as integers, and clips when it converts them to RGB.
    let clip = |pair: &[u8]| u8::try_from(word(pair)).unwrap_or(u8::MAX);
    // Pillow reads the high byte of 16-bit colours, but scales those of PNM.
    let narrow = |pair: &[u8]| {
        let value = u32::from(word(pair));
        let narrowed = if format == ImageFormat::Pnm { (value * 255 + 32767) / 65535 } else { value >> 8 };
        u8::try_from(narrowed).unwrap_or(u8::MAX)
    };
    let grey = |levels: &mut dyn Iterator<Item = u8>| levels.flat_map(|level| [level; 3]).collect();
    Ok(match color {
        ColorType::L8 => grey(&mut samples.iter().copied()),
        ColorType::La8 => grey(&mut samples.chunks_exact(2).map(|pixel| pixel[0])),
        ColorType::Rgb8 => samples.to_vec(),
        ColorType::Rgba8 => samples.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        ColorType::L16 => grey(&mut samples.chunks_exact(2).map(clip)),
        ColorType::La16 if is_grey_png => grey(&mut samples.chunks_exact(4).map(clip)),
        ColorType::La16 => grey(&mut samples.chunks_exact(4).map(narrow)),
        ColorType::Rgb16 => samples.chunks_exact(2).map(narrow).collect(),
        ColorType::Rgba16 => samples
            .chunks_exact(8)
            .flat_map(|pixel| [narrow(pixel), narrow(&pixel[2..]), narrow(&pixel[4..])])
            .collect(),
        other => return Err(format!("its colour type {other:?} is not read; hint: convert it to 8-bit RGB")),
    })
}
