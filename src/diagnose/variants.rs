//! Which models a diagnosis evaluates: parts of the candidate, and both models with restricted attention.

use std::collections::BTreeSet;

use super::Probe;
use crate::domain::{Component, ImageAttention, MergedType, ModelPart};

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
    /// The base, or the candidate, with fewer positions of the image from a layer on.
    Truncated {
        /// Whether it is the candidate.
        is_candidate: bool,
        /// The first layer that sees fewer.
        from_layer: usize,
        /// The positions that are kept.
        n_kept: usize,
    },
    /// The base, or the candidate, if positions of the image attend to themselves only.
    Composite {
        /// Whether it is the candidate.
        is_candidate: bool,
    },
    /// The candidate with merged weights.
    Merged(MergedType),
}

impl Role {
    /// The probe that asks for it; `None` for the candidate itself.
    pub fn probe(&self, changed: &BTreeSet<Component>) -> Option<Probe> {
        match self {
            Self::Components(components) if components == changed => None,
            Self::Components(_) | Self::WithoutLayers(_) | Self::BaseSettings => Some(Probe::Swap),
            Self::Blind { .. } => Some(Probe::Reliance),
            Self::Truncated { .. } => Some(Probe::Truncation),
            Self::Composite { .. } => Some(Probe::Composite),
            Self::Merged(_) => Some(Probe::Merge),
        }
    }
}

/// A model that is evaluated next to the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The name of its run's folder.
    pub name: String,
    /// The part of the candidate that it uses.
    pub part: ModelPart,
    /// What it shows.
    pub role: Role,
}

/// What is known of a candidate before it is evaluated.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The name of its run's folder.
    pub name: &'a str,
    /// The components that it changes.
    pub changed: &'a BTreeSet<Component>,
    /// The layers of the language model that it changes.
    pub layers: &'a BTreeSet<usize>,
    /// Whether it has a template, pixels or a configuration of its own.
    pub has_own_settings: bool,
    /// Whether it has an update that can be merged.
    pub has_update: bool,
    /// The layers of the language model.
    pub n_layers: usize,
    /// The greatest number of positions of an image.
    pub n_image_positions: usize,
    /// Whether there is no candidate: the base stands for both.
    pub is_alone: bool,
}

/// With up to this many changed components, every subset of them is evaluated, so that Shapley values exist.
const N_ALL_SUBSETS: usize = 5;
/// Blocks of layers that are restored, at most.
const N_BLOCKS: usize = 8;
/// Models of the probe `swap` if all probes together should cost at most twelve passes per image: six others are those of base,
/// candidate, both without the image, and both on the base's answers.
const N_SWAPS_QUICK: usize = 6;

/// Which parts the probe `swap` evaluates.
#[derive(Clone, Copy)]
enum Subsets {
    /// Every subset of the changed components.
    All,
    /// Each component restored, and each kept alone.
    NextToTheEnds,
    /// Each component restored.
    Restored,
}

