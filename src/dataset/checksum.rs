//! Published checksums of files on disk.
#![expect(clippy::disallowed_methods, reason = "hashes data files")]

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;
use md5::{Digest, Md5};

/// Returns the MD5 of a file in lower-case hex, read in pieces.
pub(super) fn md5_of_file(path: &Path) -> anyhow::Result<String> {
    let named = || format!("failed to read `{}`", path.display());
    let mut file = File::open(path).with_context(named)?;
    let mut hasher = Md5::new();
    let mut piece = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(n_bytes) => hasher.update(&piece[..n_bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(named),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
