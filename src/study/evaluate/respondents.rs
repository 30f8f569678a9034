//! Who can be asked, in one list: a third kind is a variant here, with how it is opened and what it is asked.

use anyhow::{Context, Result, ensure};

use super::comparator::{self, Comparator, ComparatorRequest};
use crate::dataset::Dataset;
use crate::domain::{DatasetSpec, Mode, ProbeSpec, RunId};
use crate::eval::{
    self, Batching, Captions, Opened, OpenedSubjects, Question, SERVED_BATCH_SIZE, ServedRequest, ServedSubjects,
    SubjectsRequest, Task,
};
use crate::model::Placement;
use crate::model::families::RenderedPrompt;
use crate::prompting::PromptTemplate;

/// Who is asked.
pub enum RespondentRequest<'a> {
    /// A checkpoint, and adapters over it, which run here.
    Checkpoint(SubjectsRequest<'a>),
    /// Models behind a server.
    Server(ServedRequest<'a>),
}

impl RespondentRequest<'_> {
    /// Opens it, and says what it is asked of every dataset.
    pub(super) fn open(&self, wanted: Wanted<'_>) -> Result<Asked> {
        match self {
            Self::Checkpoint(request) => open_checkpoint(request, wanted),
            Self::Server(request) => open_server(request, wanted),
        }
    }
}

/// What is asked of whom, before any of it is opened.
pub(super) struct Wanted<'a> {
    pub datasets: Vec<Dataset>,
    pub sample_seed: u64,
    pub limit: Option<usize>,
    pub template: &'a PromptTemplate,
    pub captions: Captions,
    pub modes: &'a [Mode],
    pub max_new_tokens: usize,
    pub batch_size: Option<usize>,
    pub placement: &'a Placement,
    pub comparator: &'a ComparatorRequest<'a>,
}

/// Whoever was opened, with what is asked.
pub(super) struct Asked {
    pub respondent: Box<dyn Opened>,
    /// By run.
    pub specs: Vec<Vec<DatasetSpec>>,
    pub tasks: Vec<Task>,
    pub comparator_warnings: Vec<String>,
    pub probe: Option<ProbeSpec>,
    pub batching: Batching,
}

fn open_checkpoint(request: &SubjectsRequest<'_>, wanted: Wanted<'_>) -> Result<Asked> {
    ensure!(
        !(request.is_merged && wanted.placement.rounds_to_int8),
        "--merge would round weights to 8 bits a second time; hint: leave --merge out (updates are then computed \
         separately), or leave `+int8` out of --dtype"
    );
    let subjects = OpenedSubjects::open(request)?;
    let Comparator { probes, warnings } =
        comparator::choose(wanted.comparator, &subjects, &wanted.datasets, wanted.sample_seed, wanted.limit)?;
    let probe = comparator::probe_spec(&subjects, RunId::new(0), &wanted.datasets, &probes)?;
    let mut specs: Vec<Vec<DatasetSpec>> = vec![Vec::new(); subjects.n_runs()];
    let (mut tasks, mut n_tokens_max) = (Vec::with_capacity(wanted.datasets.len()), 0);
    for (dataset, shots) in wanted.datasets.into_iter().zip(probes) {
        let prompt = wanted.template.render(&dataset.noun, &dataset.labels)?;
        let question = Question::about_one_image(prompt.clone(), wanted.captions.of(&dataset));
        let spec = eval::dataset_spec(&dataset, &question, subjects.has_encoder(), shots.as_ref());
        for (run, specs) in RunId::all(specs.len()).zip(&mut specs) {
            let rendered = subjects.render(run, &question.conversation)?;
            let n_new = n_new_positions(&subjects, run, &dataset, &rendered, wanted.modes, wanted.max_new_tokens)?;
            n_tokens_max = n_tokens_max.max(rendered.ids.len() + n_new);
            let mut spec = spec.clone();
            spec.prompts.splice(0..0, eval::model_prompts(&prompt, &rendered, wanted.modes));
            specs.push(spec);
        }
        tasks.push(Task::new(dataset, question, shots));
    }
    let size = subjects.batch_size(wanted.batch_size, n_tokens_max, wanted.placement)?;
    let batching = Batching { size, is_served: false };
    Ok(Asked { respondent: Box::new(subjects), specs, tasks, comparator_warnings: warnings, probe, batching })
}

/// The server renders prompts and knows its own limits; what does not fit, it refuses.
fn open_server(request: &ServedRequest<'_>, wanted: Wanted<'_>) -> Result<Asked> {
    let subjects = ServedSubjects::open(request)?;
    let warnings = comparator::of_served(wanted.comparator.choice, subjects.has_encoder())?;
    let (mut specs, mut tasks) = (Vec::new(), Vec::with_capacity(wanted.datasets.len()));
    for dataset in wanted.datasets {
        let prompt = wanted.template.render(&dataset.noun, &dataset.labels)?;
        let question = Question::about_one_image(prompt.clone(), wanted.captions.of(&dataset));
        let mut spec = eval::dataset_spec(&dataset, &question, subjects.has_encoder(), None);
        spec.prompts.splice(0..0, eval::served_prompts(&prompt, wanted.modes));
        specs.push(spec);
        tasks.push(Task::new(dataset, question, None));
    }
    let batching = Batching { size: wanted.batch_size.unwrap_or(SERVED_BATCH_SIZE), is_served: true };
    let specs = vec![specs; subjects.n_runs()];
    Ok(Asked { respondent: Box::new(subjects), specs, tasks, comparator_warnings: warnings, probe: None, batching })
}

/// Positions that answers to a dataset's prompt need after it, once they are known to fit.
fn n_new_positions(
    subjects: &OpenedSubjects,
    run: RunId,
    dataset: &Dataset,
    rendered: &RenderedPrompt,
    modes: &[Mode],
    max_new_tokens: usize,
) -> Result<usize> {
    subjects.check_length(run, &dataset.name, rendered.ids.len(), max_new_tokens)?;
    if !modes.contains(&Mode::Score) {
        return Ok(max_new_tokens);
    }
    let labels: Vec<&str> = dataset.labels.names().collect();
    let trie = subjects
        .label_trie(run, rendered, &labels)
        .with_context(|| format!("the labels of `{}` cannot be scored", dataset.name))?;
    subjects.check_length(run, &dataset.name, rendered.ids.len(), trie.depth())?;
    Ok(max_new_tokens.max(trie.n_nodes()))
}
