//! Messages about a dataset's missing file or folder.
#![expect(clippy::disallowed_methods, reason = "looks for what may be meant")]

use std::path::Path;

use super::labels;
use crate::domain::nearest;

/// Extensions of files that are datasets; a dataset's name omits them.
pub(super) const FILE_EXTENSIONS: [&str; 8] = ["zip", "tar", "csv", "tsv", "jsonl", "ndjson", "parquet", "arrow"];

/// Whether a path has the extension of a dataset file.
pub(super) fn has_file_extension(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| FILE_EXTENSIONS.contains(&extension.as_str()))
}

/// Describes a missing file or folder: which of its parent folders exists, and what is in it.
pub(super) fn missing(path: &Path) -> String {
    let kind = if has_file_extension(path) { "file" } else { "folder" };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let said = format!("there is no such {kind}: `{}`", absolute.display());
    let Some(above) = absolute.ancestors().skip(1).find(|folder| folder.is_dir()) else { return said };
    if absolute.parent() != Some(above) {
        return format!("{said}; hint: `{}` exists, but the rest of the path does not", above.display());
    }
    let listed = std::fs::read_dir(above).into_iter().flatten().flatten();
    let mut names: Vec<String> = listed.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.starts_with('.') && (kind == "folder" || has_file_extension(Path::new(name))));
    names.sort_unstable();
    let asked = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    match nearest(&asked, &known) {
        Some(meant) => format!("{said}; hint: did you mean `{meant}`?"),
        None if names.is_empty() => format!("{said}; hint: `{}` holds no dataset", above.display()),
        None => format!("{said}; hint: `{}` holds {}", above.display(), labels::shorten(&names)),
    }
}
