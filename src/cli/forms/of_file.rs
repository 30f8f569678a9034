//! Keys of a configuration file that have no effect, although the flag of their name has one.

use super::form::Form;

/// A flag that means another thing in a configuration file, which commands and forms share, than where it is typed.
pub(super) struct OfFile {
    pub path: &'static [&'static str],
    pub flag: &'static str,
    /// The form in which a file's key has no effect; `None` where the key is refused in all of them.
    pub form: Option<Form>,
    pub why: &'static str,
}

/// Keys that a file wrote for another purpose, and that would change which verdict is given, or whether one is.
pub(super) const NOT_OF_A_FILE: &[OfFile] = &[
    OfFile {
        path: &["gate"],
        flag: "print-policy",
        form: None,
        why: "would print the default policy instead of a verdict, with exit code 0; hint: type --print-policy",
    },
    OfFile {
        path: &["gate"],
        flag: "datasets",
        form: Some(Form::GateOfRuns),
        why: "all datasets of the baseline are decided on; to decide on fewer, type --datasets",
    },
    OfFile {
        path: &["gate"],
        flag: "samples",
        form: Some(Form::GateOfRuns),
        why: "all samples of the runs are decided on; to decide on fewer, type --samples",
    },
];
