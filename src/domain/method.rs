//! Training methods: which parts of a model train, alone or several together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::closest;

/// A way to train a part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Arm {
    /// Only the projector.
    Linear,
    /// Low-rank updates of the language model's linear maps, except its head, and the projector.
    Lora,
    /// The language model and the projector.
    Full,
    /// Virtual tokens before every prompt.
    Prompt,
    /// Virtual tokens that a small network computes while they train.
    PTuning,
    /// Virtual keys and values before those of every prompt, in all layers.
    Prefix,
    /// A scale and a shift of the positions of images after each layer of the language model.
    Moca,
    /// A projector for the features of a second tower.
    Mof,
}

impl Arm {
    /// All arms.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in flags and files.
    pub fn name(self) -> &'static str {
        self.into()
    }

    fn of_name(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|arm| arm.name() == text)
    }

    /// Whether it puts something before every prompt. A method has at most one of these.
    pub fn is_prompt_learning(self) -> bool {
        matches!(self, Self::Prompt | Self::PTuning | Self::Prefix)
    }
}

/// What trains: one arm, or several that train together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// A bit for each arm, in their order.
    arms: u16,
}

impl Method {
    /// Only the projector.
    pub const LINEAR: Self = Self::of(Arm::Linear);
    /// Low-rank updates and the projector.
    pub const LORA: Self = Self::of(Arm::Lora);
    /// The language model and the projector.
    pub const FULL: Self = Self::of(Arm::Full);

    /// The method of one arm.
    pub const fn of(arm: Arm) -> Self {
        Self { arms: 1 << arm as u16 }
    }

    /// The arms, in their order.
    pub fn arms(self) -> impl Iterator<Item = Arm> {
        Arm::ALL.iter().copied().filter(move |&arm| self.has(arm))
    }

    /// Whether `arm` is one of its arms.
    pub fn has(self, arm: Arm) -> bool {
        self.arms & Self::of(arm).arms != 0
    }

    /// The name in flags and files: the arms, joined by `+`.
    pub fn name(self) -> String {
        self.arms().map(Arm::name).collect::<Vec<_>>().join("+")
    }

    /// The arm that puts something before every prompt, if there is one.
    pub fn prompt_learning(self) -> Option<Arm> {
        self.arms().find(|arm| arm.is_prompt_learning())
    }

    /// Whether the projector trains if nothing is said about it.
    pub fn trains_projector(self) -> bool {
        [Arm::Linear, Arm::Lora, Arm::Full].into_iter().any(|arm| self.has(arm))
    }

    /// Adds `arm`, or says why both cannot train together.
    fn with(self, arm: Arm) -> Result<Self, String> {
        if self.has(arm) {
            return Err(format!("the method names `{}` twice", arm.name()));
        }
        let together = Self { arms: self.arms | Self::of(arm).arms };
        if together.has(Arm::Full) && (together.has(Arm::Lora) || together.has(Arm::Linear)) {
            return Err("`full` trains what `lora` and `linear` train; hint: leave them out".to_owned());
        }
        let n_before_prompts = together.arms().filter(|arm| arm.is_prompt_learning()).count();
        if n_before_prompts > 1 {
            return Err("`prompt`, `p-tuning` and `prefix` cannot train together; hint: choose one of them".to_owned());
        }
        Ok(together)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = Arm::ALL.iter().map(|arm| arm.name()).collect();
        let mut method = Self { arms: 0 };
        for part in text.split('+').map(str::trim) {
            let arm = Arm::of_name(part).ok_or_else(|| {
                let near = closest(part, &names);
                format!("unknown method `{part}`; hint: {near}{}, or several joined by +", names.join(", "))
            })?;
            method = method.with(arm)?;
        }
        Ok(method)
    }
}

impl Serialize for Method {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_method_is_refused_with_the_choices() {
        let error = "qlora".parse::<Method>().unwrap_err();
        assert!(error.contains("qlora") && error.contains("lora, full") && error.contains("p-tuning"), "{error}");
        assert_eq!("linear".parse(), Ok(Method::LINEAR));
    }

    #[test]
    fn a_method_of_several_arms_has_one_name_in_any_order() {
        let method: Method = "prompt+linear".parse().unwrap();
        assert_eq!((method.name().as_str(), method.arms().count()), ("linear+prompt", 2));
        assert_eq!("linear + prompt".parse(), Ok(method));
        assert_eq!(serde_json::to_value(method).unwrap(), "linear+prompt");
        assert_eq!(serde_json::from_value::<Method>("linear+prompt".into()).unwrap(), method);
    }

    #[test]
    fn arms_that_cannot_train_together_are_refused_with_the_reason() {
        for (text, reason) in [
            ("lora+lora", "twice"),
            ("full+lora", "`full` trains what"),
            ("linear+full", "`full` trains what"),
            ("prompt+prefix", "cannot train together"),
            ("lora+", "unknown method ``"),
        ] {
            let error = text.parse::<Method>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        for text in ["lora+moca", "full+moca", "full+prompt", "linear+moca+p-tuning"] {
            assert!(text.parse::<Method>().is_ok(), "{text}");
        }
    }
}
