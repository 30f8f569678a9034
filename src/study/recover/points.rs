//! The points of a recovery: methods at strengths.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use strum::{IntoStaticStr, VariantArray};

use crate::domain::{Component, ModelPart, Share, Strength};

/// A way to weaken a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum RecoveryMethod {
    /// An adapter's change, all by one factor.
    Scale,
    /// A change that grows over the layers (LiNeS).
    Lines,
    /// Between the base and a whole checkpoint (WiSE-FT).
    Interpolate,
}

impl RecoveryMethod {
    /// All methods.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name, as flags and files have it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Reads a list of names.
    ///
    /// # Errors
    /// A name is unknown or occurs twice, or there is none.
    pub fn parse_list(list: &str) -> Result<Vec<Self>> {
        let known: Vec<&str> = Self::ALL.iter().map(|method| method.name()).collect();
        let mut methods = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let Some(method) = Self::ALL.iter().find(|method| method.name() == name) else {
                bail!("--methods names `{name}`, which is not a method; hint: {}", known.join(", "));
            };
            ensure!(!methods.contains(method), "--methods names `{name}` twice");
            methods.push(*method);
        }
        ensure!(!methods.is_empty(), "--methods names no method; hint: {}", known.join(", "));
        Ok(methods)
    }

    /// The methods for a candidate where nobody chooses: those that can be written.
    pub fn defaults(is_whole: bool) -> Vec<Self> {
        if is_whole { vec![Self::Interpolate, Self::Lines] } else { vec![Self::Scale, Self::Lines] }
    }

    /// The strength of a candidate at `share`.
    fn at(self, share: Share) -> Strength {
        match self {
            Self::Scale | Self::Interpolate => Strength::Scale(share),
            Self::Lines => Strength::lines(share),
        }
    }
}

/// Reads a list of strengths, such as `0,0.25,0.5`, or `0,0.1,..,1`: from the first to the last in equal steps.
///
/// # Errors
/// A strength is no number from 0 to 1, or there is none above 0.
pub fn parse_strengths(list: &str) -> Result<Vec<Share>> {
    let texts: Vec<&str> = list.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    let share = |text: &str| {
        let number: Option<f64> = text.parse().ok();
        let share = number.and_then(|number| Share::new(number).ok());
        share.ok_or_else(|| anyhow::anyhow!("--strengths: `{text}` is not a number from 0 to 1"))
    };
    let mut strengths = match texts[..] {
        [first, second, ".." | "...", last] => {
            let [first, second, last] = [share(first)?, share(second)?, share(last)?];
            let step = second.value() - first.value();
            let n_steps = ((last.value() - first.value()) / step).round();
            let is_even = step > 0.0 && (first.value() + n_steps * step - last.value()).abs() < 1e-6;
            ensure!(
                is_even && n_steps <= 1000.0,
                "--strengths {list}: equal steps of {step} do not lead from {first} to {last}"
            );
            (0..=n_steps as usize).map(|at| Ok(Share::new((first.value() + at as f64 * step).min(1.0))?)).collect()
        }
        _ => texts.iter().map(|text| share(text)).collect::<Result<Vec<Share>>>(),
    }?;
    strengths.sort_by(|a, b| a.value().total_cmp(&b.value()));
    strengths.dedup();
    ensure!(
        strengths.iter().any(|share| *share != Share::NONE),
        "--strengths {list}: there is none above 0; hint: 0,0.1,..,1"
    );
    Ok(strengths)
}

/// A point before it is evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPoint {
    /// How the candidate is weakened.
    pub method: RecoveryMethod,
    /// The strength.
    pub strength: Share,
    /// What is left as in the base.
    pub left_out: BTreeSet<Component>,
    /// The part of the candidate.
    pub part: ModelPart,
}

impl PlannedPoint {
    /// The name of its run's folder.
    pub fn name(&self) -> String {
        let without = self.component().map_or_else(String::new, |component| format!("-without-{component}"));
        format!("{}-{}{without}", self.method.name(), self.strength)
    }

    /// What is left as in the base, as files name it.
    pub fn component(&self) -> Option<String> {
        let names: Vec<&str> = self.left_out.iter().map(|component| component.name()).collect();
        (!names.is_empty()).then(|| names.join("+"))
    }

    /// Whether it is the base's weights.
    pub fn is_base(&self) -> bool {
        self.part.strength.is_some_and(|strength| strength.is_none())
    }
}

/// What is known of a candidate before it is weakened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weakened {
    /// Whether it is a whole checkpoint.
    pub is_whole: bool,
    /// The components that it changes.
    pub changed: BTreeSet<Component>,
}

/// Plans the points: every method at every strength, and the first method without each of the components `guilty`, and without
/// all of them. A point that equals an earlier one is left out.
///
/// # Errors
/// A method does not fit the candidate, or it does not change a component that is left out.
pub fn plan_points(
    candidate: &Weakened,
    methods: &[RecoveryMethod],
    strengths: &[Share],
    guilty: &[Component],
) -> Result<Vec<PlannedPoint>> {
    check_methods(candidate, methods)?;
    let mut left_out = vec![BTreeSet::new()];
    for component in guilty {
        ensure!(
            candidate.changed.contains(component),
            "the diagnosis names the {} as guilty, and the candidate does not change it; hint: --diagnosis is the folder of \
             a diagnosis of this candidate",
            component.name()
        );
        left_out.push(BTreeSet::from([*component]));
    }
    if guilty.len() > 1 {
        left_out.push(guilty.iter().copied().collect());
    }
    let mut points: Vec<PlannedPoint> = Vec::new();
    for left_out in left_out {
        let kept: BTreeSet<Component> = candidate.changed.difference(&left_out).copied().collect();
        if kept.is_empty() {
            continue;
        }
        let n_methods = if left_out.is_empty() { methods.len() } else { 1 };
        for (method, share) in
            methods[..n_methods].iter().flat_map(|method| strengths.iter().map(move |at| (method, at)))
        {
            let strength = Some(method.at(*share)).filter(|strength| !strength.is_whole());
            let is_base = strength.is_some_and(|strength| strength.is_none());
            let components = (!left_out.is_empty()).then(|| kept.clone());
            let part = ModelPart { components, strength, ..ModelPart::default() };
            if points.iter().any(|other| other.part == part || is_base && other.is_base()) {
                continue;
            }
            points.push(PlannedPoint { method: *method, strength: *share, left_out: left_out.clone(), part });
        }
    }
    Ok(points)
}

fn check_methods(candidate: &Weakened, methods: &[RecoveryMethod]) -> Result<()> {
    if candidate.is_whole && methods.contains(&RecoveryMethod::Scale) {
        bail!(
            "`scale` is for adapters, and the candidate is a whole checkpoint; hint: --methods interpolate, which goes from the \
             base to a checkpoint"
        );
    }
    if !candidate.is_whole && methods.contains(&RecoveryMethod::Interpolate) {
        bail!(
            "`interpolate` is for whole checkpoints, and the candidate is an adapter; hint: --methods scale, which is the same \
             line for an adapter"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
