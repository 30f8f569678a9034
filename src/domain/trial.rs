//! Trials: one subject, mode, sample and prompt, with the outcome.

use serde::{Deserialize, Serialize};

use super::{Answer, JudgeVerdict, Outcome, Response};

/// The subject that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The multimodal language model.
    Model,
    /// Its bare vision encoder.
    Encoder,
}

/// The mode of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Free-form text.
    Generate,
    /// The label with the highest log-probability.
    Score,
    /// The caption nearest to the image.
    ZeroShot,
    /// A probe on frozen features.
    Probe,
}

impl Mode {
    /// Its name on disk and in `--modes`.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Generate => "generate",
            Mode::Score => "score",
            Mode::ZeroShot => "zero_shot",
            Mode::Probe => "probe",
        }
    }
}

/// A label with its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredLabel {
    /// The label's name.
    pub label: String,
    /// Cosine (zero-shot, nearest class mean), log-probability (score, logistic regression), or share (neighbours).
    pub score: f32,
    /// Its share of the softmax over the label set, if scores are log-probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f32>,
}

/// The choice of label scoring if each label's score on an image of the mean colour is subtracted from its score. This
/// removes what the model would say about any image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorCorrected {
    /// The chosen label's name.
    pub answer: String,
    /// Whether it is the sample's label; if not, the code is [`ErrorCode::Wrong`](super::ErrorCode::Wrong).
    pub is_correct: bool,
}

/// The choice of a probe with fewer shots. The journal only has the trial of the probe with the most shots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FewerShots {
    /// Training images per class.
    pub shots: usize,
    /// The chosen label's name.
    pub answer: String,
    /// Whether it is the sample's label; if not, the code is [`ErrorCode::Wrong`](super::ErrorCode::Wrong).
    pub is_correct: bool,
}

/// The number of labels that a trial keeps of a ranking, best first.
pub const N_SCORES_KEPT: usize = 5;

/// The unique key of a trial in a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrialKey {
    /// The dataset's name.
    pub dataset: String,
    /// The sample's id.
    pub sample: String,
    /// The subject.
    pub subject: Subject,
    /// The mode.
    pub mode: Mode,
}

/// One line of `trials.jsonl`; `record` owns its disk format.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The dataset's name.
    pub dataset: String,
    /// Its split.
    pub split: String,
    /// The sample's id.
    pub sample: String,
    /// `blake3:…` of the decoded pixels, or `file:…` of the bytes of an unreadable image.
    pub content: String,
    /// The label's name in prompts.
    pub label: String,
    /// The subject.
    pub subject: Subject,
    /// The mode.
    pub mode: Mode,
    /// The prompt's name; `caption` for zero-shot, `probe-k` for a probe with k shots.
    pub prompt: String,
    /// The response; `None` if there was none.
    pub response: Option<Response>,
    /// A reasoning model's thought before its answer, verbatim; never graded.
    pub thought: Option<String>,
    /// The best labels, best first, if the mode ranks them.
    pub scores: Vec<ScoredLabel>,
    /// The choice without the model's prior, if labels were scored and the prior is known.
    pub prior_corrected: Option<PriorCorrected>,
    /// The choices of the same probe with fewer shots, ascending.
    pub fewer_shots: Vec<FewerShots>,
    /// Every judge's verdict; empty for an encoder and for label scoring.
    pub verdicts: Vec<JudgeVerdict>,
    /// The outcome.
    pub outcome: Outcome,
}

impl Trial {
    /// Returns the text of an answer, or the name of the chosen label.
    pub fn text(&self) -> Option<&str> {
        self.response.as_ref().map(Response::text)
    }

    /// Returns the generated answer, if there is one.
    pub fn answer(&self) -> Option<&Answer> {
        self.response.as_ref()?.generated()
    }

    /// The key under which a later line replaces an earlier one.
    pub fn key(&self) -> TrialKey {
        TrialKey { dataset: self.dataset.clone(), sample: self.sample.clone(), subject: self.subject, mode: self.mode }
    }
}