/// Plans the variants of `candidate` for `probes`. The candidate itself comes first; the base is no variant.
pub fn plan_variants(candidate: &Candidate<'_>, probes: &BTreeSet<Probe>) -> Vec<Variant> {
    let role = Role::Components(candidate.changed.clone());
    let mut variants = vec![Variant { name: candidate.name.to_owned(), part: ModelPart::default(), role }];
    let is_quick = probes.iter().eq(Probe::QUICK);
    if probes.contains(&Probe::Swap) {
        let n_changed = candidate.changed.len();
        let (subsets, n_blocks) = match is_quick {
            true => quick_swaps(n_changed, candidate.has_own_settings),
            false if n_changed <= N_ALL_SUBSETS => (Subsets::All, N_BLOCKS),
            false => (Subsets::NextToTheEnds, N_BLOCKS),
        };
        variants.extend(swaps(candidate, subsets, n_blocks));
    }
    // Causes need the answers without the image.
    if probes.contains(&Probe::Swap) || probes.contains(&Probe::Reliance) || probes.contains(&Probe::Truncation) {
        variants.extend([false, true].map(|is_candidate| Variant {
            name: format!("blind-{}", side(is_candidate)),
            part: ModelPart { is_blind: true, ..whole(is_candidate) },
            role: Role::Blind { is_candidate },
        }));
    }
    if probes.contains(&Probe::Truncation) {
        variants.extend(truncations(candidate.n_layers, candidate.n_image_positions));
    }
    if probes.contains(&Probe::Composite) {
        variants.extend([false, true].map(|is_candidate| Variant {
            name: format!("composite-{}", side(is_candidate)),
            part: ModelPart { image_attention: ImageAttention::SelfOnly(None), ..whole(is_candidate) },
            role: Role::Composite { is_candidate },
        }));
    }
    if probes.contains(&Probe::Merge) && candidate.has_update {
        variants.extend(MergedType::ALL.iter().map(|&merged_as| Variant {
            name: format!("merged-{}", merged_as.name()),
            part: ModelPart { merged_as: Some(merged_as), ..ModelPart::default() },
            role: Role::Merged(merged_as),
        }));
    }
    if candidate.is_alone {
        let is_of_candidate = |role: &Role| {
            matches!(
                role,
                Role::Blind { is_candidate: true }
                    | Role::Truncated { is_candidate: true, .. }
                    | Role::Composite { is_candidate: true }
            )
        };
        variants.retain(|variant| !is_of_candidate(&variant.role));
    }
    variants
}

/// The subsets and the blocks of layers that [`N_SWAPS_QUICK`] models allow.
fn quick_swaps(n_changed: usize, has_own_settings: bool) -> (Subsets, usize) {
    let budget = N_SWAPS_QUICK - if has_own_settings { 2 } else { 0 };
    let n_all = (1_usize << n_changed.min(16)).saturating_sub(2);
    let (subsets, n_used) = if n_all <= budget { (Subsets::All, n_all) } else { (Subsets::Restored, n_changed) };
    // One block is all layers.
    let n_blocks = budget.saturating_sub(n_used).min(2);
    (subsets, if n_blocks < 2 { 0 } else { n_blocks })
}

fn side(is_candidate: bool) -> &'static str {
    if is_candidate { "candidate" } else { "base" }
}

/// All of the candidate, or nothing of it: the base.
fn whole(is_candidate: bool) -> ModelPart {
    match is_candidate {
        true => ModelPart::default(),
        false => ModelPart { components: Some(BTreeSet::new()), has_base_settings: true, ..ModelPart::default() },
    }
}

/// Parts of the candidate over the base.
fn swaps(candidate: &Candidate<'_>, which: Subsets, n_blocks: usize) -> Vec<Variant> {
    let all: Vec<Component> = candidate.changed.iter().copied().collect();
    let mut variants = Vec::new();
    for subset in subsets(&all, which) {
        let names: Vec<&str> = subset.iter().map(|component| component.name()).collect();
        let part = ModelPart { components: Some(subset.clone()), ..ModelPart::default() };
        variants.push(Variant { name: format!("only-{}", names.join("+")), part, role: Role::Components(subset) });
    }
    // Restoring the only changed layer is restoring all of the language model.
    if candidate.layers.len() > 1 && n_blocks > 0 {
        variants.extend(blocks(candidate.layers, n_blocks).into_iter().map(|block| Variant {
            name: format!("without-{}", name_of_layers(&block)),
            part: ModelPart { without_layers: block.clone(), ..ModelPart::default() },
            role: Role::WithoutLayers(block),
        }));
    }
    if candidate.has_own_settings {
        let part = ModelPart { has_base_settings: true, ..ModelPart::default() };
        variants.push(Variant { name: "base-settings".to_owned(), part, role: Role::BaseSettings });
        // Without own settings, the base itself is the candidate without any component.
        let part = ModelPart { components: Some(BTreeSet::new()), ..ModelPart::default() };
        let role = Role::Components(BTreeSet::new());
        variants.push(Variant { name: "only-settings".to_owned(), part, role });
    }
    variants
}

