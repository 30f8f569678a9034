use super::*;

#[test]
fn a_choice_is_called_by_the_judges_that_it_asks() {
    for &mode in JudgeMode::ALL {
        let judges: Vec<&str> = mode.judges().iter().map(|judge| judge.name()).collect();
        assert_eq!(mode.name(), judges.join("+"));
        assert_eq!(JudgeMode::named(mode.name()), Some(mode));
    }
    assert_eq!(JudgeMode::named("llm+rules"), None);
}
