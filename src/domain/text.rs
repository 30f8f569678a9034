//! Text files as editors save them (byte order marks, line ends, encodings), and quoting for shells.

/// Why bytes are not readable text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// UTF-16, as Windows editors and PowerShell's redirection save it.
    #[error("it is UTF-16, as some editors and shells on Windows write; hint: save it as UTF-8")]
    Utf16,
    /// Neither UTF-8 nor UTF-16.
    #[error("it is not UTF-8 text (byte {at} is wrong); hint: save it as UTF-8")]
    NotUtf8 {
        /// The position of the first invalid byte, from 0.
        at: usize,
    },
}

/// Decodes a file's `bytes` as UTF-8 and removes a byte order mark. Every text file that a user may have written is
/// read through this.
///
/// # Errors
/// The bytes are UTF-16 or not text.
pub fn decode(bytes: &[u8]) -> Result<&str, TextError> {
    let plain = without_mark(bytes);
    // UTF-16 text of one script has a zero in every second byte.
    let has_zeros =
        |parity: usize| bytes.len() >= 4 && bytes.iter().take(64).skip(parity).step_by(2).all(|&byte| byte == 0);
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || has_zeros(0) || has_zeros(1) {
        return Err(TextError::Utf16);
    }
    std::str::from_utf8(plain)
        .map_err(|error| TextError::NotUtf8 { at: bytes.len() - plain.len() + error.valid_up_to() })
}

/// Returns `bytes` without the UTF-8 byte order mark.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Quotes `word` for a shell if needed.
pub fn quoted(word: &str) -> String {
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c)) && !word.is_empty();
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests;
