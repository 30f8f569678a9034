//! Requests in flight to a server, and their replies.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::images::{ImageSource, PreparedBatch, PreparedForServer, PreparedSample, ServerPreparation};
use super::plan::SampleWork;
use super::respondent::{Asked, Respondent};
use super::subjects::{AnsweredBatch, AnsweredSample, Answers, Failure, FromServer};
use super::task::{Task, TaskId};
use crate::api::{ChatError, ChatReply, ChatRequest, Message};
use crate::domain::{Mode, N_SCORES_KEPT, RunId, RunSet, ScoredLabel, SplitReply};
use crate::model::run::scoring::{ranking, shares};
use crate::model::run::served::{self, LabelScoring, LabelTokens, Server, label_tokens, scores};
use crate::model::run::subjects::{ItemAnswers, LabelChoice};
use crate::model::vision::preprocess::ImageInput;
use crate::model::vision::zero_shot::{EmbeddedLabels, ZeroShot};

/// The longest wait for a reply before other work is checked.
const WAIT: Duration = Duration::from_millis(50);

/// Models behind a server, and a local encoder.
pub(super) struct ServedRespondent {
    server: Server,
    encoder: Option<ZeroShot>,
    /// The questions by task, empty until prepared.
    questions: Vec<ServerQuestion>,
    max_new_tokens: usize,
}

/// What is asked about every image of a dataset.
struct ServerQuestion {
    labels: Vec<String>,
    for_encoder: Option<EmbeddedLabels>,
}

impl ServedRespondent {
    /// Builds the respondent from a probed server and a loaded encoder.
    pub fn new(server: Server, encoder: Option<ZeroShot>) -> Self {
        Self { server, encoder, questions: Vec::new(), max_new_tokens: 0 }
    }

    fn question(&self, task: TaskId) -> &ServerQuestion {
        &self.questions[task.place()]
    }
}

impl Respondent for ServedRespondent {
    /// Embeds captions. The server renders the prompts.
    fn prepare(&mut self, tasks: &[Task], asked: &Asked<'_>) -> Result<()> {
        let question = |Task { dataset, question, .. }: &Task| -> Result<ServerQuestion> {
            let labels: Vec<&str> = dataset.labels.names().collect();
            let embed = |encoder: &ZeroShot| encoder.embed(&question.captions, &labels);
            Ok(ServerQuestion {
                for_encoder: self.encoder.as_ref().map(embed).transpose()?,
                labels: labels.into_iter().map(str::to_owned).collect(),
            })
        };
        self.questions = tasks.iter().map(question).collect::<Result<_>>()?;
        self.max_new_tokens = asked.max_new_tokens;
        Ok(())
    }

    fn answer_all(&mut self, source: &ImageSource<'_>, sender: &SyncSender<Result<AnsweredBatch>>) {
        let encoder = self.encoder.as_ref().map(|encoder| encoder.preprocessor().clone());
        let (asker, is_stopped) = (&*self, source.is_stopped);
        source.ahead(&ServerPreparation { encoder }, |prepared| {
            let mut desk = Desk { asker, sender, is_stopped, jobs: BTreeMap::new(), samples: BTreeMap::new(), next: 0 };
            if let Err(error) = desk.work(prepared) {
                // The send fails only if the receiver is gone, and then nobody needs the error.
                let _ = sender.send(Err(error));
            }
        });
    }

    fn ask_again(&self, run: RunId, task: &Task, positions: &[usize]) -> Result<Vec<Option<String>>> {
        let client = self.server.client();
        let mut answers: Vec<Option<String>> = vec![None; positions.len()];
        let receive = |answers: &mut [Option<String>], wait| -> Result<()> {
            if let Some((ticket, result)) = client.recv_timeout(wait) {
                let reply = refuse_fatal(result)?;
                let said = reply.ok().and_then(|reply| self.server.answer(run.place(), &reply).ok());
                // Only the answer is compared, not the thought.
                answers[ticket as usize] = said.and_then(|said| SplitReply::new(&said.text, false).answer);
            }
            Ok(())
        };
        for (ticket, &position) in positions.iter().enumerate() {
            let Ok(item) = task.item(position) else { continue };
            let messages = served::messages(&item)?;
            while client.n_outstanding() >= client.capacity() {
                receive(&mut answers, WAIT)?;
            }
            let request = self.server.generate_request(run.place(), &messages, self.max_new_tokens);
            client.submit(request, ticket as u64);
        }
        while client.n_outstanding() > 0 {
            receive(&mut answers, WAIT)?;
        }
        Ok(answers)
    }
}

