//! All judges of a run: which are asked, in which order, and which decides.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::JudgePrompt;
use super::llm::{LlmJudge, Ruling, excerpt, mend_of_reply};
use super::mode::{JudgeMode, Scope};
use super::prompt::{FIXED_LABEL, FIXED_WRONG, Template, normalise};
use crate::api::{ChatClient, ChatCounters, ChatError, ChatReply};
use crate::domain::{ErrorCode, JudgeKind, JudgeSpec, JudgeVerdict, Judgement, LabelSet, Outcome};
use crate::taxonomy::{Finding, Grader, RULES_VERSION, Reading};

/// The data of a dataset that judging needs.
#[derive(Clone, Debug)]
pub struct JudgedDataset {
    /// The question to the model, with the class list.
    pub question: String,
    /// The classes.
    pub labels: LabelSet,
    /// The rules, compiled for these classes.
    pub grader: Grader,
}

/// The configuration of a panel.
#[derive(Clone, Debug)]
pub struct PanelConfig {
    /// The deciding judges.
    pub mode: JudgeMode,
    /// The scope of the language model; it only matters with [`JudgeMode::RulesAndLlm`].
    pub scope: Scope,
    /// The language model, unless only the rules judge.
    pub llm: Option<LlmJudge>,
}

impl PanelConfig {
    /// Only the rules.
    pub fn rules() -> Self {
        Self { mode: JudgeMode::Rules, scope: Scope::default(), llm: None }
    }
}

/// The judgement of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The verdict of each judge that was used, in the order of [`Panel::specs`].
    pub verdicts: Vec<JudgeVerdict>,
    /// The outcome.
    pub outcome: Outcome,
    /// Whether the rules alone would have been certain.
    pub certain_by_rules: bool,
}

/// Counts of a panel's work so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JudgeCounters {
    /// Answers submitted.
    pub n_answers: u64,
    /// Distinct pairs of label and normalised answer for the language model.
    pub n_distinct: u64,
    /// Requests sent, retries included.
    pub n_calls: u64,
    /// Requests that were retries.
    pub n_retries: u64,
    /// Pairs without a verdict of the language model.
    pub n_failed: u64,
}

/// The judges of a run.
pub struct Panel {
    mode: JudgeMode,
    scope: Scope,
    datasets: Vec<JudgedDataset>,
    llm: Option<LlmPanel>,
    n_answers: u64,
    tolerance: Tolerance,
}

/// What [`Panel::check`] accepts with a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tolerance {
    Nothing,
    /// A reply that is not a verdict.
    Unparsable,
    /// Inverted verdicts.
    Inverted,
}

/// A notice to the user about the fixed questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeNotice {
    /// The text.
    pub text: String,
    /// Whether a fixed question was judged wrongly, so that no verdict of the judge can be trusted.
    pub is_doubt: bool,
}

impl From<String> for JudgeNotice {
    fn from(text: String) -> Self {
        Self { text, is_doubt: false }
    }
}

/// The answers in the fixed questions, with the right verdict on each.
const FIXED_ANSWERS: [(&str, Judgement); 2] = [(FIXED_LABEL, Judgement::Correct), (FIXED_WRONG, Judgement::Incorrect)];

/// The result of a fixed question.
enum Checked {
    /// The judge's verdict and its reply.
    Judgement(Judgement, String),
    /// There is no verdict, possibly with a notice.
    Nothing(Option<String>),
}

/// A verdict on a fixed question.
struct FixedReply {
    answer: &'static str,
    expected: Judgement,
    verdict: Judgement,
    reply: String,
}