/// Both models with fewer positions of the image. Nothing kept from layer 0 on is the blind model, and all kept is the whole.
fn truncations(n_layers: usize, n_image_positions: usize) -> Vec<Variant> {
    let mut variants = Vec::new();
    for is_candidate in [false, true] {
        for from_layer in truncated_layers(n_layers).into_iter().filter(|&layer| layer > 0) {
            for n_kept in kept_positions(n_image_positions).into_iter().filter(|&n| n < n_image_positions) {
                variants.push(Variant {
                    name: format!("{}-from-{from_layer}-{n_kept}", side(is_candidate)),
                    part: ModelPart {
                        image_attention: ImageAttention::Truncated { from_layer, n_kept },
                        ..whole(is_candidate)
                    },
                    role: Role::Truncated { is_candidate, from_layer, n_kept },
                });
            }
        }
    }
    variants
}

/// The layers from which on fewer positions are seen: 0, 1, and the quarters of the model.
pub fn truncated_layers(n_layers: usize) -> Vec<usize> {
    let mut layers: Vec<usize> = [0, 1, n_layers / 4, n_layers / 2, 3 * n_layers / 4].to_vec();
    layers.retain(|&layer| layer < n_layers);
    layers.sort_unstable();
    layers.dedup();
    layers
}

/// The numbers of positions that are kept: none, an eighth, a quarter, half, and all.
pub fn kept_positions(n_image_positions: usize) -> Vec<usize> {
    let mut kept: Vec<usize> =
        [0, n_image_positions / 8, n_image_positions / 4, n_image_positions / 2, n_image_positions].to_vec();
    kept.dedup();
    kept
}

/// Cuts `layers` into at most `n_blocks` blocks of neighbours, of nearly equal size.
fn blocks(layers: &BTreeSet<usize>, n_blocks: usize) -> Vec<BTreeSet<usize>> {
    let layers: Vec<usize> = layers.iter().copied().collect();
    layers.chunks(layers.len().div_ceil(n_blocks)).map(|block| block.iter().copied().collect()).collect()
}

/// `layer.3`, or `layers.4-7`.
pub(super) fn name_of_layers(block: &BTreeSet<usize>) -> String {
    match (block.first(), block.last()) {
        (Some(first), Some(last)) if first != last => format!("layers.{first}-{last}"),
        (Some(only), _) => format!("layer.{only}"),
        _ => "layers".to_owned(),
    }
}

