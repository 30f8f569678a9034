//! A decoded image.

/// An image of 8-bit RGB rows, top to bottom, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// Wraps `pixels` of length `width * height * 3`; `None` if the length differs or a side is 0.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Option<Self> {
        let n_bytes = (width as usize).checked_mul(height as usize)?.checked_mul(3)?;
        (n_bytes > 0 && pixels.len() == n_bytes).then_some(Self { width, height, pixels })
    }

    /// Converts `width * height` grey levels, each repeated as red, green and blue.
    pub fn from_grey(width: u32, height: u32, grey: &[u8]) -> Option<Self> {
        Self::new(width, height, grey.iter().flat_map(|&level| [level; 3]).collect())
    }

    /// Creates a black image; a side of 0 becomes 1.
    pub fn blank(width: u32, height: u32) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Self { width, height, pixels: vec![0; width as usize * height as usize * 3] }
    }

    /// The width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The rows, `(height, width, 3)`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Returns the identity of the image: `blake3:` and the hex hash of (width u32 LE, height u32 LE, RGB8 rows).
    pub fn content(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.width.to_le_bytes());
        hasher.update(&self.height.to_le_bytes());
        hasher.update(&self.pixels);
        format!("blake3:{}", hasher.finalize().to_hex())
    }
}

#[cfg(test)]
mod tests;
