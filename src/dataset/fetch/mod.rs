//! Fetching published datasets.

use anyhow::ensure;

use super::catalog::WireFile;

/// Checks what a catalog says of a file to download.
pub(super) fn check_file(file: &WireFile) -> anyhow::Result<()> {
    ensure!(
        file.folder.components().all(|part| matches!(part, std::path::Component::Normal(_))),
        "the folder `{}` of a file is no plain path below the data root",
        file.folder.display()
    );
    ensure!(!file_name(&file.url).is_empty(), "the address `{}` ends without a file name", file.url);
    let is_hex = |digest: &Option<String>, len: usize| {
        digest.as_ref().is_none_or(|digest| digest.len() == len && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    ensure!(is_hex(&file.md5, 32) && is_hex(&file.sha256, 64), "a checksum of `{}` is malformed", file.url);
    Ok(())
}

/// The last part of an address, without a query.
pub(super) fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or("");
    let name = path.rsplit('/').next().unwrap_or("");
    if name.starts_with('.') || name.contains(['\\', ':']) { "" } else { name }
}
