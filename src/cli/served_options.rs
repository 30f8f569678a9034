//! Flags of models behind a server.

use std::path::Path;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use super::eval::EvalOptions;
use super::{environment, extra_body};
use crate::api::ChatConfig;
use crate::eval::refuse_equal_names;
use crate::model::run::served::{ServedName, ServerRequest};

/// Fields that a flag of their own sets.
const TAKEN_FIELDS: [(&str, &str); 3] =
    [("model", "--served-model"), ("max_tokens", "--max-new-tokens"), ("max_completion_tokens", "--max-new-tokens")];

/// How a model behind a server is asked.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Served models")]
pub(super) struct ServedOptions {
    /// Model by the name of its server [default: the server's only model]
    ///
    /// Several are separated by commas or repeated; each is a run in DIR/NAME. The key is in EMT_MODEL_API_KEY or OPENAI_API_KEY.
    /// --max-connections, --timeout and --retry-base apply to this server as well.
    #[arg(long = "served-model", value_name = "[NAME=]MODEL", value_delimiter = ',')]
    served_models: Vec<String>,
    /// Ask the server for log-probabilities, which `logit_gap` needs to show near-ties
    #[arg(long, hide_short_help = true)]
    logprobs: bool,
    /// Whether the server's tokenizer adds its special tokens to the rendered chat
    ///
    /// `auto` asks vLLM whether it would omit the beginning-of-sequence token, and adds the tokens if so.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", hide_short_help = true)]
    add_special_tokens: SpecialTokens,
    /// Additional fields of each request to the server of --model, as a JSON object or NAME=VALUE; repeatable
    ///
    /// null leaves a field out. '{"chat_template_kwargs":{"enable_thinking":false}}' keeps many reasoning models from thinking.
    #[arg(long, value_name = "JSON|NAME=VALUE", hide_short_help = true)]
    extra_body: Vec<String>,
    /// Maximum requests to the server of --model per minute
    #[arg(long, value_name = "N", hide_short_help = true)]
    requests_per_minute: Option<u64>,
    /// Maximum tokens of the server of --model per minute, prompts and answers together
    #[arg(long, value_name = "N", hide_short_help = true)]
    tokens_per_minute: Option<u64>,
    /// Number of samples that the server is asked a second time at the end
    ///
    /// The share of changed answers is the server's own noise. Every comparison shows it.
    #[arg(long, value_name = "N", default_value_t = 20, hide_short_help = true)]
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

    /// How many models are named.
    pub(super) fn n_named(&self) -> usize {
        self.served_models.len()
    }

    /// What is asked of the server.
    pub(super) fn request(&self, model: &Path, options: &EvalOptions, scores_labels: bool) -> Result<ServerRequest> {
        let (api_key_variable, api_key) = environment::model_api_key();
        let connection = options.judging.connection()?;
        let models: Vec<ServedName> = self.served_models.iter().map(|text| name(text)).collect::<Result<_>>()?;
        // Before the server is asked anything.
        refuse_equal_names(&models)?;
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
            "--served-model {text}: `{name}` cannot be the name of a run's folder"
        );
    }
    Ok(ServedName { name: name.map(str::to_owned), model: model.to_owned() })
}
