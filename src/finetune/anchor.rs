//! What pulls trained weights back to the base's: elastic weight consolidation (Kirkpatrick et al. 2017) and L2-SP (Li et al.
//! 2018).
//!
//! Both add `strength / 2 * sum(importance * change^2)` to the loss. For a tensor that trains as a whole, the change is its
//! difference from the base's. For a low-rank update it is the product `scale * B A`: the factors themselves have no value in
//! the base, and the importance of A is 0 while B is.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{Tensor, Var};

use super::arms::{Base, FIRST};
use super::trainable::{Parameter, Trainable};
use crate::model::checkpoint::overlay::Overlay;
use crate::model::layers::CALIBRATION;

/// The pull on all trained tensors.
pub struct Anchor {
    terms: Vec<Term>,
}

/// The pull on one change. Places are those of [`Trainable::parameters`].
enum Term {
    Whole { place: usize, base: Tensor, strength: Strength },
    Update { first: usize, second: usize, scale: f64, strength: Strength },
}

/// How strongly each weight is pulled.
#[derive(Clone)]
struct Strength {
    /// Of all weights.
    of_all: f64,
    /// By weight, in the shape of the change; `None` is 1.
    importance: Option<Tensor>,
}

/// The weights of the base that a training changes: what importance is measured of.
pub struct Anchored {
    variables: BTreeMap<String, Var>,
}

impl Anchored {
    /// The base's tensors that `trainable` changes.
    ///
    /// # Errors
    /// It changes none, as virtual tokens alone do not.
    pub fn new(trainable: &Trainable, base: &Base<'_>) -> Result<Self> {
        let mut variables = BTreeMap::new();
        for Parameter { name, variable } in trainable.parameters() {
            let name = match name.strip_suffix(FIRST) {
                Some(module) => format!("{module}.weight"),
                None if name.ends_with(super::arms::SECOND) => continue,
                None => name.clone(),
            };
            if let Some(value) = of_base(&name, base, variable)? {
                variables.insert(name, Var::from_tensor(&value)?);
            }
        }
        ensure!(
            !variables.is_empty(),
            "--ewc and --l2-sp pull weights back to the base's, and virtual tokens have no value there; hint: --keep-base and \
             --replay go with any method"
        );
        Ok(Self { variables })
    }

    /// An overlay of the variables, which have the base's values.
    pub fn overlay(&self) -> Overlay {
        let replaced = self.variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone()));
        Overlay::new(BTreeMap::new(), replaced.collect(), false)
    }

    /// The variables by name.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.variables
    }
}

/// Returns the base's value of a trained tensor; `None` if the base has nothing like it.
fn of_base(name: &str, base: &Base<'_>, trained: &Var) -> Result<Option<Tensor>> {
    if base.weights.contains(name) {
        return Ok(Some(base.tensor(name)?));
    }
    // A calibration of 1 and 0 is the base.
    match CALIBRATION.iter().position(|leaf| name.ends_with(leaf)) {
        Some(0) => Ok(Some(trained.ones_like()?)),
        Some(_) => Ok(Some(trained.zeros_like()?)),
        None => Ok(None),
    }
}

impl Anchor {
    /// Pulls every changed weight with the strength `of_all`, times its `importance` by the base's tensor if given.
    ///
    /// # Errors
    /// As [`Anchored::new`].
    pub fn new(
        trainable: &Trainable,
        base: &Base<'_>,
        of_all: f64,
        importance: Option<&BTreeMap<String, Tensor>>,
    ) -> Result<Self> {
        let anchored = Anchored::new(trainable, base)?;
        let strength = |name: &str| Strength { of_all, importance: importance.and_then(|all| all.get(name)).cloned() };
        let lora = trainable.config().lora;
        let place_of: BTreeMap<&str, usize> =
            trainable.parameters().iter().enumerate().map(|(place, p)| (p.name.as_str(), place)).collect();
        let mut terms = Vec::new();
        for (name, &place) in &place_of {
            if let Some(module) = name.strip_suffix(FIRST) {
                let Some(&second) = place_of.get(format!("{module}{}", super::arms::SECOND).as_str()) else { continue };
                let strength = strength(&format!("{module}.weight"));
                terms.push(Term::Update { first: place, second, scale: lora.alpha / lora.rank as f64, strength });
            } else if let Some(base) = anchored.variables.get(*name) {
                terms.push(Term::Whole { place, base: base.as_detached_tensor(), strength: strength(name) });
            }
        }
        Ok(Self { terms })
    }

    /// Returns the penalty, and adds its gradients to `gradients`, one per parameter.
    ///
    /// # Errors
    /// A device failure.
    pub fn add_to(&self, parameters: &[Parameter], gradients: &mut [Tensor]) -> Result<f64> {
        let value = |place: usize| parameters[place].variable.as_detached_tensor();
        let mut penalty = 0.0;
        for term in &self.terms {
            match term {
                Term::Whole { place, base, strength } => {
                    let (of_term, pull) = strength.of(&(value(*place) - base)?)?;
                    penalty += of_term;
                    gradients[*place] = (&gradients[*place] + pull)?;
                }
                Term::Update { first, second, scale, strength } => {
                    let [a, b] = [value(*first), value(*second)];
                    let (of_term, pull) = strength.of(&(b.matmul(&a)? * *scale)?)?; // (out, in)
                    penalty += of_term;
                    gradients[*second] = (&gradients[*second] + (pull.matmul(&a.t()?)? * *scale)?)?;
                    gradients[*first] = (&gradients[*first] + (b.t()?.matmul(&pull)? * *scale)?)?;
                }
            }
        }
        Ok(penalty)
    }
}

impl Strength {
    /// Returns the penalty of a change, and its gradient.
    fn of(&self, change: &Tensor) -> Result<(f64, Tensor)> {
        let weighed = match &self.importance {
            Some(importance) => (change * importance)?,
            None => change.clone(),
        };
        let sum = f64::from((&weighed * change)?.sum_all()?.to_scalar::<f32>()?);
        Ok((0.5 * self.of_all * sum, (weighed * self.of_all)?))
    }
}