/// The language model's part of a panel.
struct LlmPanel {
    judge: LlmJudge,
    template: Template,
    client: ChatClient,
    pairs: Vec<Pair>,
    index: HashMap<PairKey, usize>,
    /// Pairs that were not sent yet: those that the language model decides are first, then the oldest.
    queue: BinaryHeap<(bool, Reverse<usize>)>,
    /// Answers that wait for a ruling.
    n_waiting: usize,
    /// Pairs without a ruling that the language model decides.
    n_open_decisive: usize,
    n_distinct: u64,
    n_failed: u64,
    /// If there is a budget, pairs that the rules decide wait until all other pairs have a ruling.
    holds_certain: bool,
    /// Answers that were settled by the reply to another one since the last call.
    settled: Vec<(u64, Judged)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PairKey {
    dataset: usize,
    label: usize,
    answer: String,
}

struct Pair {
    key: PairKey,
    /// Whether an answer of this sitting belongs to this pair.
    is_met: bool,
    state: PairState,
}

enum PairState {
    /// Answers that wait for the ruling, with the rules' reading of each.
    Open {
        waiting: Vec<(u64, Reading)>,
        is_decisive: bool,
    },
    Settled(Ruling),
}

impl Panel {
    /// Prepares the judges; no request is sent to the language model's server yet.
    pub fn new(config: PanelConfig, datasets: Vec<JudgedDataset>) -> anyhow::Result<Panel> {
        let llm = match (config.mode, config.llm) {
            (JudgeMode::Rules, _) => None,
            (_, None) => {
                bail!("a language-model judge needs a server and a model; hint: --judge-url and --judge-model")
            }
            (_, Some(judge)) => Some(LlmPanel::new(judge)?),
        };
        Ok(Panel { mode: config.mode, scope: config.scope, datasets, llm, n_answers: 0, tolerance: Tolerance::Nothing })
    }

    /// Returns what decides verdicts and outcomes, for the run's identity; the deciding judge is last.
    pub fn specs(&self) -> Vec<JudgeSpec> {
        let rules = JudgeSpec {
            judge: JudgeKind::Rules.name().to_owned(),
            model: RULES_VERSION.to_owned(),
            prompt: None,
            parameters: Value::Null,
        };
        let scope = match self.scope {
            Scope::All => "all",
            Scope::Residual => "residual",
        };
        match (&self.llm, self.mode) {
            (Some(llm), JudgeMode::RulesAndLlm) => {
                vec![rules, llm.judge.spec(&llm.template, &[("scope", json!(scope))])]
            }
            (Some(llm), _) => vec![llm.judge.spec(&llm.template, &[])],
            (None, _) => vec![rules],
        }
    }

    /// Takes over the language model's verdict from an earlier sitting, so that it is not requested again. Verdicts of
    /// other judges, and failures that a resumed run retries, are ignored.
    pub fn remember(&mut self, dataset: usize, label: usize, answer: &str, verdict: &JudgeVerdict) {
        if let (Some(llm), Some(ruling)) = (&mut self.llm, Ruling::remembered(verdict)) {
            let key = PairKey { dataset, label, answer: normalise(answer) };
            if !llm.index.contains_key(&key) {
                llm.insert(key, PairState::Settled(ruling));
            }
        }
    }

    /// Submits an answer to the image of a label. Returns `Some` if it is decided at once; otherwise
    /// [`Panel::completed`] returns its token later.
    pub fn submit(&mut self, token: u64, dataset: usize, label: usize, answer: &str) -> anyhow::Result<Option<Judged>> {
        let place = self.datasets.get(dataset).with_context(|| format!("there is no dataset number {dataset}"))?;
        if label >= place.labels.len() {
            bail!("there is no label number {label} among {}", place.labels.len());
        }
        self.n_answers += 1;
        let reading = place.grader.grade(label, answer);
        let text = normalise(answer);
        let mode = self.mode;
        // The rules decide an empty answer in every mode.
        let is_empty = text.is_empty() || reading.finding == Finding::Error(ErrorCode::Empty);
        let needs_llm = !is_empty
            && match mode {
                JudgeMode::Rules => false,
                JudgeMode::Llm => true,
                JudgeMode::RulesAndLlm => self.scope == Scope::All || !reading.certain,
            };
        let Some(llm) = self.llm.as_mut().filter(|_| needs_llm) else {
            return Ok(Some(by_rules(if is_empty { empty() } else { reading })));
        };
        let key = PairKey { dataset, label, answer: text };
        let is_decisive = mode == JudgeMode::Llm || !reading.certain;
        match llm.ask(key, token, reading, is_decisive) {
            Some(ruling) => Ok(Some(judged_by(mode, reading, ruling))),
            None => {
                llm.collect(mode);
                llm.send(&self.datasets, false);
                Ok(None)
            }
        }
    }

