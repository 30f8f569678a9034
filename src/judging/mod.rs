//! The judges, which decide what an answer means.
//!
//! A [`Panel`] asks the rules of [`crate::taxonomy`], a language model, or both. It decides for each answer whether it
//! is correct, incorrect with a code, or unscored with a reason. A judge that fails never makes an answer correct or
//! incorrect. A [`Sheet`] holds answers for people to mark, and [`draw_sheet()`] chooses them from a run.

mod llm;
mod mode;
mod panel;
mod prompt;
mod sampling;
mod sheet;

pub use llm::{JudgePreset, LlmJudge, excerpt, mend_of_reply};
pub use mode::{JudgeMode, Scope};
pub use panel::{JudgeCounters, JudgeNotice, Judged, JudgedDataset, Panel, PanelConfig};
pub use prompt::{JudgePrompt, PromptError, normalise};
pub use sampling::draw_sheet;
pub use sheet::{Sheet, SheetError, SheetForm, SheetOrigin, SheetRow};
