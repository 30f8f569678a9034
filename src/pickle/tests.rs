use proptest::prelude::*;

use super::*;

/// A format that knows one name and has no outside references.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Echo;

impl Global for Echo {
    const HAS_OUTSIDE: bool = false;

    fn named(module: &str, name: &str) -> anyhow::Result<Self> {
        if (module, name) == ("builtins", "echo") { Ok(Self) } else { bail!("`{module}.{name}` is refused") }
    }
}

fn error(bytes: &[u8]) -> String {
    format!("{:#}", Pickle::<Echo>::parse(bytes).err().unwrap())
}

#[test]
fn a_name_that_the_format_does_not_know_is_refused_with_its_place() {
    assert_eq!(error(b"cos\nsystem\n(S'true'\ntR."), "at byte 0 of the pickle: `os.system` is refused");
    assert!(error(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.").contains("`builtins.eval`"));
}

#[test]
fn a_known_name_is_written_down_and_not_called() {
    let pickle = Pickle::<Echo>::parse(b"cbuiltins\necho\n(K\x07tR}b.").unwrap();
    let Value::Call(call) = pickle.value(pickle.root()) else { panic!("no call") };
    assert_eq!(call.function, Echo);
    assert_eq!(pickle.sizes(call.arguments).unwrap(), [7]);
    assert!(matches!(pickle.value(call.state.unwrap()), Value::Dict(_)));
}

#[test]
fn every_other_way_to_run_code_is_an_unknown_opcode() {
    // INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, PERSID, BINPERSID.
    for opcode in [b'i', b'o', 0x81, 0x92, 0x82, b'P', b'Q'] {
        let error = error(&[b'(', b'N', b'N', opcode, b'\n', b'.']);
        assert!(error.contains("opcode"), "{error}");
    }
}

#[test]
fn text_keys_and_byte_keys_are_the_same_key() {
    // {'labels': [3, 8]} in protocol 2 by Python 2 (SHORT_BINSTRING) and by Python 3 (BINUNICODE).
    for key in [&b"U\x06labels"[..], &b"X\x06\0\0\0labels"[..]] {
        let bytes = [b"\x80\x02}".as_slice(), key, b"](K\x03K\x08es."].concat();
        let pickle = Pickle::<Echo>::parse(&bytes).unwrap();
        assert_eq!(pickle.sizes(pickle.entry(pickle.root(), "labels").unwrap()).unwrap(), [3, 8]);
    }
}

#[test]
fn a_list_that_holds_itself_does_no_harm() {
    let pickle = Pickle::<Echo>::parse(b"]q\x00h\x00a.").unwrap();
    assert_eq!(pickle.items(pickle.root()).unwrap(), [pickle.root()]);
}

#[test]
fn deep_nesting_does_no_harm() {
    let mut bytes = vec![b')'];
    bytes.extend(std::iter::repeat_n(0x85, 1_000_000));
    bytes.push(b'.');
    assert!(Pickle::<Echo>::parse(&bytes).is_ok());
}

#[test]
fn a_truncated_pickle_says_so() {
    let error = error(b"X\x06\0\0\0lab");
    assert!(error.contains("ends too early") && error.contains("hint:"), "{error}");
}

proptest! {
    #[test]
    fn random_opcodes_never_panic(
        opcodes in proptest::collection::vec(prop_oneof![
            proptest::sample::select(b"(012NIJKMUTBCXc\x93Rbpqrghj]})ltdaesu.\x85\x86\x87\x88\x89\x8a\x8c\x94\x95\n".to_vec()),
            any::<u8>(),
        ], 0..200),
    ) {
        if let Ok(pickle) = Pickle::<Echo>::parse(&opcodes) {
            let _ = pickle.sizes(pickle.root());
            let _ = pickle.text(pickle.root());
            let _ = pickle.entry(pickle.root(), "data");
        }
    }
}
