//! Which runs may be compared: flags of `emt report` and `emt gate`.

use clap::Args;

/// What decides which runs may be compared.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Comparison")]
pub(super) struct ComparisonOptions {
    /// Compare runs that differ in this field; can be repeated
    ///
    /// A field of `comparable` in run.json, or `samples`. The report names what was allowed.
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    pub(super) allow_different: Vec<String>,
}
