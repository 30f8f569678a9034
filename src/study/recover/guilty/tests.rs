use super::*;
use crate::chart::diagnosis_samples::{dataset, diagnosis};

#[test]
fn the_component_that_gives_most_of_the_fall_back_is_guilty_and_layers_are_not_components() {
    let found = guilty_components(&diagnosis(vec![dataset("mnist")]), &["mnist".to_owned()]).unwrap();
    assert_eq!(found, [Component::Projector], "layers.28-31 give back more, and attention is within noise");
}

#[test]
fn only_old_datasets_count_and_noise_accuses_nobody() {
    let mut new = dataset("cifar10");
    new.swap.retain(|share| share.component == "mlp");
    let both = diagnosis(vec![dataset("mnist"), new.clone()]);
    assert_eq!(guilty_components(&both, &["mnist".to_owned()]).unwrap(), [Component::Projector]);
    let all = guilty_components(&both, &["elsewhere".to_owned()]).unwrap();
    assert_eq!(all, [Component::Projector, Component::Mlp]);
    new.swap.iter_mut().for_each(|share| share.restore.recovered_interval = Some([-0.1, 0.9]));
    let error = guilty_components(&diagnosis(vec![new.clone()]), &[]).unwrap_err().to_string();
    assert!(error.contains("leave --diagnosis out"), "{error}");
    new.swap.clear();
    let error = guilty_components(&diagnosis(vec![new]), &[]).unwrap_err().to_string();
    assert!(error.contains("swap"), "{error}");
}
