use super::*;

#[test]
fn a_byte_order_mark_is_no_part_of_a_text() {
    assert_eq!(decode("\u{feff}{\"a\": 1}".as_bytes()), Ok("{\"a\": 1}"));
    assert_eq!(decode("katze, größe".as_bytes()), Ok("katze, größe"));
    assert_eq!(decode(b""), Ok(""));
    assert_eq!(decode(b"a"), Ok("a"));
}

#[test]
fn utf_16_is_named_with_its_mark_and_without() {
    let units = |text: &str, swap: bool| -> Vec<u8> {
        text.encode_utf16().flat_map(|unit| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    };
    for swap in [false, true] {
        for text in ["\u{feff}path,label", "path,label"] {
            assert_eq!(decode(&units(text, swap)), Err(TextError::Utf16), "{text:?} {swap}");
        }
    }
}

#[test]
fn another_encoding_is_refused_with_the_place() {
    assert_eq!(decode(b"gr\xf6\xdfe"), Err(TextError::NotUtf8 { at: 2 }));
    assert_eq!(decode(b"\xef\xbb\xbfgr\xf6"), Err(TextError::NotUtf8 { at: 5 }));
    let told = TextError::NotUtf8 { at: 2 }.to_string();
    assert!(told.contains("byte 2") && told.contains("hint"), "{told}");
}