    /// Returns the answers that were settled since the last call. Waits up to `wait` for the first.
    ///
    /// A nonzero wait means that nothing more is submitted meanwhile, so pairs that a budget held back are sent.
    pub fn completed(&mut self, wait: Duration) -> Vec<(u64, Judged)> {
        let Some(llm) = &mut self.llm else { return Vec::new() };
        let deadline = Instant::now() + wait;
        loop {
            llm.collect(self.mode);
            llm.send(&self.datasets, !wait.is_zero());
            if !llm.settled.is_empty() || llm.n_waiting == 0 {
                return std::mem::take(&mut llm.settled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Vec::new();
            }
            if let Some((ticket, completion)) = llm.client.recv_timeout(left) {
                llm.settle(ticket, Ruling::new(&llm.template, completion), self.mode);
            }
        }
    }

    /// The submitted answers that are not returned yet.
    pub fn n_open(&self) -> usize {
        self.llm.as_ref().map_or(0, |llm| llm.n_waiting + llm.settled.len())
    }

    /// Returns the counts so far.
    pub fn counters(&self) -> JudgeCounters {
        let chat = self.llm.as_ref().map_or(ChatCounters::default(), |llm| llm.client.counters());
        JudgeCounters {
            n_answers: self.n_answers,
            n_distinct: self.llm.as_ref().map_or(0, |llm| llm.n_distinct),
            n_calls: chat.n_calls,
            n_retries: chat.n_retries,
            n_failed: self.llm.as_ref().map_or(0, |llm| llm.n_failed),
        }
    }

    /// The most calls that `n_answers` can cause, without retries. Each answer may be its own pair, two fixed questions
    /// come first, and a budget limits the total.
    pub fn upper_bound_of_calls(&self, n_answers: u64) -> u64 {
        let n_calls = if n_answers == 0 { 0 } else { n_answers + FIXED_ANSWERS.len() as u64 };
        self.llm.as_ref().map_or(0, |llm| llm.judge.chat.max_calls.map_or(n_calls, |most| most.min(n_calls)))
    }

    /// Makes [`Panel::check`] warn, not fail, if the judge's reply is not a verdict.
    pub fn tolerate_unparsable(&mut self) {
        self.tolerance = Tolerance::Unparsable;
    }

    /// Makes [`Panel::check`] warn, not fail, if verdicts are inverted, because the judge is to be measured.
    pub fn tolerate_inverted(&mut self) {
        self.tolerance = Tolerance::Inverted;
    }

    /// Asks the language model two fixed questions, one with a right answer and one with a wrong answer. A wrong key,
    /// model or prompt, and a judge that always says the same, show before anything else is asked. The calls count
    /// towards budgets. Returns a notice for the user, if any. No answer may be pending.
    ///
    /// # Errors
    /// The judge cannot be asked, its reply is not a verdict, or both verdicts are inverted, unless that is tolerated.
    pub fn check(&mut self, is_stopped: &dyn Fn() -> bool) -> anyhow::Result<Option<JudgeNotice>> {
        let Some(llm) = &self.llm else { return Ok(None) };
        let tolerance = self.tolerance;
        let mut verdicts = Vec::with_capacity(FIXED_ANSWERS.len());
        for (answer, expected) in FIXED_ANSWERS {
            const TICKET: u64 = u64::MAX;
            llm.client.submit(llm.judge.request(llm.template.fixed_question(answer)), TICKET);
            let completion = loop {
                match llm.client.recv_timeout(Duration::from_millis(200)) {
                    Some((TICKET, completion)) => break completion,
                    _ if is_stopped() => return Ok(None),
                    _ => {}
                }
            };
            match llm.checked(completion, tolerance)? {
                Checked::Judgement(verdict, reply) => verdicts.push(FixedReply { answer, expected, verdict, reply }),
                // The other question would show nothing new.
                Checked::Nothing(told) => return Ok(told.map(JudgeNotice::from)),
            }
        }
        llm.judged_rightly(&verdicts, tolerance)
    }

    /// Why the language model can no longer be asked, if so: a wrong key, an unknown model, no server.
    pub fn fatal_error(&self) -> Option<String> {
        self.llm.as_ref()?.client.fatal_error().map(|error| error.to_string())
    }

    /// Returns the parameters actually sent to the server, for the run's environment; `None` without a language model.
    pub fn effective_parameters(&self) -> Option<Value> {
        self.llm.as_ref().map(|llm| llm.client.effective_parameters())
    }
}

impl LlmPanel {
    fn new(judge: LlmJudge) -> anyhow::Result<Self> {
        let template = Template::new(&judge.prompt).context("failed to read the judge's prompt")?;
        let client = ChatClient::new(judge.chat_config()).map_err(|error| anyhow!(error))?;
        let holds_certain = judge.chat.max_calls.is_some() || judge.chat.max_tokens_total.is_some();
        Ok(Self {
            judge,
            template,
            client,
            pairs: Vec::new(),
            index: HashMap::new(),
            queue: BinaryHeap::new(),
            n_waiting: 0,
            n_open_decisive: 0,
            n_distinct: 0,
            n_failed: 0,
            holds_certain,
            settled: Vec::new(),
        })
    }

