use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = Model::parse(&bytes);
    }
}

#[test]
fn merges_are_ordered_by_the_score_of_their_result() {
    let piece = |text: &str, score| Piece { text: text.into(), score, kind: PieceKind::Normal };
    let pieces = vec![
        piece("abc", -2.0),
        piece("ab", -1.0),
        piece("a", -3.0),
        piece("b", -4.0),
        piece("c", -5.0),
        piece("bc", -3.0),
    ];
    let model = Model {
        pieces,
        is_unigram: false,
        has_byte_fallback: false,
        charsmap: Vec::new(),
        unk_id: None,
        bos_id: None,
        eos_id: None,
        pad_id: None,
    };
    assert_eq!(model.merges(), [["a", "b"], ["ab", "c"], ["a", "bc"], ["b", "c"]]);
}
