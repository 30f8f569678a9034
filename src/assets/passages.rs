//! Texts that have nothing to do with any image, for the Modality Integration Rate.

/// One passage per line.
const TEXT: &str = include_str!("../../prompts/mir/passages.txt");

/// A hundred short passages of our own.
pub fn passages() -> Vec<String> {
    TEXT.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
