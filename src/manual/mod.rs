//! The manual: one topic per page, as `emt help TOPIC` prints it.
//!
//! A page is a Markdown file in this folder and a line in the list of pages below.

mod plain_text;

pub use plain_text::plain_text;

/// A page of the manual.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The topic, as in `emt help TOPIC`.
    pub topic: &'static str,
    /// What the page is about, in one line.
    pub summary: &'static str,
    /// The command that the page explains, if it explains one.
    pub command: Option<&'static str>,
    /// The page as Markdown.
    pub text: &'static str,
}

macro_rules! pages {
    ($($module:ident $topic:literal, $command:expr, $summary:literal;)*) => {
        $(
            #[doc = include_str!(concat!($topic, ".md"))]
            pub mod $module {}
        )*

        /// All pages, in reading order.
        pub const PAGES: &[Page] = &[
            $(Page { topic: $topic, summary: $summary, command: $command, text: include_str!(concat!($topic, ".md")) },)*
        ];
    };
}

pages! {
    start "start", Some("demo"), "First steps, with the built-in model";
    evaluate "evaluate", Some("eval"), "Evaluate a model: questions, outcomes, files of a run, resume";
    datasets "datasets", Some("data"), "Names and formats of datasets; your own images";
    models "models", Some("models"), "Families of models, the hub, what was verified";
    served_models "served-models", None, "Models behind a server: vLLM, llama.cpp, OpenAI";
    adapters "adapters", None, "LoRA and other adapters";
    comparators "comparators", None, "What a model is compared with: its encoder or a probe";
    judges "judges", Some("judge"), "Who decides whether an answer is right; calibration";
    label_scoring "label-scoring", None, "Choose among the labels by their probability; where an image was lost";
    compare "compare", Some("report"), "What was forgotten: two runs, or several fine-tunes in a row";
    gate "gate", Some("gate"), "May the model be released: pass, fail or inconclusive";
    diagnose "diagnose", Some("diagnose"), "Why a fine-tune forgot: which part carries the loss, and what to try";
    recover "recover", Some("recover"), "Save a fine-tune that forgot, without training: weaken it until it keeps both";
    policy "policy", None, "What a release must satisfy";
    statistics "statistics", None, "Intervals, tests, and how many images you need";
    ci "ci", None, "Nightly gates, GitHub Actions, GitLab, exit codes";
    fine_tune "fine-tune", Some("finetune"), "Train an adapter and watch what is forgotten";
    sweep "sweep", Some("sweep"), "Which way of fine-tuning forgets least: several arms, ranked";
    performance "performance", None, "Batches, memory, caches, CPU and GPU";
    configuration "configuration", None, "The configuration file and environment variables";
    limits "limits", None, "What does not work";
    glossary "glossary", None, "The words that emt uses";
}

#[cfg(test)]
mod tests;