    /// Checks the completion of a fixed question.
    fn checked(&self, completion: Result<ChatReply, ChatError>, tolerance: Tolerance) -> anyhow::Result<Checked> {
        let model = &self.judge.chat.model;
        match &completion {
            // A call that the budget does not allow shows nothing, nor would the next one.
            Err(ChatError::Budget { .. }) => return Ok(Checked::Nothing(None)),
            Err(error) if error.is_passing() && !error.is_fatal() => {
                return Ok(Checked::Nothing(Some(format!(
                    "the judge `{model}` failed on a fixed question: {error}; the same command retries what it leaves \
                     unscored"
                ))));
            }
            Err(error) if error.is_fatal() => bail!("the judge cannot be asked: {error}"),
            Err(error @ ChatError::Rejected { .. }) => {
                bail!("the judge `{model}` refuses a fixed question, and would refuse every other: {error}")
            }
            _ => {}
        }
        let Ruling { verdict, .. } = Ruling::new(&self.template, completion);
        let error = match &verdict.result {
            Ok(found) => return Ok(Checked::Judgement(*found, verdict.reply.unwrap_or_default())),
            Err(error) => error,
        };
        let reply = verdict.reply.as_deref().map_or(String::new(), |reply| format!(" with `{}`", excerpt(reply)));
        let hint = mend_of_reply(&self.judge.prompt, &verdict).map_or(String::new(), |mend| format!("; hint: {mend}"));
        let message = format!(
            "the judge `{model}` gives no verdict: it replied to one fixed question{reply}, and {} was expected ({error}){hint}",
            self.template.expected()
        );
        if tolerance == Tolerance::Unparsable { Ok(Checked::Nothing(Some(message))) } else { bail!("{message}") }
    }

    /// Refuses a judge whose verdicts on the fixed questions are inverted, and reports a doubt if it says the same
    /// about both.
    fn judged_rightly(&self, replies: &[FixedReply], tolerance: Tolerance) -> anyhow::Result<Option<JudgeNotice>> {
        let model = &self.judge.chat.model;
        let wrong: Vec<&FixedReply> = replies.iter().filter(|reply| reply.verdict != reply.expected).collect();
        if wrong.is_empty() {
            let learned = self.client.learned();
            return Ok(learned.map(|learned| format!("the judge `{model}`: {learned}").into()));
        }
        let told: Vec<String> = wrong
            .iter()
            .map(|FixedReply { answer, expected, reply, .. }| {
                let expected = self.template.words_of(*expected);
                format!("to the answer `{answer}` it replied `{}`, and {expected} was expected", excerpt(reply))
            })
            .collect();
        let hint = match (wrong.len(), &self.judge.prompt) {
            (2, JudgePrompt::File(_)) => {
                let [right, wrong] = [Judgement::Correct, Judgement::Incorrect].map(|of| self.template.words_of(of));
                format!(
                    "its verdicts are the wrong way round: --judge-prompt must ask for {right} if the answer is right, \
                     and for {wrong} otherwise"
                )
            }
            (_, JudgePrompt::File(_)) => {
                "another --judge-model, or a --judge-prompt that asks whether {answer} means {label}".to_owned()
            }
            _ => "another --judge-model, or a --judge-prompt that it follows".to_owned(),
        };
        let message = format!(
            "the judge `{model}` cannot tell a right answer from a wrong one: of an image of a {FIXED_LABEL}, {}; hint: {hint}; \
             `emt judge calibrate` measures a judge",
            told.join("; ")
        );
        ensure!(wrong.len() < replies.len() || tolerance == Tolerance::Inverted, "{message}");
        Ok(Some(JudgeNotice { text: message, is_doubt: true }))
    }

    fn insert(&mut self, key: PairKey, state: PairState) -> usize {
        let place = self.pairs.len();
        self.index.insert(key.clone(), place);
        self.pairs.push(Pair { key, is_met: false, state });
        place
    }

