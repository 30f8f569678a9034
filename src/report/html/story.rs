//! One base model and what fine-tuning made of it, on one page.

use std::fmt::Write as _;

use super::super::tables;
use super::page::{Figures, page, section, write_folded_table, write_table};
use crate::chart::escape;
use crate::compare::{Forgetting, Summary};

/// What the page tells.
#[derive(Clone, Copy, Debug)]
pub struct Story<'a> {
    /// The heading.
    pub title: &'a str,
    /// What was done, in paragraphs.
    pub lead: &'a [String],
    /// The base model's numbers.
    pub before: &'a Summary,
    /// The base model beside its encoder, as [`crate::chart::rose`] drew it.
    pub rose_svg: &'a str,
    /// One a fine-tune.
    pub chapters: &'a [Chapter<'a>],
}

/// One fine-tune of the base model.
#[derive(Clone, Copy, Debug)]
pub struct Chapter<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its numbers.
    pub after: &'a Summary,
    /// What each dataset lost, image by image.
    pub forgetting: &'a [Forgetting],
    /// Before and after, as a rose.
    pub rose_svg: &'a str,
    /// Accuracy over epochs.
    pub curve_svg: Option<&'a str>,
    /// Where its own report lies, relative to the page.
    pub report: &'a str,
}

/// The page as one HTML file that loads nothing.
pub fn story(story: &Story<'_>) -> String {
    let title = escape(story.title);
    let mut body = format!("<header>\n<h1>{title}</h1>\n");
    for paragraph in story.lead {
        let _ = writeln!(body, "<p>{}</p>", escape(paragraph));
    }
    body.push_str("</header>\n");
    let mut figures = Figures::default();
    section(&mut body, "base", "Before");
    figures.write(&mut body, story.rose_svg, "The model before any fine-tuning, beside its encoder.");
    write_table(&mut body, &tables::accuracies(story.before));
    body.push_str("</section>\n");
    for chapter in story.chapters {
        let name = escape(chapter.name);
        section(&mut body, &format!("after-{name}"), &format!("After {name}"));
        figures.write(&mut body, chapter.rose_svg, "Left half of a petal: before; right half: after.");
        write_table(&mut body, &tables::before_after(story.before, chapter.after, chapter.forgetting));
        write_table(&mut body, &tables::errors(chapter.after));
        write_folded_table(&mut body, &tables::meanings(chapter.after));
        if let Some(curve) = chapter.curve_svg {
            figures.write(&mut body, curve, "Accuracy on held-out images after each epoch.");
        }
        let report = escape(chapter.report);
        let _ = writeln!(body, "<p>All of this run: <a href=\"{report}\">{report}</a></p>\n</section>");
    }
    let _ = writeln!(body, "<footer>emt {}</footer>", env!("CARGO_PKG_VERSION"));
    page(&title, &body)
}
