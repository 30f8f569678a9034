//! The prompts of `prompts/`, by name: adding one is a file there and a line here.

/// Name and text of every prompt file, in the order in which help lists them.
pub const PROMPTS: &[(&str, &str)] =
    &[("emt", include_str!("../../prompts/emt.toml")), ("emt-open", include_str!("../../prompts/emt-open.toml"))];