    /// Returns the ruling on a pair if there is one; otherwise the answer waits for it.
    fn ask(&mut self, key: PairKey, token: u64, reading: Reading, is_decisive: bool) -> Option<&Ruling> {
        let place = match self.index.get(&key) {
            Some(&place) => place,
            None => {
                let place = self.insert(key, PairState::Open { waiting: Vec::new(), is_decisive });
                self.queue.push((is_decisive, Reverse(place)));
                self.n_open_decisive += usize::from(is_decisive);
                place
            }
        };
        let pair = &mut self.pairs[place];
        self.n_distinct += u64::from(!std::mem::replace(&mut pair.is_met, true));
        match &mut pair.state {
            PairState::Open { waiting, .. } => {
                waiting.push((token, reading));
                self.n_waiting += 1;
                None
            }
            PairState::Settled(ruling) => Some(ruling),
        }
    }

    /// Sends as many requests as the client has room for, the most important first.
    fn send(&mut self, datasets: &[JudgedDataset], is_idle: bool) {
        while self.client.n_outstanding() < self.client.capacity() {
            let is_held = self.holds_certain && (!is_idle || self.n_open_decisive > 0);
            match self.queue.peek() {
                Some((is_decisive, _)) if *is_decisive || !is_held => {}
                _ => return,
            }
            let Some((_, Reverse(place))) = self.queue.pop() else { return };
            let key = &self.pairs[place].key;
            let text = self.template.render(&datasets[key.dataset], key.label, &key.answer);
            self.client.submit(self.judge.request(text), place as u64);
        }
    }

    /// Takes in all available completions without waiting.
    fn collect(&mut self, mode: JudgeMode) {
        while let Some((ticket, completion)) = self.client.recv_timeout(Duration::ZERO) {
            self.settle(ticket, Ruling::new(&self.template, completion), mode);
        }
    }

    fn settle(&mut self, ticket: u64, ruling: Ruling, mode: JudgeMode) {
        let Some(pair) = usize::try_from(ticket).ok().and_then(|place| self.pairs.get_mut(place)) else { return };
        self.n_failed += u64::from(ruling.unscored.is_some());
        if let PairState::Open { waiting, is_decisive } = &pair.state {
            self.n_waiting -= waiting.len();
            self.n_open_decisive -= usize::from(*is_decisive);
            self.settled.extend(waiting.iter().map(|(token, reading)| (*token, judged_by(mode, *reading, &ruling))));
        }
        pair.state = PairState::Settled(ruling);
    }
}

/// The rules' reading of an answer without content.
fn empty() -> Reading {
    Reading { finding: Finding::Error(ErrorCode::Empty), certain: true, names_ancestor: false }
}

/// The judgement without a language model.
fn by_rules(reading: Reading) -> Judged {
    let verdict =
        JudgeVerdict { judge: JudgeKind::Rules.name().to_owned(), result: Ok(reading.verdict()), reply: None };
    Judged { verdicts: vec![verdict], outcome: outcome_of(reading), certain_by_rules: reading.certain }
}

fn outcome_of(reading: Reading) -> Outcome {
    match reading.finding {
        Finding::Correct { .. } => Outcome::Correct,
        Finding::Error(code) => Outcome::Incorrect(code),
    }
}

/// The judgement with a language model.
fn judged_by(mode: JudgeMode, reading: Reading, ruling: &Ruling) -> Judged {
    let by_llm = match (ruling.unscored, &ruling.verdict.result) {
        (Some(reason), _) => Outcome::Unscored(reason),
        (None, Ok(Judgement::Correct)) => Outcome::Correct,
        // The rules' code says how the answer is wrong; if the rules find it correct, the code is `disputed`.
        (None, _) => match reading.finding {
            Finding::Correct { .. } => Outcome::Incorrect(ErrorCode::Disputed),
            Finding::Error(code) => Outcome::Incorrect(code),
        },
    };
    let rules = JudgeVerdict {
        judge: JudgeKind::Rules.name().to_owned(),
        result: Ok(reading.verdict_where_certain()),
        reply: None,
    };
    let (verdicts, outcome) = match mode {
        JudgeMode::RulesAndLlm if reading.certain => (vec![rules, ruling.verdict.clone()], outcome_of(reading)),
        JudgeMode::RulesAndLlm => (vec![rules, ruling.verdict.clone()], by_llm),
        JudgeMode::Rules | JudgeMode::Llm => (vec![ruling.verdict.clone()], by_llm),
    };
    Judged { verdicts, outcome, certain_by_rules: reading.certain }
}

#[cfg(test)]
mod tests;
