//! The logits processors that a generation configuration requests, as transformers applies them before it chooses a
//! token.
//!
//! Each corresponds to its class in `transformers/generation/logits_process.py` (5.24), in the order of
//! `_get_logits_processor`. Each row is processed alone: padding is not part of its prompt.

use std::collections::BTreeMap;

/// One processor, with the parameters of its class.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::model) enum LogitsProcessor {
    /// Adds a bias to the last token of a sequence whose other tokens were just generated.
    SequenceBias(Vec<(Vec<u32>, f32)>),
    /// Makes the prompt's tokens more likely.
    EncoderRepetitionPenalty(f64),
    /// Makes tokens of the prompt and the answer less likely.
    RepetitionPenalty(f64),
    /// Forbids repeating an n-gram of this many tokens from the prompt or the answer.
    NoRepeatNgram(usize),
    /// Forbids repeating an n-gram of this many tokens from the prompt.
    EncoderNoRepeatNgram(usize),
    /// Forbids end tokens until prompt and answer together have this many tokens.
    MinLength(usize),
    /// Forbids end tokens until the answer has this many tokens.
    MinNewTokens(usize),
    /// Forces this token after a sequence of one token.
    ForcedBos(u32),
    /// Forces one of these as the last token that `max_new_tokens` allows.
    ForcedEos(Vec<u32>),
    /// Replaces values that are not finite with finite ones.
    RemoveInvalidValues,
    /// Makes end tokens more likely with each token after the first `start`.
    ExponentialDecay {
        /// The number of answer tokens before the effect begins.
        start: usize,
        /// The base of the exponential.
        factor: f64,
    },
    /// Forbids these tokens.
    SuppressTokens(Vec<u32>),
    /// Forbids these tokens as the first of the answer.
    BeginSuppressTokens {
        /// The tokens.
        tokens: Vec<u32>,
        /// Whether a begin token is forced. With a prompt of at most one token, that token comes first and `tokens` are
        /// forbidden as the second.
        has_forced_bos: bool,
    },
    /// Replaces logits by log-probabilities.
    Normalisation,
}

/// The sequence to which a row of logits belongs.
#[derive(Clone, Copy, Debug)]
pub struct LogitsContext<'a> {
    /// The prompt's tokens, including image placeholders. Empty if the model is given only embeddings.
    pub prompt: &'a [u32],
    /// The answer's tokens so far.
    pub new: &'a [u32],
    /// The maximum number of answer tokens.
    pub max_new_tokens: usize,
    /// The tokens that end an answer.
    pub eos_ids: &'a [u32],
}

impl LogitsContext<'_> {
    fn n_tokens(&self) -> usize {
        self.prompt.len() + self.new.len()
    }

    fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.prompt.iter().chain(self.new).copied()
    }

    /// Returns the last `n` tokens, or `None` if there are fewer.
    fn last(&self, n: usize) -> Option<Vec<u32>> {
        let skipped = self.n_tokens().checked_sub(n)?;
        Some(self.tokens().skip(skipped).collect())
    }
}

/// The processors of a generation configuration, in the order of application.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitsProcessors {
    list: Vec<LogitsProcessor>,
}

impl LogitsProcessors {
    pub(in crate::model) fn new(list: Vec<LogitsProcessor>) -> Self {
        Self { list }
    }

    /// Returns whether no processor changes the logits.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Applies the processors to `logits` in place and chooses a token. Returns the token and its distance to the
    /// next-highest logit, which is infinite if every other token is forbidden. Returns `None` if a logit is not finite
    /// before processing (unless invalid values are replaced), or is NaN after it.
    pub fn choose(&self, context: LogitsContext, logits: &mut [f32]) -> Option<(u32, f32)> {
        let repairs = self.list.contains(&LogitsProcessor::RemoveInvalidValues);
        if !repairs && logits.iter().any(|logit| !logit.is_finite()) {
            return None;
        }
        for processor in &self.list {
            processor.apply(context, logits);
        }
        top_two(logits)
    }
}

