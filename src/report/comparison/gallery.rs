//! Lost images with the answers to them.

use std::fmt::Write as _;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageBuffer, ImageEncoder as _, Rgb, imageops};

use super::super::notes;
use super::verdict::LostAt;
use crate::chart::{escape, words};
use crate::compare::{DatasetComparison, LostImage};
use crate::domain::{ErrorCode, RgbImage};

/// The largest width and height of an image on a page, in pixels.
const SIDE_PX_MAX: u32 = 160;

/// The largest width and height of an image that is shown with sharp pixels.
const SIDE_PX_CRISP: u32 = 64;

/// The most characters of an answer that are shown.
const N_ANSWER_MAX: usize = 300;

/// A lost image with its picture, or the reason why it is not shown.
#[derive(Clone, Debug)]
pub struct GalleryImage<'a> {
    /// The dataset's name.
    pub dataset: &'a str,
    /// The image and the answers to it.
    pub lost: &'a LostImage,
    /// The picture.
    pub picture: Picture,
}

/// A picture, or why it is not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picture {
    /// The picture that was evaluated.
    Shown(Thumbnail),
    /// The picture is not shown.
    Absent(Absence),
}

/// Why a picture is not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The file is not on this machine.
    NotAtHand,
    /// The file has another content hash.
    Differs,
    /// The file cannot be decoded.
    Unreadable,
    /// The catalog does not allow redistribution of the dataset's images.
    MayNotBeEmbedded,
    /// Pictures are turned off (`--no-images`).
    TurnedOff,
}

impl Absence {
    /// The reason in words.
    pub fn words(&self) -> &'static str {
        match self {
            Absence::NotAtHand => "its file was not found",
            Absence::Differs => "its file holds another image",
            Absence::Unreadable => "its file cannot be decoded",
            Absence::MayNotBeEmbedded => "the catalog does not allow embedding it",
            Absence::TurnedOff => "images are turned off",
        }
    }
}

/// A picture as PNG, at most 160 pixels wide and high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumbnail {
    width: u32,
    height: u32,
    png: Vec<u8>,
}

impl Thumbnail {
    /// Encodes `image`. A large image is scaled down; a small one keeps its size.
    ///
    /// # Errors
    /// The encoder fails, which only happens if memory runs out.
    pub fn of(image: &RgbImage) -> anyhow::Result<Self> {
        let pixels: ImageBuffer<Rgb<u8>, &[u8]> =
            ImageBuffer::from_raw(image.width(), image.height(), image.pixels()).context("an image fills its sides")?;
        let longest = image.width().max(image.height());
        let shrunk = |side: u32| (u64::from(side) * u64::from(SIDE_PX_MAX) / u64::from(longest)).max(1) as u32;
        let small = (longest > SIDE_PX_MAX)
            .then(|| imageops::thumbnail(&pixels, shrunk(image.width()), shrunk(image.height())));
        let (width, height, bytes) = match &small {
            Some(small) => (small.width(), small.height(), small.as_raw().as_slice()),
            None => (image.width(), image.height(), image.pixels()),
        };
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(bytes, width, height, ExtendedColorType::Rgb8)
            .context("failed to write an image as PNG")?;
        Ok(Self { width, height, png })
    }
}

/// Chooses at most `n_max` of `lost`, taking turns over error codes, so that rare codes appear next to frequent ones.
pub fn gallery_choice(lost: &[LostImage], n_max: usize) -> Vec<&LostImage> {
    let mut queues: Vec<Vec<&LostImage>> = ErrorCode::ALL
        .into_iter()
        .map(|code| lost.iter().filter(|image| image.code_after == code).collect())
        .filter(|queue: &Vec<&LostImage>| !queue.is_empty())
        .collect();
    let mut chosen = Vec::new();
    let mut round = 0;
    while chosen.len() < n_max && queues.iter().any(|queue| round < queue.len()) {
        for queue in &mut queues {
            chosen.extend(queue.get(round).copied().filter(|_| chosen.len() < n_max));
        }
        round += 1;
    }
    chosen
}

/// Writes the images of `dataset` and the number of those not shown.
pub fn write(body: &mut String, dataset: &DatasetComparison, gallery: &[GalleryImage<'_>]) {
    let shown: Vec<&GalleryImage<'_>> = gallery.iter().filter(|image| image.dataset == dataset.dataset).collect();
    if dataset.n_lost == 0 {
        body.push_str("<p>No image was lost.</p>\n");
        return;
    }
    let more = dataset.n_lost.saturating_sub(shown.len());
    let more = match (shown.is_empty(), more) {
        (_, 0) => String::new(),
        (true, n) => format!(" None of the {n} is shown."),
        (false, n) => format!(" {n} more {} not shown.", if n == 1 { "is" } else { "are" }),
    };
    let _ = writeln!(body, "<p>Right before, wrong after; answers are verbatim.{more}</p>");
    if shown.is_empty() {
        return;
    }
    body.push_str("<ul class=\"gallery\">\n");
    for image in shown {
        write_image(body, image);
    }
    body.push_str("</ul>\n");
}

fn write_image(body: &mut String, image: &GalleryImage<'_>) {
    let lost = image.lost;
    body.push_str("<li>");
    write_picture(body, &image.picture, &format!("{}, labelled {}", lost.sample, lost.label));
    let stage =
        LostAt::of(lost).map(|stage| format!(" <span class=\"tag\">{}</span>", stage.name())).unwrap_or_default();
    let _ = write!(
        body,
        "<div><p><span class=\"label\">{}</span> <span class=\"tag\">{}</span>{stage}</p><dl>",
        escape(&lost.label),
        notes::spaced(lost.code_after.name())
    );
    let mut line = |name: &str, answer: &str| {
        let _ = write!(body, "<div><dt>{name}</dt><dd>{answer}</dd></div>");
    };
    line("before", &verbatim(&lost.said_before));
    line("after", &verbatim(&lost.said_after));
    let choice = |(chosen, is_right): &(String, bool)| {
        format!("{} ({})", escape(&words::shortened(chosen, N_ANSWER_MAX)), if *is_right { "right" } else { "wrong" })
    };
    if let Some(chosen) = &lost.scoring {
        line("scoring", &choice(chosen));
    }
    if let Some(chosen) = &lost.encoder {
        line("encoder", &choice(chosen));
    }
    let _ = writeln!(body, "</dl><code>{}</code></div></li>", escape(&lost.sample));
}

/// Returns an answer in quotation marks, shortened, as markup.
pub fn verbatim(answer: &str) -> String {
    if answer.is_empty() {
        return "<em>empty</em>".to_owned();
    }
    format!("<q>{}</q>", escape(&words::shortened(answer, N_ANSWER_MAX)))
}

/// Writes a picture, or why it is not shown. `alt` is the alternative text, not markup.
pub fn write_picture(body: &mut String, picture: &Picture, alt: &str) {
    match picture {
        Picture::Shown(thumbnail) => {
            let class = if thumbnail.width.max(thumbnail.height) <= SIDE_PX_CRISP { " class=\"crisp\"" } else { "" };
            let _ = write!(
                body,
                "<img{class} src=\"data:image/png;base64,{}\" width=\"{}\" height=\"{}\" alt=\"{}\">",
                STANDARD.encode(&thumbnail.png),
                thumbnail.width,
                thumbnail.height,
                escape(alt)
            );
        }
        Picture::Absent(Absence::TurnedOff) => {}
        Picture::Absent(reason) => {
            let _ = write!(body, "<div class=\"no-image\"><span>no image: {}</span></div>", reason.words());
        }
    }
}

#[cfg(test)]
mod tests;
