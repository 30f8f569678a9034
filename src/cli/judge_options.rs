//! The judge's flags, shared by every command that judges.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::{environment, extra_body};
use crate::api::ChatConfig;
use crate::judging::{JudgeMode, JudgePreset, JudgePrompt, LlmJudge, PanelConfig, Scope};
use crate::record;

/// Fields that a flag of their own sets.
const TAKEN_FIELDS: [(&str, &str); 3] = [
    ("model", "--judge-model"),
    ("max_tokens", "--judge-reply-tokens"),
    ("max_completion_tokens", "--judge-reply-tokens"),
];

impl ValueEnum for JudgeMode {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let about = match self {
            Self::Rules => "The deterministic taxonomy alone; offline",
            Self::Llm => "A language model decides; rules give the codes of errors",
            Self::RulesAndLlm => "Rules where they are certain, a language model elsewhere",
        };
        Some(PossibleValue::new(self.name()).help(about))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScopeName {
    /// About every distinct pair of label and answer
    All,
    /// Only where the rules are not certain
    Residual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PresetName {
    /// The EMT paper's: temperature 0.2, 64 tokens
    Paper,
}

/// Who judges.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Judging")]
pub(super) struct JudgeOptions {
    /// Judge that decides whether an answer means the label
    #[arg(long, value_enum, default_value = "rules")]
    judge: JudgeMode,
    /// Address of the judge's server [default: EMT_JUDGE_BASE_URL, then OPENAI_BASE_URL]
    ///
    /// Any OpenAI-compatible server, with or without /v1. The key is in EMT_JUDGE_API_KEY or OPENAI_API_KEY.
    #[arg(long, value_name = "URL")]
    judge_url: Option<String>,
    /// The judge's model by the server's name
    #[arg(long, value_name = "NAME")]
    judge_model: Option<String>,
    /// Judge prompt: `strict`, `emt` (the paper's, verbatim), or a file with {label} and {answer}
    #[arg(long, value_name = "NAME|FILE", default_value = "strict", hide_short_help = true)]
    judge_prompt: String,
    /// Named sampling parameters [default: temperature 0]
    #[arg(long, value_enum, hide_short_help = true)]
    judge_preset: Option<PresetName>,
    /// Answers that the language model of `rules+llm` is asked about
    #[arg(long, value_enum, default_value = "residual", hide_short_help = true)]
    judge_scope: ScopeName,
    /// Most tokens of one reply of the judge, its thoughts included [default: 2048]
    ///
    /// A server that takes fewer gets fewer. With the paper's preset the default is 64.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), hide_short_help = true)]
    judge_reply_tokens: Option<u32>,
    /// Further fields of each request to the judge, as a JSON object or NAME=VALUE; repeatable
    ///
    /// null leaves a field out. '{"chat_template_kwargs":{"enable_thinking":false}}' keeps many reasoning models from thinking.
    #[arg(long, value_name = "JSON|NAME=VALUE", hide_short_help = true)]
    judge_extra_body: Vec<String>,
    /// Most requests at the same time, to a judge and to a served model
    #[arg(long, value_name = "N", default_value_t = 8, hide_short_help = true, help_heading = "Requests")]
    max_connections: usize,
    /// Seconds per attempt, of a judge and of a served model
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, hide_short_help = true, help_heading = "Requests")]
    timeout: f64,
    /// Seconds before the first retry, doubled per retry, unless the server names a time
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, hide_short_help = true, help_heading = "Requests")]
    retry_base: f64,
    /// Most calls of the judge in all; answers beyond them stay unscored
    #[arg(long, value_name = "N", hide_short_help = true)]
    judge_max_calls: Option<u64>,
    /// Most tokens of the judge in all, prompts and replies
    #[arg(long, value_name = "N", hide_short_help = true)]
    judge_max_tokens: Option<u64>,
    /// Most requests to the judge per minute
    #[arg(long, value_name = "N", hide_short_help = true)]
    judge_requests_per_minute: Option<u64>,
    /// Most tokens of the judge per minute
    #[arg(long, value_name = "N", hide_short_help = true)]
    judge_tokens_per_minute: Option<u64>,
}

/// How hard a server may be asked.
pub(super) struct Connection {
    pub max_connections: usize,
    pub timeout_ms: u64,
    pub retry_base_ms: u64,
}

impl JudgeOptions {
    /// The judges that the flags ask for.
    pub fn panel_config(&self) -> Result<PanelConfig> {
        if self.judge == JudgeMode::Rules {
            return Ok(PanelConfig::rules());
        }
        let scope = match self.judge_scope {
            ScopeName::All => Scope::All,
            ScopeName::Residual => Scope::Residual,
        };
        Ok(PanelConfig { mode: self.judge, scope, llm: Some(self.llm()?) })
    }

    /// How hard a server may be asked, be it the judge's or the model's.
    pub fn connection(&self) -> Result<Connection> {
        if self.max_connections == 0 {
            bail!("--max-connections must be at least 1");
        }
        Ok(Connection {
            max_connections: self.max_connections,
            timeout_ms: milliseconds("--timeout", self.timeout)?,
            retry_base_ms: milliseconds("--retry-base", self.retry_base)?,
        })
    }

    fn llm(&self) -> Result<LlmJudge> {
        let url = self.judge_url.clone().or_else(environment::judge_base_url).context(
            "a language-model judge needs a server; hint: --judge-url http://host:port/v1, or EMT_JUDGE_BASE_URL",
        )?;
        let model = self
            .judge_model
            .clone()
            .context("a language-model judge needs a model; hint: --judge-model NAME, as the server calls it")?;
        let connection = self.connection()?;
        let (api_key_variable, api_key) = environment::judge_api_key();
        let chat = ChatConfig {
            api_key,
            api_key_variable,
            max_connections: connection.max_connections,
            timeout_ms: connection.timeout_ms,
            retry_base_ms: connection.retry_base_ms,
            requests_per_minute: self.judge_requests_per_minute,
            tokens_per_minute: self.judge_tokens_per_minute,
            max_calls: self.judge_max_calls,
            max_tokens_total: self.judge_max_tokens,
            ..ChatConfig::new(url, model)
        };
        let preset = self.judge_preset.map(|PresetName::Paper| JudgePreset::Paper);
        let extra = extra_body::parse("--judge-extra-body", &self.judge_extra_body, &chat, &TAKEN_FIELDS)?;
        let (prompt, max_tokens) = (self.prompt()?, self.judge_reply_tokens);
        Ok(LlmJudge { prompt, preset, max_tokens, extra, ..LlmJudge::new(chat) })
    }

    /// What the judge is asked.
    pub fn prompt(&self) -> Result<JudgePrompt> {
        Ok(match self.judge_prompt.as_str() {
            "strict" => JudgePrompt::Strict,
            "emt" => JudgePrompt::Emt,
            path => JudgePrompt::File(record::read_text(Path::new(path)).with_context(|| {
                format!("failed to read the judge's prompt `{path}`; hint: `strict`, `emt`, or a file that exists")
            })?),
        })
    }
}

fn milliseconds(flag: &str, seconds: f64) -> Result<u64> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok((duration.as_millis() as u64).max(1)),
        _ => bail!("{flag} must be a positive number of seconds, but is {seconds}"),
    }
}