/// Chooses as torch's `argmax` does: the first of equal logits, and the first token if all are forbidden.
fn top_two(logits: &[f32]) -> Option<(u32, f32)> {
    let (mut best, mut highest, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (index, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if logit > highest {
            second = highest;
            (best, highest) = (index as u32, logit);
        } else if logit > second {
            second = logit;
        }
    }
    Some((best, if highest == second { 0.0 } else { highest - second }))
}

impl LogitsProcessor {
    fn apply(&self, context: LogitsContext, logits: &mut [f32]) {
        match self {
            Self::SequenceBias(biases) => add_biases(biases, context, logits),
            Self::EncoderRepetitionPenalty(penalty) => {
                penalise(context.prompt.iter().copied(), (1.0 / penalty) as f32, logits);
            }
            Self::RepetitionPenalty(penalty) => penalise(context.tokens(), *penalty as f32, logits),
            Self::NoRepeatNgram(size) => {
                let tokens: Vec<u32> = context.tokens().collect();
                forbid_ngrams(*size, &tokens, context, logits);
            }
            Self::EncoderNoRepeatNgram(size) => forbid_ngrams(*size, context.prompt, context, logits),
            Self::MinLength(length) if context.n_tokens() < *length => forbid(context.eos_ids, logits),
            Self::MinNewTokens(length) if context.new.len() < *length => forbid(context.eos_ids, logits),
            Self::ForcedBos(id) if context.n_tokens() == 1 => force(&[*id], logits),
            Self::ForcedEos(ids) if context.new.len() + 1 == context.max_new_tokens => force(ids, logits),
            Self::RemoveInvalidValues => logits.iter_mut().for_each(|logit| *logit = repaired(*logit)),
            Self::ExponentialDecay { start, factor } if context.new.len() > *start => {
                let raised = (factor.powf((context.new.len() - start) as f64) - 1.0) as f32;
                for &id in context.eos_ids {
                    // Forbidden tokens stay forbidden.
                    if let Some(logit) = logits.get_mut(id as usize).filter(|logit| logit.is_finite()) {
                        *logit += logit.abs() * raised;
                    }
                }
            }
            Self::SuppressTokens(tokens) => forbid(tokens, logits),
            Self::BeginSuppressTokens { tokens, has_forced_bos } => {
                let n_before = usize::from(*has_forced_bos && context.prompt.len() <= 1);
                if context.new.len() == n_before {
                    forbid(tokens, logits);
                }
            }
            Self::Normalisation => normalise(logits),
            Self::MinLength(_)
            | Self::MinNewTokens(_)
            | Self::ForcedBos(_)
            | Self::ForcedEos(_)
            | Self::ExponentialDecay { .. } => {}
        }
    }
}

/// Adds each bias whose sequence the token would complete. The biases of one token are summed first.
fn add_biases(biases: &[(Vec<u32>, f32)], context: LogitsContext, logits: &mut [f32]) {
    let mut sums: BTreeMap<u32, f32> = BTreeMap::new();
    // Single tokens first, as in transformers: float sums depend on their order.
    let (single, longer): (Vec<_>, Vec<_>) = biases.iter().partition(|(sequence, _)| sequence.len() == 1);
    for (sequence, bias) in single.into_iter().chain(longer) {
        let Some((&last, before)) = sequence.split_last() else { continue };
        if context.last(before.len()).is_some_and(|said| said == before) {
            *sums.entry(last).or_default() += bias;
        }
    }
    for (token, bias) in sums {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
}

/// Penalises each of `tokens` once.
fn penalise(tokens: impl Iterator<Item = u32>, penalty: f32, logits: &mut [f32]) {
    let tokens: std::collections::BTreeSet<u32> = tokens.collect();
    for token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// Forbids each token that follows the last `size - 1` tokens somewhere in `known`.
fn forbid_ngrams(size: usize, known: &[u32], context: LogitsContext, logits: &mut [f32]) {
    let Some(said) = size.checked_sub(1).and_then(|n| context.last(n)) else { return };
    for window in known.windows(size) {
        if let Some((last, before)) = window.split_last()
            && before == said
        {
            forbid(&[*last], logits);
        }
    }
}

fn forbid(tokens: &[u32], logits: &mut [f32]) {
    for &token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

fn force(tokens: &[u32], logits: &mut [f32]) {
    logits.fill(f32::NEG_INFINITY);
    for &token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = 0.0;
        }
    }
}

fn repaired(logit: f32) -> f32 {
    if logit.is_nan() { 0.0 } else { logit.clamp(f32::MIN, f32::MAX) }
}

fn normalise(logits: &mut [f32]) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    let log_sum = sum.ln();
    logits.iter_mut().for_each(|logit| *logit = *logit - highest - log_sum);
}

#[cfg(test)]
mod tests {
    use super::super::generation_config::GenerationConfig;
    use super::*;

    /// Compares with scores that `tests/golden/make_logits_processors.py` computed with the classes of transformers.
    #[test]
    fn every_processor_gives_the_scores_of_transformers() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/golden/logits_processors.json")).unwrap();
        let ids = |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() > 40, "{}", cases.len());
        for case in cases {
            let eos_ids = ids(&case["eos"]);
            let config = GenerationConfig::parse(&case["settings"], "it", &eos_ids).unwrap();
            let (prompt, new) = (ids(&case["prompt"]), ids(&case["new"]));
            let max_new_tokens = case["max_new_tokens"].as_u64().unwrap() as usize;
            let context = LogitsContext { prompt: &prompt, new: &new, max_new_tokens, eos_ids: &eos_ids };
            let number = |value: &serde_json::Value| match value.as_str() {
                Some("-inf") => f32::NEG_INFINITY,
                Some("inf") => f32::INFINITY,
                Some(_) => f32::NAN,
                None => value.as_f64().unwrap() as f32,
            };
            let numbers =
                |value: &serde_json::Value| -> Vec<f32> { value.as_array().unwrap().iter().map(number).collect() };
            let mut logits = numbers(&case["logits"]);
            let choice = config.processors().choose(context, &mut logits);
            let expected = numbers(&case["scores"]);
            for (index, (ours, theirs)) in logits.iter().zip(&expected).enumerate() {
                let is_close = ours == theirs || (ours - theirs).abs() <= 2e-6 * theirs.abs().max(1.0);
                assert!(is_close, "{} {}: token {index} is {ours}, not {theirs}", case["settings"], case["new"]);
            }
            assert_eq!(choice.map(|(token, _)| u64::from(token)), case["argmax"].as_u64(), "{case}");
        }
    }

    #[test]
    fn the_gap_is_that_of_processed_logits_and_infinite_where_a_token_is_forced() {
        let context = LogitsContext { prompt: &[1], new: &[0], max_new_tokens: 2, eos_ids: &[2] };
        let choose =
            |processor, logits: &[f32]| LogitsProcessors::new(vec![processor]).choose(context, &mut logits.to_vec());
        assert_eq!(choose(LogitsProcessor::RepetitionPenalty(2.0), &[4.0, 3.0, 1.0]), Some((0, 0.5)));
        assert_eq!(choose(LogitsProcessor::ForcedEos(vec![2]), &[4.0, 3.0, 1.0]), Some((2, f32::INFINITY)));
        assert_eq!(choose(LogitsProcessor::SuppressTokens(vec![0, 1, 2]), &[4.0, 3.0, 1.0]), Some((0, 0.0)));
        assert_eq!(choose(LogitsProcessor::SuppressTokens(vec![0]), &[4.0, f32::NAN, 1.0]), None);
        assert_eq!(choose(LogitsProcessor::RemoveInvalidValues, &[-4.0, f32::NAN, -1.0]), Some((1, 1.0)));
    }
}
