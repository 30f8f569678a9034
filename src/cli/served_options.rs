//! Flags of models behind a server.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use super::eval::{EvalOptions, GenerationConfigName};
use super::{environment, extra_body};
use crate::api::ChatConfig;
use crate::model::served::{ServedName, ServerRequest};

/// Fields that a flag of their own sets.
const TAKEN_FIELDS: [(&str, &str); 3] =
    [("model", "--served-model"), ("max_tokens", "--max-new-tokens"), ("max_completion_tokens", "--max-new-tokens")];

/// How a model behind a server is asked.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Served models")]
pub(super) struct ServedOptions {
    /// Model at --model http://HOST/v1, as its server calls it; default: the only one that it has. Several, separated by
    /// commas or repeated, are a run each, in DIR/NAME. The key is EMT_MODEL_API_KEY, else OPENAI_API_KEY; --max-connections,
    /// --timeout and --retry-base hold for it as for a judge
    #[arg(long = "served-model", value_name = "[NAME=]MODEL", value_delimiter = ',')]
    served_models: Vec<String>,
    /// Ask the server for log-probabilities, for the near-ties in `logit_gap`
    #[arg(long)]
    logprobs: bool,
    /// Whether the server's tokenizer adds its special tokens to the rendered chat; `auto`: where vLLM would leave the
    /// beginning-of-sequence token out, which is asked of it
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    add_special_tokens: SpecialTokens,
    /// Further fields of each request to the server of --model, as a JSON object or NAME=VALUE; may be repeated; null leaves a
    /// field out. `'{"chat_template_kwargs":{"enable_thinking":false}}'` keeps many reasoning models from thinking
    #[arg(long, value_name = "JSON|NAME=VALUE")]
    extra_body: Vec<String>,
    /// Most requests a minute to the server of --model
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Most tokens a minute, prompts and answers, by the server of --model
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Samples that the server is asked about again at the end: how often it answers another thing is its own noise, and
    /// stands in every comparison
    #[arg(long, value_name = "N", default_value_t = 20)]
    server_repeats: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SpecialTokens {
    Auto,
    True,
    False,
}

/// Whether `--model` is the address of a server.
pub(super) fn is_address(model: &Path) -> bool {
    model.to_str().is_some_and(|text| ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)))
}

/// `--model` as it may be recorded: a query may hold a key.
pub(super) fn shown(model: &Path) -> String {
    let text = model.display().to_string();
    if !is_address(model) {
        return text;
    }
    text.split(['?', '#']).next().unwrap_or_default().to_owned()
}

impl ServedOptions {
    /// Samples that are asked about again.
    pub(super) fn n_repeats(&self) -> usize {
        self.server_repeats
    }

    /// Refuses flags that only a served model has.
    pub(super) fn refuse_for_local(&self, model: &Path) -> Result<()> {
        let is_given = !self.served_models.is_empty()
            || self.logprobs
            || !self.extra_body.is_empty()
            || self.add_special_tokens != SpecialTokens::Auto;
        ensure!(
            !is_given,
            "--served-model, --logprobs, --extra-body and --add-special-tokens are for a model behind a server, and `{}` is a checkpoint; \
             hint: --model http://HOST:PORT/v1",
            model.display()
        );
        Ok(())
    }

    /// What is asked of the server.
    pub(super) fn request(&self, model: &Path, options: &EvalOptions, scores_labels: bool) -> Result<ServerRequest> {
        refuse_local_flags(options)?;
        let (api_key_variable, api_key) = environment::model_api_key();
        let connection = options.judging.connection()?;
        let models: Vec<ServedName> = self.served_models.iter().map(|text| name(text)).collect::<Result<_>>()?;
        let first = models.first().map_or_else(String::new, |name| name.model.clone());
        let chat = ChatConfig {
            api_key,
            api_key_variable,
            max_connections: connection.max_connections,
            timeout_ms: connection.timeout_ms,
            retry_base_ms: connection.retry_base_ms,
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            ..ChatConfig::new(model.display().to_string(), first)
        };
        let extra_body = extra_body::parse("--extra-body", &self.extra_body, &chat, &TAKEN_FIELDS)?;
        let chat = ChatConfig { extra_body, ..chat };
        Ok(ServerRequest {
            chat,
            models,
            asks_logprobs: self.logprobs,
            adds_special_tokens: match self.add_special_tokens {
                SpecialTokens::Auto => None,
                SpecialTokens::True => Some(true),
                SpecialTokens::False => Some(false),
            },
            scores_labels,
        })
    }
}

/// Flags that say how a checkpoint is loaded would be ignored by a server that loaded it already.
fn refuse_local_flags(options: &EvalOptions) -> Result<()> {
    let refused = [
        ("--adapter", !options.adapters.adapters.is_empty(), "the server loads adapters: name them in --served-model"),
        ("--template", options.template.is_some(), "the server renders the chat: vLLM takes --chat-template"),
        ("--dtype", options.dtype != "auto", "the server was started with its own; the encoder runs in f32 on a cpu"),
        (
            "--generation-config",
            options.generation_config != GenerationConfigName::Checkpoint,
            "the server reads it when it starts: vLLM takes --generation-config",
        ),
        ("--min-pixels", options.min_pixels.is_some(), "the server resizes images: vLLM takes --mm-processor-kwargs"),
        ("--max-pixels", options.max_pixels.is_some(), "the server resizes images: vLLM takes --mm-processor-kwargs"),
    ];
    match refused.into_iter().find(|(_, is_given, _)| *is_given) {
        Some((flag, _, hint)) => bail!("{flag} has no effect on a model behind a server; hint: {hint}"),
        None => Ok(()),
    }
}

fn name(text: &str) -> Result<ServedName> {
    let (name, model) = match text.split_once('=') {
        Some((name, model)) => (Some(name), model),
        None => (None, text),
    };
    let (name, model) = (name.map(str::trim), model.trim());
    ensure!(!model.is_empty(), "--served-model {text} names no model; hint: --served-model NAME=MODEL");
    if let Some(name) = name {
        ensure!(
            !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..",
            "--served-model {text}: `{name}` names a folder of the run, and cannot"
        );
    }
    Ok(ServedName { name: name.map(str::to_owned), model: model.to_owned() })
}
