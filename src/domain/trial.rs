//! One subject, mode, sample and prompt, with its outcome.

use serde::{Deserialize, Serialize};

use super::{Answer, JudgeVerdict, Outcome, Response};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The multimodal language model.
    Model,
    /// Its bare vision encoder.
    Encoder,
}

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Free-form text.
    Generate,
    /// The label of the highest log-probability.
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

/// A label with the number that ranked it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredLabel {
    /// The label's name.
    pub label: String,
    /// Cosine (zero-shot, nearest class mean), log-probability (score, logistic regression), or share (neighbours).
    pub score: f32,
    /// Its share of the softmax over the label set, where scores are log-probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f32>,
}

/// What label scoring chooses where each label's score on an image of the mean colour is taken off its score: what the
/// model would say of any image does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorCorrected {
    /// The chosen label's name.
    pub answer: String,
    /// Whether it is the sample's; an error's code is [`ErrorCode::Wrong`](super::ErrorCode::Wrong).
    pub is_correct: bool,
}

/// What a probe with fewer shots chooses: the journal has one trial of a probe, that of the most shots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FewerShots {
    /// Training images a class.
    pub shots: usize,
    /// The chosen label's name.
    pub answer: String,
    /// Whether it is the sample's; an error's code is [`ErrorCode::Wrong`](super::ErrorCode::Wrong).
    pub is_correct: bool,
}

/// Labels that a trial keeps of a ranking, best first.
pub const N_SCORES_KEPT: usize = 5;

/// What makes a trial unique in a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrialKey {
    /// The dataset's name.
    pub dataset: String,
    /// The sample's id.
    pub sample: String,
    /// Who answered.
    pub subject: Subject,
    /// How.
    pub mode: Mode,
}

/// One line of `trials.jsonl`; its disk form is owned by `record`.
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
    /// The label's name as the model sees it.
    pub label: String,
    /// Who answered.
    pub subject: Subject,
    /// How.
    pub mode: Mode,
    /// The prompt's name; `caption` for zero-shot, `probe-k` for a probe of k shots.
    pub prompt: String,
    /// What was said; `None` where nothing could be.
    pub response: Option<Response>,
    /// What a reasoning model thought before it answered, verbatim; never graded.
    pub thought: Option<String>,
    /// The best labels, best first, where the mode ranks them.
    pub scores: Vec<ScoredLabel>,
    /// The choice without the model's prior, where labels were scored and the prior is known.
    pub prior_corrected: Option<PriorCorrected>,
    /// The choices of the same probe with fewer shots, rising.
    pub fewer_shots: Vec<FewerShots>,
    /// Every judge's verdict; empty for an encoder, and where labels were scored.
    pub verdicts: Vec<JudgeVerdict>,
    /// What became of it.
    pub outcome: Outcome,
}

impl Trial {
    /// What was said: the text of an answer, or the name of the chosen label.
    pub fn text(&self) -> Option<&str> {
        self.response.as_ref().map(Response::text)
    }

    /// The answer that a model wrote, where it was asked for text and gave some.
    pub fn answer(&self) -> Option<&Answer> {
        self.response.as_ref()?.generated()
    }

    /// The key under which a later line replaces an earlier one.
    pub fn key(&self) -> TrialKey {
        TrialKey { dataset: self.dataset.clone(), sample: self.sample.clone(), subject: self.subject, mode: self.mode }
    }
}
