//! Which parts of the candidate are evaluated.

use std::collections::BTreeSet;

use crate::domain::{Component, ModelPart};

/// What a variant shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The base with the candidate's changes of these components, and with the candidate's settings. All components are the
    /// candidate itself.
    Components(BTreeSet<Component>),
    /// The candidate with the base's weights of these consecutive layers of the language model.
    WithoutLayers(BTreeSet<usize>),
    /// The candidate's weights with the base's template, pixels and configuration.
    BaseSettings,
    /// The base, or the candidate, without the image.
    Blind {
        /// Whether it is the candidate.
        is_candidate: bool,
    },
}

/// A part of the candidate that is evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The name of its run's folder.
    pub name: String,
    /// The part of the candidate that it uses.
    pub part: ModelPart,
    /// What it shows.
    pub role: Role,
}

/// Plans the variants of a candidate called `name` that changes `changed` in `layers`. The candidate itself comes first; the
/// base is no variant.
///
/// With up to `n_all_subsets` changed components, every subset is evaluated, so that Shapley values exist. With more, each
/// component is restored and kept alone.
pub fn plan_variants(
    name: &str,
    changed: &BTreeSet<Component>,
    layers: &BTreeSet<usize>,
    has_own_settings: bool,
    n_all_subsets: usize,
) -> Vec<Variant> {
    let all: Vec<Component> = changed.iter().copied().collect();
    let mut variants =
        vec![Variant { name: name.to_owned(), part: ModelPart::default(), role: Role::Components(changed.clone()) }];
    for subset in subsets(&all, all.len() <= n_all_subsets) {
        let names: Vec<&str> = subset.iter().map(|component| component.name()).collect();
        let part = ModelPart { components: Some(subset.clone()), ..ModelPart::default() };
        variants.push(Variant { name: format!("only-{}", names.join("+")), part, role: Role::Components(subset) });
    }
    // Restoring the only changed layer is restoring all of the language model.
    if layers.len() > 1 {
        variants.extend(blocks(layers).into_iter().map(|block| Variant {
            name: format!("without-{}", name_of_layers(&block)),
            part: ModelPart { without_layers: block.clone(), ..ModelPart::default() },
            role: Role::WithoutLayers(block),
        }));
    }
    if has_own_settings {
        let part = ModelPart { has_base_settings: true, ..ModelPart::default() };
        variants.push(Variant { name: "base-settings".to_owned(), part, role: Role::BaseSettings });
        // Without own settings, the base itself is the candidate without any component.
        let part = ModelPart { components: Some(BTreeSet::new()), ..ModelPart::default() };
        let role = Role::Components(BTreeSet::new());
        variants.push(Variant { name: "only-settings".to_owned(), part, role });
    }
    let blind = ModelPart { is_blind: true, ..ModelPart::default() };
    let blind_base = ModelPart { components: Some(BTreeSet::new()), has_base_settings: true, ..blind.clone() };
    let role = |is_candidate| Role::Blind { is_candidate };
    variants.push(Variant { name: "blind-base".to_owned(), part: blind_base, role: role(false) });
    variants.push(Variant { name: "blind-candidate".to_owned(), part: blind, role: role(true) });
    variants
}

/// At most this many blocks of layers are restored.
const N_BLOCKS_MAX: usize = 8;

/// Cuts `layers` into at most eight blocks of neighbours, of nearly equal size.
fn blocks(layers: &BTreeSet<usize>) -> Vec<BTreeSet<usize>> {
    let layers: Vec<usize> = layers.iter().copied().collect();
    layers.chunks(layers.len().div_ceil(N_BLOCKS_MAX)).map(|block| block.iter().copied().collect()).collect()
}

/// `layer.3`, or `layers.4-7`.
pub(super) fn name_of_layers(block: &BTreeSet<usize>) -> String {
    match (block.first(), block.last()) {
        (Some(first), Some(last)) if first != last => format!("layers.{first}-{last}"),
        (Some(only), _) => format!("layer.{only}"),
        _ => "layers".to_owned(),
    }
}

/// The proper non-empty subsets of `all`: every one, or those of one component and of all but one.
fn subsets(all: &[Component], is_every: bool) -> Vec<BTreeSet<Component>> {
    if is_every {
        let masks = 1..(1_usize << all.len()) - 1;
        let of = |mask: usize| (0..all.len()).filter(|at| mask & (1 << at) != 0).map(|at| all[at]).collect();
        return masks.map(of).collect();
    }
    let alone = all.iter().map(|&one| BTreeSet::from([one]));
    let without = all.iter().map(|&one| all.iter().copied().filter(|&other| other != one).collect());
    alone.chain(without).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subset_of_few_components_is_evaluated_and_of_many_only_those_next_to_the_ends() {
        let three: BTreeSet<_> = [Component::Projector, Component::Attention, Component::Mlp].into();
        let variants = plan_variants("lora", &three, &[0, 1].into(), false, 5);
        let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(names[0], "lora");
        assert_eq!(names.iter().filter(|name| name.starts_with("only-")).count(), 6);
        assert!(names.contains(&"only-projector+mlp") && names.contains(&"without-layer.1"), "{names:?}");
        assert!(!names.contains(&"base-settings") && names.ends_with(&["blind-base", "blind-candidate"]));
        let all: BTreeSet<_> = Component::ALL.iter().copied().collect();
        let variants = plan_variants("full", &all, &[0].into(), true, 5);
        let is_of_components =
            |variant: &&Variant| variant.name.starts_with("only-") && variant.name != "only-settings";
        assert_eq!(variants.iter().filter(is_of_components).count(), 14);
        for role in [Role::BaseSettings, Role::Components(BTreeSet::new())] {
            assert!(variants.iter().any(|variant| variant.role == role), "{role:?}");
        }
        assert_eq!(blocks(&(0..32).collect()).len(), 8);
        assert_eq!(name_of_layers(&[4, 5, 6, 7].into()), "layers.4-7");
        assert!(variants.iter().all(|variant| !matches!(variant.role, Role::WithoutLayers(_))), "one layer is all");
    }
}
