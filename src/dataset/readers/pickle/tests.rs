use proptest::prelude::*;

use super::*;

/// `numpy.array([[1, 2, 255]], dtype)` in protocol 2 of Python 3, whose data is latin-1 text.
fn pickled(dtype: &str, sides: [u8; 2]) -> Vec<u8> {
    let mut bytes = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R".to_vec();
    bytes.extend([b'(', b'K', 1, b'K', sides[0], b'K', sides[1], 0x86]);
    bytes.extend(b"cnumpy\ndtype\nX");
    bytes.extend(u32::try_from(dtype.len()).unwrap().to_le_bytes());
    bytes.extend(dtype.as_bytes());
    bytes.extend(b"\x88\x89\x87R(K\x03X\x01\0\0\0|NNNtb\x89c_codecs\nencode\nX\x04\0\0\0\x01\x02\xc3\xbf");
    bytes.extend(b"X\x06\0\0\0latin1\x86Rtb.");
    bytes
}

#[test]
fn an_array_has_its_shape_and_bytes() {
    let bytes = pickled("u1", [1, 3]);
    let pickle = parse(&bytes).unwrap();
    let (shape, data) = array(&pickle, pickle.root()).unwrap();
    assert_eq!((shape, data.as_ref()), (vec![1, 3], [1, 2, 255].as_slice()));
}

#[test]
fn an_array_that_is_not_what_it_says_is_refused() {
    for (bytes, said) in [(pickled("u1", [2, 3]), "3 bytes"), (pickled("<f4", [1, 3]), "`<f4`, but u1")] {
        let pickle = parse(&bytes).unwrap();
        let error = format!("{:#}", array(&pickle, pickle.root()).unwrap_err());
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_pickle_that_wants_to_call_something_is_refused_by_name() {
    let error = format!("{:#}", parse(b"cos\nsystem\n(S'true'\ntR.").err().unwrap());
    assert!(error.contains("`os.system`") && error.contains("nothing was executed"), "{error}");
}

proptest! {
    #[test]
    fn a_damaged_array_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = pickled("u1", [1, 3]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(pickle) = parse(&bytes) {
            let _ = array(&pickle, pickle.root());
        }
    }
}
