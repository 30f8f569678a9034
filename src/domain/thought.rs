//! Splits a reasoning model's thought from its answer.

/// A reply, split into thought and answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitReply {
    /// The thought, verbatim with its marks; `None` if the reply has none.
    pub thought: Option<String>,
    /// The answer; `None` if the thought was cut off or never closed.
    pub answer: Option<String>,
}

/// Opening and closing marks of a thought, in lower case.
const THOUGHT_MARKS: [(&str, &str); 17] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<analysis>", "</analysis>"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>", "</scratchpad>"),
    // Seed-OSS, Magistral, Kimi-VL, Command A, OpenThinker, Apertus, MedGemma, Gemma 4, and templates with role names.
    ("<seed:think>", "</seed:think>"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<|start_thinking|>", "<|end_thinking|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<unused94>", "<unused95>"),
    ("<|channel>thought", "<channel|>"),
    ("<|think|>", "<|/think|>"),
];

/// Marks around the answer after a thought, in lower case.
const ANSWER_MARKS: [(&str, &str); 7] = [
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<conclusion>", "</conclusion>"),
    ("<|start_response|>", "<|end_response|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|begin_of_box|>", "<|end_of_box|>"),
    ("◁answer▷", "◁/answer▷"),
];

/// gpt-oss's channels: everything before the last `final` is a thought.
const CHANNEL: &str = "<|channel|>";
const FINAL_CHANNEL: &str = "<|channel|>final";
const CHANNEL_MESSAGE: &str = "<|message|>";
const CHANNEL_ENDS: [&str; 4] = ["<|return|>", "<|end|>", "<|start|>", "<|channel|>"];
/// The same if a tokenizer dropped the special tokens.
const BARE_CHANNELS: (&str, &str) = ("analysis", "assistantfinal");
/// Granite's marks.
const SPOKEN_MARKS: [(&str, &str); 2] =
    [("here is my thought process:", "here is my response:"), ("here's my thought process:", "here's my response:")];

impl SplitReply {
    /// Splits a reply. `begins_in_thought` says that the chat template opened a thought before the reply, so that only
    /// the closing mark can be in the reply.
    ///
    /// An opening mark counts anywhere. A closing mark without an opening one ends a thought that began with the reply.
    pub fn new(reply: &str, begins_in_thought: bool) -> Self {
        // Only ASCII letters are lower-cased, which keeps all byte positions.
        let lower = reply.to_ascii_lowercase();
        let answer = if lower.contains(CHANNEL) {
            channels(&lower)
        } else if is_bare_channel(reply) {
            lower.rfind(BARE_CHANNELS.1).map(|at| (at + BARE_CHANNELS.1.len(), reply.len()))
        } else {
            marked(&lower, begins_in_thought)
        };
        let Some((start, end)) = answer else {
            return Self { thought: Some(reply.to_owned()), answer: None };
        };
        if (start, end) == (0, reply.len()) {
            return Self { thought: None, answer: Some(reply.to_owned()) };
        }
        let (inner_start, inner_end) = unwrapped(&lower, start, end);
        let thought = if start == 0 { &reply[end..] } else { &reply[..start] };
        Self { thought: Some(thought.to_owned()), answer: Some(reply[inner_start..inner_end].trim().to_owned()) }
    }

    /// Whether a reply opens a thought itself.
    pub fn opens_a_thought(reply: &str) -> bool {
        let lower = reply.to_ascii_lowercase();
        lower.contains(CHANNEL) || is_bare_channel(reply) || first_opening(&lower).is_some()
    }
}

/// Returns the range of the last message of the final channel.
fn channels(lower: &str) -> Option<(usize, usize)> {
    let channel = lower.rfind(FINAL_CHANNEL)? + FINAL_CHANNEL.len();
    let start = channel + lower[channel..].find(CHANNEL_MESSAGE)? + CHANNEL_MESSAGE.len();
    let end = CHANNEL_ENDS.iter().filter_map(|mark| lower[start..].find(mark)).min();
    Some((start, end.map_or(lower.len(), |end| start + end)))
}

/// Matches `analysisThe image shows …assistantfinalcat`: nothing replaces a dropped special token.
fn is_bare_channel(reply: &str) -> bool {
    let after = reply.trim_start().strip_prefix(BARE_CHANNELS.0);
    after.is_some_and(|after| after.starts_with(char::is_uppercase) || after.contains(BARE_CHANNELS.1))
}

/// Returns the range of the answer outside all thoughts; `None` if the last thought is not closed.
fn marked(lower: &str, begins_in_thought: bool) -> Option<(usize, usize)> {
    let trimmed = lower.trim_start();
    let offset = lower.len() - trimmed.len();
    for (opening, closing) in SPOKEN_MARKS {
        if trimmed.starts_with(opening) {
            return trimmed.find(closing).map(|at| (offset + at + closing.len(), lower.len()));
        }
    }
    let last = |marks: fn(&(&'static str, &'static str)) -> &'static str| {
        let places = THOUGHT_MARKS.iter().filter_map(move |pair| Some((lower.rfind(marks(pair))?, marks(pair).len())));
        places.max_by_key(|(at, length)| at + length)
    };
    let (opened, closed) = (last(|pair| pair.0), last(|pair| pair.1));
    match (opened, closed) {
        (None, None) if begins_in_thought => None,
        (None, None) => Some((0, lower.len())),
        (Some(_), None) => None,
        (Some((opened, _)), Some((closed, _))) if opened > closed => None,
        (opened, Some((closed, length))) => {
            let after = closed + length;
            // If the thought follows the answer, the text before it is the answer.
            let before = opened.and_then(|_| first_opening(lower)).filter(|&at| !lower[..at].trim().is_empty());
            match before {
                Some(before) if lower[after..].trim().is_empty() => Some((0, before)),
                _ => Some((after, lower.len())),
            }
        }
    }
}

fn first_opening(lower: &str) -> Option<usize> {
    THOUGHT_MARKS.iter().filter_map(|(opening, _)| lower.find(opening)).min()
}

/// Returns the range inside the answer marks, if the answer starts with one; a cut-off answer lacks the closing mark.
fn unwrapped(lower: &str, start: usize, end: usize) -> (usize, usize) {
    let said = &lower[start..end];
    let start_of_said = start + (said.len() - said.trim_start().len());
    let said = said.trim();
    for (opening, closing) in ANSWER_MARKS {
        if let Some(inner) = said.strip_prefix(opening) {
            let inner_start = start_of_said + opening.len();
            return (inner_start, inner_start + inner.find(closing).unwrap_or(inner.len()));
        }
    }
    (start, end)
}

/// Whether a rendered prompt ends inside a thought, so that the model's reply begins in one.
pub fn ends_in_thought(prompt: &str) -> bool {
    let lower = prompt.trim_end().to_ascii_lowercase();
    THOUGHT_MARKS.iter().any(|(opening, _)| lower.ends_with(opening))
}

/// Prefixes a reply that began in a thought with the opening mark, so that it is self-contained.
pub fn with_thought_opened(reply: &str) -> String {
    format!("{}{reply}", THOUGHT_MARKS[0].0)
}

#[cfg(test)]
mod tests;
