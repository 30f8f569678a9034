use super::*;

#[test]
fn every_code_is_of_the_family_of_its_kind() {
    for code in ErrorCode::ALL {
        let family = Family::of_state(code.name());
        assert!(family != Family::Correct && family != Family::Unscored, "{code:?}");
        assert_eq!(family.name(), code.kind().name().replace('_', " "));
    }
    assert_eq!(Family::of_state("correct"), Family::Correct);
    assert_eq!(Family::of_state("unscored"), Family::Unscored);
}