/// Proper non-empty subsets of `all`.
fn subsets(all: &[Component], which: Subsets) -> Vec<BTreeSet<Component>> {
    let without = all.iter().map(|&one| all.iter().copied().filter(|&other| other != one).collect::<BTreeSet<_>>());
    let mut found: Vec<BTreeSet<Component>> = match which {
        Subsets::All => {
            let masks = 1..(1_usize << all.len()) - 1;
            let of = |mask: usize| (0..all.len()).filter(|at| mask & (1 << at) != 0).map(|at| all[at]).collect();
            masks.map(of).collect()
        }
        Subsets::NextToTheEnds => all.iter().map(|&one| BTreeSet::from([one])).chain(without).collect(),
        Subsets::Restored => without.collect(),
    };
    // The candidate without its only component is the base.
    found.retain(|subset| !subset.is_empty());
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A candidate of two layers that changes `changed`.
    pub(in super::super) fn candidate<'a>(
        changed: &'a BTreeSet<Component>,
        layers: &'a BTreeSet<usize>,
        has_own_settings: bool,
    ) -> Candidate<'a> {
        Candidate {
            name: "lora",
            changed,
            layers,
            has_own_settings,
            has_update: true,
            n_layers: 4,
            n_image_positions: 64,
            is_alone: false,
        }
    }

    #[test]
    fn every_subset_of_few_components_is_evaluated_and_of_many_only_those_next_to_the_ends() {
        let three: BTreeSet<_> = [Component::Projector, Component::Attention, Component::Mlp].into();
        let swap = [Probe::Swap].into();
        let variants = plan_variants(&candidate(&three, &[0, 1].into(), false), &swap);
        let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(names[0], "lora");
        assert_eq!(names.iter().filter(|name| name.starts_with("only-")).count(), 6);
        assert!(names.contains(&"only-projector+mlp") && names.contains(&"without-layer.1"), "{names:?}");
        assert!(!names.contains(&"base-settings") && names.ends_with(&["blind-base", "blind-candidate"]));
        let all: BTreeSet<_> = Component::ALL.iter().copied().collect();
        let variants = plan_variants(&candidate(&all, &[0].into(), true), &swap);
        let is_of_components =
            |variant: &&Variant| variant.name.starts_with("only-") && variant.name != "only-settings";
        assert_eq!(variants.iter().filter(is_of_components).count(), 14);
        for role in [Role::BaseSettings, Role::Components(BTreeSet::new())] {
            assert!(variants.iter().any(|variant| variant.role == role), "{role:?}");
        }
        assert_eq!(blocks(&(0..32).collect(), 8).len(), 8);
        assert_eq!(name_of_layers(&[4, 5, 6, 7].into()), "layers.4-7");
        assert!(variants.iter().all(|variant| !matches!(variant.role, Role::WithoutLayers(_))), "one layer is all");
    }

    #[test]
    fn quick_probes_of_a_candidate_with_up_to_six_components_cost_at_most_twelve_passes() {
        let quick: BTreeSet<_> = Probe::QUICK.iter().copied().collect();
        let layers: BTreeSet<usize> = (0..32).collect();
        for (n_changed, has_own_settings) in (1..=6).flat_map(|n| [(n, false), (n, true)]) {
            let changed: BTreeSet<_> = Component::ALL[..n_changed].iter().copied().collect();
            let variants = plan_variants(&candidate(&changed, &layers, has_own_settings), &quick);
            // With the base and both passes over its answers.
            let n_passes = 1 + variants.len() + 2;
            assert!(
                n_passes <= 12 || (n_changed > 4 && has_own_settings),
                "{n_changed} {has_own_settings}: {n_passes}"
            );
            let rest = |one: &Component| changed.iter().copied().filter(|other| other != one).collect::<BTreeSet<_>>();
            let is_restored = |one: &Component| {
                rest(one).is_empty() || variants.iter().any(|variant| variant.role == Role::Components(rest(one)))
            };
            assert!(changed.iter().all(is_restored), "{n_changed} {has_own_settings}");
        }
    }

    #[test]
    fn each_probe_adds_its_models_and_all_probes_of_a_full_fine_tune_fit_into_one_evaluation() {
        let two: BTreeSet<_> = [Component::Attention, Component::Mlp].into();
        let layers = [0, 1].into();
        let names = |probes: &[Probe]| -> Vec<String> {
            let probes = probes.iter().copied().collect();
            plan_variants(&candidate(&two, &layers, false), &probes).into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(&[Probe::Lens]), ["lora"]);
        assert_eq!(names(&[Probe::Composite]), ["lora", "composite-base", "composite-candidate"]);
        assert_eq!(names(&[Probe::Merge]), ["lora", "merged-f32", "merged-bf16", "merged-f16"]);
        let truncated = names(&[Probe::Truncation]);
        assert!(truncated.contains(&"base-from-1-8".to_owned()) && truncated.contains(&"blind-base".to_owned()));
        assert_eq!(truncated.len(), 1 + 2 + 2 * 3 * 4);
        assert_eq!((truncated_layers(32), kept_positions(576)), (vec![0, 1, 8, 16, 24], vec![0, 72, 144, 288, 576]));
        let five: BTreeSet<_> = Component::ALL[..5].iter().copied().collect();
        let all = Probe::ALL.iter().copied().collect();
        let variants = plan_variants(&Candidate { n_layers: 32, ..candidate(&five, &(0..32).collect(), true) }, &all);
        assert!(variants.len() > 60, "{}", variants.len());
    }
}
