use super::super::Probe;
use super::super::variants::plan_variants;
use super::super::variants::tests::candidate;
use super::*;

#[test]
fn parts_that_lose_only_together_share_the_fall_and_each_restores_all_of_it() {
    let changed: BTreeSet<_> = [Component::Attention, Component::Mlp].into();
    let layers = [0].into();
    let variants = plan_variants(&candidate(&changed, &layers, false), &[Probe::Swap].into());
    let right = |n: usize| (0..10).map(|image| image < n).collect::<Vec<bool>>();
    let n_right = |variant: &Variant| match &variant.role {
        Role::Components(components) if components.len() == 2 => 2,
        _ => 8,
    };
    let rights = Rights { base: right(8), variants: variants.iter().map(|it| right(n_right(it))).collect() };
    let shares = shares(&changed, &variants, &rights, 7);
    assert_eq!(shares.len(), 2);
    for share in shares {
        assert_eq!(share.restore.recovered, Some(1.0));
        assert_eq!(share.keep.unwrap().caused, Some(0.0));
        assert!((share.shapley.unwrap() - 0.5).abs() < 1e-12);
    }
}

#[test]
fn without_a_fall_there_are_no_shares_and_the_interval_holds_the_share() {
    let changed: BTreeSet<_> = [Component::Projector].into();
    let layers = BTreeSet::new();
    let variants = plan_variants(&candidate(&changed, &layers, false), &[Probe::Swap].into());
    let same = vec![true; 6];
    let rights = Rights { base: same.clone(), variants: variants.iter().map(|_| same.clone()).collect() };
    let found = shares(&changed, &variants, &rights, 7);
    assert_eq!((found[0].restore.recovered, found[0].shapley), (None, None));
    let lost: Vec<bool> = (0..60).map(|image| image % 3 == 0).collect();
    let half: Vec<bool> = (0..60).map(|image| image % 3 == 0 || image % 2 == 0).collect();
    let mut rights = Rights { base: vec![true; 60], variants: variants.iter().map(|_| lost.clone()).collect() };
    rights.variants[1] = half.clone();
    let Restore { recovered, recovered_interval, .. } = rights.restore(&half, 7);
    let ([low, high], recovered) = (recovered_interval.unwrap(), recovered.unwrap());
    assert!((recovered - 0.5).abs() < 1e-12 && low < 0.5 && high > 0.5, "{low} {recovered} {high}");
}
