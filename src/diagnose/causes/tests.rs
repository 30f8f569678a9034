use super::super::diagnosis::Restore;
use super::*;

#[test]
fn the_first_cause_that_holds_is_the_cause() {
    let mut indicators = Indicators::default();
    assert_eq!(indicators.cause(false), Cause::Unexplained);
    indicators.note(Cause::Language, true);
    indicators.note(Cause::Perception, false);
    indicators.note(Cause::Wording, true);
    assert_eq!(indicators.cause(false), Cause::Wording);
    indicators.note(Cause::Alignment, true);
    assert_eq!((indicators.cause(false), indicators.cause(true)), (Cause::Alignment, Cause::Wording));
    indicators.note(Cause::Setup, true);
    assert_eq!(indicators.cause(true), Cause::Setup);
    assert!(is_fall_of_wording([0.61, 0.16], [0.61, 0.58]) && !is_fall_of_wording([0.61, 0.16], [0.61, 0.4]));
}

#[test]
fn shares_sum_to_one_and_two_components_that_act_are_both_named() {
    let causes = [Cause::Alignment, Cause::Alignment, Cause::Alignment, Cause::Wording];
    let found = shares(&causes);
    assert_eq!(found[0].cause, Cause::Alignment);
    assert_eq!(found.iter().map(|share| share.n).sum::<usize>(), 4);
    assert!(found[0].evidence.starts_with("3 of 4 lost images are right with"), "{}", found[0].evidence);
    let swap = |component: Component, shapley: f64| SwapShare {
        component: component.name().to_owned(),
        restore: Restore { accuracy: 0.5, recovered: Some(0.7), recovered_interval: None },
        keep: None,
        shapley: Some(shapley),
    };
    let changed: BTreeSet<_> = [Component::Projector, Component::Mlp, Component::Attention].into();
    let both = [swap(Component::Projector, 0.6), swap(Component::Mlp, 0.3), swap(Component::Attention, 0.1)];
    assert_eq!(named(&found, &both, &changed), [Cause::Alignment, Cause::Language]);
    assert_eq!(named(&shares(&[Cause::Wording]), &both, &changed), [Cause::Wording]);
}