/// What a request asks for.
struct Job {
    sample: u64,
    run: RunId,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Generate,
    /// The label with this index.
    Label(usize),
    /// All labels, under a constraint.
    Choice,
}

/// A sample with requests in flight.
struct OpenSample {
    task: TaskId,
    work: SampleWork,
    content: String,
    n_open: usize,
    /// By run, the replies about its labels so far.
    labels: BTreeMap<RunId, OpenLabels>,
}

struct OpenLabels {
    n_open: usize,
    tokens: Vec<Option<LabelTokens>>,
    failure: Option<Failure>,
}

struct Desk<'a> {
    asker: &'a ServedRespondent,
    sender: &'a SyncSender<Result<AnsweredBatch>>,
    is_stopped: &'a (dyn Fn() -> bool + Sync),
    jobs: BTreeMap<u64, Job>,
    samples: BTreeMap<u64, OpenSample>,
    next: u64,
}

/// The receiver of answers is gone.
struct Gone;

impl Desk<'_> {
    fn work(&mut self, prepared: &Receiver<PreparedBatch<PreparedForServer>>) -> Result<()> {
        loop {
            let batch = match prepared.try_recv() {
                Ok(batch) => batch,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if self.jobs.is_empty() => match prepared.recv() {
                    Ok(batch) => batch,
                    Err(_) => break,
                },
                Err(TryRecvError::Empty) => {
                    if self.receive(WAIT)?.is_err() {
                        return Ok(());
                    }
                    continue;
                }
            };
            if self.take(batch)?.is_err() {
                return Ok(());
            }
        }
        while !self.jobs.is_empty() {
            if self.receive(WAIT)?.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends the requests of a batch, and asks the encoder while they are in flight.
    fn take(&mut self, batch: PreparedBatch<PreparedForServer>) -> Result<Result<(), Gone>> {
        let task = batch.task;
        let (mut settled, mut for_encoder) = (Vec::new(), Vec::new());
        let mut n_done = 0;
        for PreparedSample { work, item } in batch.samples {
            // On a stop, requests in flight are awaited and no new ones are sent.
            if (self.is_stopped)() {
                return Ok(self.send(AnsweredBatch { task, samples: settled, n_done }));
            }
            let item = match item {
                Ok(item) => item,
                Err(unreadable) => {
                    n_done += 1;
                    settled.push(AnsweredSample { work, result: Err(unreadable) });
                    continue;
                }
            };
            if let Some(input) = item.for_encoder {
                for_encoder.push((work, item.content.clone(), input));
            }
            match item.messages {
                Some(Ok(messages)) => {
                    if self.submit(task, work, &item.content, &messages)?.is_err() {
                        return Ok(Err(Gone));
                    }
                }
                Some(Err(message)) => {
                    n_done += 1;
                    settled.push(unsendable(work, item.content, &message));
                }
                None => n_done += 1,
            }
        }
        if let (Some(encoder), false) = (&self.asker.encoder, for_encoder.is_empty()) {
            settled.extend(self.ask_encoder(encoder, task, for_encoder)?);
        }
        Ok(self.send(AnsweredBatch { task, samples: settled, n_done }))
    }

    fn ask_encoder(
        &self,
        encoder: &ZeroShot,
        task: TaskId,
        asked: Vec<(SampleWork, String, ImageInput)>,
    ) -> Result<Vec<AnsweredSample>> {
        let labels = self.asker.question(task).for_encoder.as_ref().context("the encoder has no captions")?;
        let inputs: Vec<&ImageInput> = asked.iter().map(|(.., input)| input).collect();
        let ranked = encoder.rank(labels, &inputs)?;
        let answered = asked.into_iter().zip(ranked).map(|((work, content, _), ranking)| {
            let answers = ItemAnswers { encoder: Some(ranking), ..ItemAnswers::default() };
            AnsweredSample {
                work,
                result: Ok(Answers {
                    content,
                    images: Vec::new(),
                    answers,
                    probed: Vec::new(),
                    from_server: FromServer::default(),
                }),
            }
        });
        Ok(answered.collect())
    }

    /// Sends all requests about one sample. Receives replies while the client is full.
    fn submit(
        &mut self,
        task: TaskId,
        work: SampleWork,
        content: &str,
        messages: &[Message],
    ) -> Result<Result<(), Gone>> {
        let (server, question) = (&self.asker.server, self.asker.question(task));
        let mut jobs: Vec<(RunId, Kind, ChatRequest)> = Vec::new();
        let mut labels = BTreeMap::new();
        for run in work.generate.iter() {
            let request = server.generate_request(run.place(), messages, self.asker.max_new_tokens);
            jobs.push((run, Kind::Generate, request));
        }
        for run in work.score.iter() {
            let model = &server.models()[run.place()];
            let scoring = model.label_scoring.as_ref().context("the labels of a served model were not prepared")?;
            let requests = scoring.requests(model, messages, &question.labels);
            let is_by_label = matches!(scoring, LabelScoring::PromptLogprobs { .. });
            if is_by_label {
                let tokens = vec![None; requests.len()];
                labels.insert(run, OpenLabels { n_open: requests.len(), tokens, failure: None });
            }
            let kind = |index| if is_by_label { Kind::Label(index) } else { Kind::Choice };
            jobs.extend(requests.into_iter().enumerate().map(|(index, request)| (run, kind(index), request)));
        }
        let sample = self.ticket();
        let open = OpenSample { task, work, content: content.to_owned(), n_open: jobs.len(), labels };
        self.samples.insert(sample, open);
        for (run, kind, request) in jobs {
            while server.client().n_outstanding() >= server.client().capacity() {
                if self.receive(WAIT)?.is_err() {
                    return Ok(Err(Gone));
                }
            }
            let ticket = self.ticket();
            self.jobs.insert(ticket, Job { sample, run, kind });
            server.client().submit(request, ticket);
        }
        Ok(Ok(()))
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Waits up to `wait` for the first reply, and takes in all replies that have arrived.
    fn receive(&mut self, wait: Duration) -> Result<Result<(), Gone>> {
        let mut wait = wait;
        let mut settled: BTreeMap<TaskId, AnsweredBatch> = BTreeMap::new();
        let mut failure = None;
        while let Some((ticket, result)) = self.asker.server.client().recv_timeout(wait) {
            wait = Duration::ZERO;
            match self.settle(ticket, result) {
                Ok(Some((task, sample, n_done))) => {
                    let batch = settled.entry(task).or_insert(AnsweredBatch { task, samples: Vec::new(), n_done: 0 });
                    batch.samples.push(sample);
                    batch.n_done += n_done;
                }
                Ok(None) => {}
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        // Answers are written down before the run ends with an error.
        for batch in settled.into_values() {
            if self.send(batch).is_err() {
                return Ok(Err(Gone));
            }
        }
        failure.map_or(Ok(Ok(())), Err)
    }

    fn send(&self, batch: AnsweredBatch) -> Result<(), Gone> {
        if batch.samples.is_empty() && batch.n_done == 0 {
            return Ok(());
        }
        self.sender.send(Ok(batch)).map_err(|_| Gone)
    }

    /// Handles one completion. Returns the task, what is now known, and 1 if the sample is done, else 0.
    fn settle(
        &mut self,
        ticket: u64,
        result: Result<ChatReply, ChatError>,
    ) -> Result<Option<(TaskId, AnsweredSample, usize)>> {
        let Some(Job { sample, run, kind }) = self.jobs.remove(&ticket) else { return Ok(None) };
        let reply = refuse_fatal(result)?;
        let Some(open) = self.samples.get_mut(&sample) else {
            bail!("a reply came for a sample that was not requested")
        };
        open.n_open -= 1;
        let n_done = usize::from(open.n_open == 0);
        let mut answers = ItemAnswers::default();
        let mut from_server = FromServer::default();
        let question = self.asker.question(open.task);
        match kind {
            Kind::Generate => {
                let answer = reply.map_err(|error| failed(run, Mode::Generate, &error)).and_then(|reply| {
                    self.asker
                        .server
                        .answer(run.place(), &reply)
                        .map_err(|message| no_answer(run, Mode::Generate, message))
                });
                match answer {
                    Ok(answer) => answers.generated.push((run, Ok(answer))),
                    Err(failure) => from_server.failed.push(failure),
                }
            }
            Kind::Choice => match choice(&self.asker.server, run, reply, &question.labels) {
                Ok((label, n_tokens)) => from_server.held.push((run, label, n_tokens)),
                Err(failure) => from_server.failed.push(failure),
            },
            Kind::Label(index) => {
                let end = match &self.asker.server.models()[run.place()].label_scoring {
                    Some(LabelScoring::PromptLogprobs { end }) => end.as_str(),
                    _ => bail!("a label was scored in a way that was not asked for"),
                };
                let labels = open.labels.get_mut(&run).context("a label was scored that was not requested")?;
                match labels.take(run, index, end, reply, &question.labels) {
                    Some(Ok(choice)) => answers.scored.push((run, Ok(choice))),
                    Some(Err(failure)) => from_server.failed.push(failure),
                    None => {}
                }
            }
        }
        let (task, work, content) = (open.task, open.work, open.content.clone());
        if n_done > 0 {
            self.samples.remove(&sample);
        }
        let result = Ok(Answers { content, images: Vec::new(), answers, probed: Vec::new(), from_server });
        Ok(Some((task, AnsweredSample { work, result }, n_done)))
    }
}

/// Returns the label that the server chose under its constraint.
fn choice(
    server: &Server,
    run: RunId,
    reply: Result<ChatReply, ChatError>,
    labels: &[String],
) -> Result<(String, Option<u32>), Failure> {
    let reply = reply.map_err(|error| failed(run, Mode::Score, &error))?;
    match &server.models()[run.place()].label_scoring {
        Some(LabelScoring::Constraint(constraint)) => {
            let label = constraint.choice(&reply, labels).map_err(|message| no_answer(run, Mode::Score, message))?;
            Ok((label, reply.n_prompt_tokens))
        }
        _ => Err(no_answer(run, Mode::Score, "a label was chosen in a way that was not asked for".to_owned())),
    }
}

impl OpenLabels {
    /// Takes in the reply about one label. Returns the choice with the last label.
    fn take(
        &mut self,
        run: RunId,
        index: usize,
        end: &str,
        reply: Result<ChatReply, ChatError>,
        names: &[String],
    ) -> Option<Result<LabelChoice, Failure>> {
        self.n_open -= 1;
        let tokens = reply
            .map_err(|error| failed(run, Mode::Score, &error))
            .and_then(|reply| label_tokens(&reply, end).map_err(|message| no_answer(run, Mode::Score, message)));
        match tokens {
            Ok(tokens) => self.tokens[index] = Some(tokens),
            // A failure that may pass is kept over one that does not: it makes a resumed run ask all labels again.
            Err(failure) if self.failure.as_ref().is_none_or(|kept| !kept.may_pass) => self.failure = Some(failure),
            Err(_) => {}
        }
        if self.n_open > 0 {
            return None;
        }
        if let Some(failure) = self.failure.take() {
            return Some(Err(failure));
        }
        let tokens: Vec<LabelTokens> = self.tokens.iter_mut().filter_map(Option::take).collect();
        Some(choose(&tokens, names).map_err(|message| no_answer(run, Mode::Score, message)))
    }
}

fn choose(tokens: &[LabelTokens], names: &[String]) -> Result<LabelChoice, String> {
    let (scores, n_prompt_tokens) = scores(tokens)?;
    let shares = shares(&scores);
    let scored = |i: usize| ScoredLabel { label: names[i].clone(), score: scores[i], share: Some(shares[i]) };
    let best = ranking(&scores).into_iter().take(N_SCORES_KEPT).map(scored).collect();
    // A prior correction needs the model's mean-colour image, and a server does not report what that is.
    Ok(LabelChoice { scores: best, prior_corrected: None, n_prompt_tokens })
}

/// Returns the reply or its failure, or an error if no further request can succeed.
fn refuse_fatal(result: Result<ChatReply, ChatError>) -> Result<Result<ChatReply, ChatError>> {
    match result {
        Err(error) if error.is_fatal() => {
            Err(anyhow!("{error}; the answers so far are recorded, and the same command continues"))
        }
        result => Ok(result),
    }
}

fn failed(run: RunId, mode: Mode, error: &ChatError) -> Failure {
    Failure { run, mode, message: error.to_string(), may_pass: error.is_passing() }
}

fn no_answer(run: RunId, mode: Mode, message: String) -> Failure {
    Failure { run, mode, message, may_pass: false }
}

/// Returns the failed answers of a sample whose image cannot be put into a request.
fn unsendable(work: SampleWork, content: String, message: &str) -> AnsweredSample {
    let of_mode = |mode, runs: RunSet| runs.iter().map(move |run| (run, mode)).collect::<Vec<_>>();
    let asked = [of_mode(Mode::Generate, work.generate), of_mode(Mode::Score, work.score)].concat();
    let failed = asked.into_iter().map(|(run, mode)| no_answer(run, mode, message.to_owned())).collect();
    let from_server = FromServer { held: Vec::new(), failed };
    AnsweredSample {
        work,
        result: Ok(Answers {
            content,
            images: Vec::new(),
            answers: ItemAnswers::default(),
            probed: Vec::new(),
            from_server,
        }),
    }
}
