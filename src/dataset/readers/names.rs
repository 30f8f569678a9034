//! File names: whether they are images, operating system files or something else, and how they are shown.

use std::collections::HashSet;

/// Extensions of formats that are decoded.
const DECODED: [&str; 15] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "apng", "bmp", "gif", "tif", "tiff", "webp", "ppm", "pgm", "pbm", "pnm"];

/// Extensions of image formats that are not decoded.
const NOT_DECODED: [&str; 24] = [
    "avif", "avifs", "heic", "heif", "hif", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "jxl", "jxr", "svg", "svgz",
    "psd", "psb", "tga", "eps", "pcx", "exr", "dds", "xcf", "dcm",
];

/// Extensions of cameras' raw pictures. Many are TIFF files whose first picture is a thumbnail.
const RAW: [&str; 22] = [
    "raw", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "dng", "orf", "rw2", "raf", "pef", "srw", "x3f",
    "3fr", "kdc", "dcr", "mrw", "erf", "iiq",
];

/// Extensions of other files found next to images, which are not opened.
const OTHERS: [&str; 50] = [
    "txt", "json", "jsonl", "ndjson", "csv", "tsv", "xml", "yaml", "yml", "toml", "md", "html", "htm", "pdf", "db",
    "ini", "log", "py", "sh", "npy", "npz", "mat", "pkl", "pickle", "pt", "pth", "h5", "hdf5", "zip", "tar", "gz",
    "tgz", "bz2", "xz", "7z", "rar", "parquet", "arrow", "mp4", "mov", "avi", "mkv", "webm", "mp3", "wav", "cls",
    "xmp", "aae", "md5", "ico",
];

/// Folders and files that operating systems and devices leave behind, in lower case; names that begin with a dot are
/// also left out.
const OF_THE_SYSTEM: [&str; 16] = [
    "__macosx",
    "@eadir",
    "@tmp",
    "@recycle",
    "@__thumb",
    "@sharebin",
    "#recycle",
    "#snapshot",
    "lost+found",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__pycache__",
];

/// The kind of a file by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An image, in a format that is decoded or in another one.
    Image,
    /// Known to be something else.
    Other,
    /// Its first bytes must be read.
    Unknown,
}

/// Returns the kind of the file `name`.
pub(super) fn kind_of(name: &str) -> Kind {
    let extension = extension_of(name);
    let is_of = |list: &[&str]| list.contains(&extension.as_str());
    match () {
        () if is_of(&DECODED) || is_of(&NOT_DECODED) || is_of(&RAW) => Kind::Image,
        () if is_of(&OTHERS) => Kind::Other,
        () => Kind::Unknown,
    }
}

/// Returns the extension in lower case; empty if there is none.
fn extension_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase()
}

/// Whether the name is that of a camera's raw picture.
pub(super) fn is_raw(name: &str) -> bool {
    RAW.contains(&extension_of(name).as_str())
}

/// Whether a part of a path belongs to an operating system or device: `.DS_Store`, `._cat.jpg`, `__MACOSX`, `@eaDir`,
/// `Thumbs.db`.
pub(in crate::dataset) fn is_of_the_system(part: &str) -> bool {
    part.starts_with('.') || OF_THE_SYSTEM.contains(&part.trim_end_matches('\r').to_ascii_lowercase().as_str())
}

/// Returns a warning about images whose names say that they cannot be decoded.
pub(super) fn warning_of_formats<'n>(names: impl Iterator<Item = &'n str>) -> Option<String> {
    let mut counts: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    let mut n_images = 0;
    for name in names {
        n_images += 1;
        let extension = extension_of(name);
        if NOT_DECODED.contains(&extension.as_str()) || RAW.contains(&extension.as_str()) {
            *counts.entry(extension).or_default() += 1;
        }
    }
    let n_not_decoded: usize = counts.values().sum();
    let each: Vec<String> = counts.iter().map(|(extension, n)| format!("{n} {extension}")).collect();
    (n_not_decoded > 0).then(|| {
        format!(
            "{n_not_decoded} of {n_images} images are in formats that cannot be decoded, judging by their names ({}): \
             they count as unreadable and are not scored; hint: convert them to PNG or JPEG",
            each.join(", ")
        )
    })
}

/// Returns a name as text: UTF-8, or otherwise Latin-1 for every non-ASCII byte.
pub(super) fn readable(name: &[u8]) -> String {
    let of_byte = |&byte: &u8| match byte {
        0x80..=0x9f => format!("\\x{byte:02x}"),
        byte => char::from(byte).to_string(),
    };
    std::str::from_utf8(name).map_or_else(|_| name.iter().map(of_byte).collect(), str::to_owned)
}

