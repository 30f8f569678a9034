//! Which judges a person may ask for, and about what.

use strum::{IntoStaticStr, VariantArray};

use crate::domain::JudgeKind;

/// Who decides: `--judge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum JudgeMode {
    /// The rules alone; nothing is left open.
    Rules,
    /// A language model alone; the rules give the codes of errors.
    Llm,
    /// The rules where they are certain, a language model elsewhere.
    #[strum(serialize = "rules+llm")]
    RulesAndLlm,
}

impl JudgeMode {
    /// All choices, in the order in which help lists them.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The judges that are asked, the deciding one last.
    pub fn judges(self) -> &'static [JudgeKind] {
        match self {
            Self::Rules => &[JudgeKind::Rules],
            Self::Llm => &[JudgeKind::Llm],
            Self::RulesAndLlm => &[JudgeKind::Rules, JudgeKind::Llm],
        }
    }

    /// What `--judge` calls it: the judges' names with `+` between them.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The choice that `--judge` calls `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mode| mode.name() == name)
    }
}

/// About which pairs the language model is asked beside the rules: `--judge-scope`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// About all of them.
    All,
    /// Only about those of which the rules are not certain.
    #[default]
    Residual,
}
