use proptest::prelude::*;

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tables/saved")
}

fn open_bytes(bytes: &[u8]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.arrow");
    std::fs::write(&path, bytes)?;
    let saved = find(&path, None)?;
    let (classified, images) = open(&saved, None, Columns::default(), Orientation::Applied)?;
    for position in 0..classified.classes.len() {
        let _ = images.read(position);
    }
    Ok(())
}

#[test]
fn a_file_that_is_no_stream_says_so() {
    for bytes in [&b""[..], b"\xff\xff\xff\xff", b"PAR1 and more", &[0; 64]] {
        assert!(open_bytes(bytes).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_damaged_stream_is_an_error_or_unreadable_images(cut in 0usize..6000, place in 0usize..6000, value: u8) {
        let whole = std::fs::read(golden().join("test/data-00000-of-00002.arrow")).unwrap();
        let mut bytes = whole.clone();
        bytes.truncate(cut.clamp(1, whole.len()));
        let at = place % bytes.len();
        bytes[at] = value;
        let _ = open_bytes(&bytes);
        let mut bytes = whole;
        let at = place % bytes.len();
        bytes[at] = value;
        let _ = open_bytes(&bytes);
    }
}