/// Returns a name as text in which every byte that is not UTF-8 is written as `\xe9`.
fn escaped(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// Assigns each path a unique text, because several names may read alike.
#[derive(Default)]
pub(super) struct UniqueNames {
    seen: HashSet<String>,
    /// A few of the names that are not UTF-8, and their number.
    odd: Vec<String>,
    n_odd: usize,
}

impl UniqueNames {
    /// Returns the text of the file `name` in the folder of the text `prefix`.
    pub(super) fn add(&mut self, prefix: &str, name: &[u8]) -> String {
        let text = format!("{prefix}{}", readable(name));
        if std::str::from_utf8(name).is_err() {
            self.count(&text);
        }
        if self.seen.insert(text.clone()) {
            return text;
        }
        let other = format!("{prefix}{}", escaped(name));
        let numbered = (2..).map(|number| format!("{other}~{number}"));
        let free = std::iter::once(other.clone()).chain(numbered).find(|text| !self.seen.contains(text));
        let text = free.unwrap_or(other);
        self.seen.insert(text.clone());
        text
    }

    /// Records that a name, shown as `text`, is not UTF-8.
    pub(super) fn count(&mut self, text: &str) {
        self.n_odd += 1;
        if self.odd.len() < 3 {
            self.odd.push(text.to_owned());
        }
    }

    /// Returns a note on names that are not UTF-8, read as `code`.
    pub(super) fn note(&self, code: &str) -> Option<String> {
        let more = if self.n_odd > self.odd.len() { ", …" } else { "" };
        (self.n_odd > 0).then(|| {
            format!(
                "{} that are not UTF-8 are read as {code}: {}{more}; hint: if they are classes and look wrong, name \
                 them with --labels FILE",
                count_of(self.n_odd, "name"),
                self.odd.join(", ")
            )
        })
    }
}

/// Returns `1 name`, `2 names`.
pub(super) fn count_of(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// Returns a note on files that are images only by their first bytes.
pub(super) fn note_of_sniffed(paths: &[String]) -> Option<String> {
    let shown: Vec<&str> = paths.iter().take(3).map(String::as_str).collect();
    let more = if paths.len() > shown.len() { ", …" } else { "" };
    let is = if paths.len() == 1 { "is" } else { "are" };
    (!paths.is_empty()).then(|| {
        let n_files = count_of(paths.len(), "file");
        format!(
            "{n_files} without an image's extension {is} read as images, by their first bytes: {}{more}",
            shown.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_file_is_whatever_the_case_of_its_extension() {
        for (name, kind) in [
            ("a.JPG", Kind::Image),
            ("a/b.JPeG", Kind::Image),
            ("a.heic", Kind::Image),
            ("a.CR2", Kind::Image),
            ("labels.txt", Kind::Other),
            ("5f3a9c", Kind::Unknown),
            ("v1.2/5f3a9c", Kind::Unknown),
            ("cat.jpg_original", Kind::Unknown),
        ] {
            assert_eq!(kind_of(name), kind, "{name}");
        }
        assert!(is_raw("a/b.NEF") && !is_raw("a/b.tif"));
    }

    #[test]
    fn what_systems_leave_behind_is_known() {
        for part in [
            "@eaDir",
            ".DS_Store",
            "__MACOSX",
            "Thumbs.db",
            "THUMBS.DB",
            "desktop.ini",
            "lost+found",
            "#recycle",
            "._x.jpg",
            ".ipynb_checkpoints",
            ".thumbnails",
            "$RECYCLE.BIN",
            "System Volume Information",
        ] {
            assert!(is_of_the_system(part), "{part}");
        }
        for part in ["cat", "@home", "thumbs", "macosx", "recycling bin"] {
            assert!(!is_of_the_system(part), "{part}");
        }
    }

    #[test]
    fn names_that_are_no_utf8_are_readable_and_stay_apart() {
        let mut names = UniqueNames::default();
        assert_eq!(names.add("a/", "café".as_bytes()), "a/café");
        assert!(names.note("Latin-1").is_none());
        assert_eq!(names.add("a/", b"f\xfcr.png"), "a/für.png");
        // The same word in two encodings.
        assert_eq!(names.add("a/", b"caf\xe9"), "a/caf\\xe9");
        assert_eq!(names.add("a/", b"caf\\xe9"), "a/caf\\xe9~2");
        assert_eq!(names.add("a/", b"\x9f"), "a/\\x9f");
        assert!(names.note("Latin-1").unwrap().contains("3 names that are not UTF-8 are read as Latin-1: a/für.png"));
    }

    #[test]
    fn formats_that_are_not_decoded_are_counted() {
        assert_eq!(warning_of_formats(["a.png", "b.tif"].into_iter()), None);
        let warning = warning_of_formats(["a.png", "b.AVIF", "c.heic", "d.nef", "e.heic"].into_iter()).unwrap();
        assert!(warning.starts_with("4 of 5 images") && warning.contains("(1 avif, 2 heic, 1 nef)"), "{warning}");
    }
}
