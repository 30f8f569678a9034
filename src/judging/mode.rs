//! The choices of judges, and the scope of the language model.

use strum::{IntoStaticStr, VariantArray};

use crate::domain::JudgeKind;

/// The deciding judges: `--judge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum JudgeMode {
    /// Only the rules; nothing is left undecided.
    Rules,
    /// Only a language model; the rules give the codes of errors.
    Llm,
    /// The rules where they are certain, and a language model elsewhere.
    #[strum(serialize = "rules+llm")]
    RulesAndLlm,
}

impl JudgeMode {
    /// All choices, in the order of the help text.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The judges that are used; the deciding judge is last.
    pub fn judges(self) -> &'static [JudgeKind] {
        match self {
            Self::Rules => &[JudgeKind::Rules],
            Self::Llm => &[JudgeKind::Llm],
            Self::RulesAndLlm => &[JudgeKind::Rules, JudgeKind::Llm],
        }
    }

    /// The name in `--judge`: the judges' names joined by `+`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the choice with this name in `--judge`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mode| mode.name() == name)
    }
}

/// The pairs that the language model is asked about in addition to the rules: `--judge-scope`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All pairs.
    All,
    /// Only pairs on which the rules are not certain.
    #[default]
    Residual,
}
