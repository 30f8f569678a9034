//! The judges' prompts of `prompts/`.

/// The default: question, label and classes in sight, the answer quoted as data.
pub const STRICT: &str = include_str!("../../prompts/judge-strict.txt");

/// The paper's, verbatim (Zhai et al. 2023, appendix C.1).
pub const EMT: &str = include_str!("../../prompts/judge-emt.txt");
