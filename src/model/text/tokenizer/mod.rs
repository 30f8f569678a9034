//! Conversion between text and token ids, for every form of tokenizer in checkpoints.
//!
//! `tokenizer.json` is read directly. A sentencepiece model, or CLIP's vocabulary and merges, are converted to such a
//! file in memory.

mod clip;
mod sentencepiece;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer};

use crate::domain::text;
use crate::model::checkpoint::weights::Checkpoint;

/// The tokens that Otter's code adds, by their numbers: the end of an answer, an image, the begin of an answer, padding.
const OTTER_TOKENS: [&str; 4] = [END_OF_CHUNK, "<image>", "<answer>", "<PAD>"];

/// The tokens that OpenFlamingo's code adds, by their numbers.
const OPEN_FLAMINGO_TOKENS: [&str; 3] = [END_OF_CHUNK, "<image>", "<PAD>"];

/// The token that ends an answer of Otter and of OpenFlamingo.
pub const END_OF_CHUNK: &str = "<|endofchunk|>";

/// A checkpoint's tokenizer.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    pad: Option<SpecialToken>,
    unk: Option<SpecialToken>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SpecialToken {
    text: String,
    id: u32,
}

/// A part of a prompt with images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptPiece {
    /// Token ids of the text between images.
    Text(Vec<u32>),
    /// The place of one image.
    Image,
}

impl TextTokenizer {
    /// Reads the first of `tokenizer.json`, `tokenizer.model`, `spiece.model`, and `vocab.json` with `merges.txt`. Tokens
    /// that the code of a model adds to the tokenizer of its base are added here too.
    ///
    /// # Errors
    /// None of them exists, or the first that exists cannot be read.
    pub fn open(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let tokenizer = Self::open_base(checkpoint)?;
        match checkpoint.config().get("model_type").and_then(Value::as_str) {
            Some("otter") => tokenizer.with_tokens(&OTTER_TOKENS),
            Some("open_flamingo") => tokenizer.with_tokens(&OPEN_FLAMINGO_TOKENS),
            _ => Ok(tokenizer),
        }
    }

    /// Adds the special tokens that it lacks after its last, in this order.
    fn with_tokens(mut self, tokens: &[&str]) -> anyhow::Result<Self> {
        let missing = tokens.iter().filter(|token| self.token_id(token).is_none());
        let missing: Vec<AddedToken> = missing.map(|token| AddedToken::from(*token, true)).collect();
        self.inner.add_special_tokens(missing).map_err(anyhow::Error::from_boxed)?;
        Ok(self)
    }

    fn open_base(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        if let Some(bytes) = checkpoint.read_file("tokenizer.json")? {
            let place = || format!("failed to read `{}`", checkpoint.dir.join("tokenizer.json").display());
            return Self::from_json(&bytes, checkpoint).with_context(place);
        }
        for name in ["tokenizer.model", "spiece.model"] {
            if let Some(bytes) = checkpoint.read_file(name)? {
                let place = || format!("failed to read `{}`", checkpoint.dir.join(name).display());
                return Self::from_sentencepiece(&bytes, checkpoint).with_context(place);
            }
        }
        if let (Some(vocab), Some(merges)) = (checkpoint.read_file("vocab.json")?, checkpoint.read_file("merges.txt")?)
        {
            let place = || format!("failed to read `vocab.json` and `merges.txt` in `{}`", checkpoint.dir.display());
            let json = clip::tokenizer_json(&vocab, &merges).with_context(place)?;
            return Self::from_json(&serde_json::to_vec(&json)?, checkpoint).with_context(place);
        }
        bail!(
            "failed to open `{}`: it has no tokenizer; hint: copy `tokenizer.json` or `tokenizer.model` of the base \
             model into the folder",
            checkpoint.dir.display()
        )
    }

    /// Reads a further tokenizer of the checkpoint from its `tokenizer.json` called `file`. `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open_file(checkpoint: &Checkpoint, file: &str) -> anyhow::Result<Option<Self>> {
        let Some(bytes) = checkpoint.read_file(file)? else { return Ok(None) };
        let place = || format!("failed to read `{}`", checkpoint.dir.join(file).display());
        Self::from_json(&bytes, checkpoint).map(Some).with_context(place)
    }

    fn from_json(bytes: &[u8], checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let mut inner = Tokenizer::from_bytes(text::decode(bytes)?)
            .map_err(|error| anyhow::anyhow!("{error}; hint: copy the base model's `tokenizer.json` again"))?;
        // The file may contain a length limit. The caller decides about truncation and padding.
        inner.with_truncation(None).map_err(anyhow::Error::from_boxed)?;
        inner.with_padding(None);
        let names = special_names(checkpoint)?;
        let special = |key: &str| {
            let text = names.get(key)?.clone();
            let id = inner.token_to_id(&text)?;
            Some(SpecialToken { text, id })
        };
        let (bos, eos, pad, unk) =
            (special("bos_token"), special("eos_token"), special("pad_token"), special("unk_token"));
        Ok(Self { inner, bos, eos, pad, unk })
    }

    fn from_sentencepiece(bytes: &[u8], checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let model = sentencepiece::Model::parse(bytes)?;
        let options = sentencepiece::Options::of(checkpoint)?;
        let mut tokenizer = Self::from_json(&serde_json::to_vec(&model.tokenizer_json(&options)?)?, checkpoint)?;
        let known = |id: Option<u32>| {
            let id = id?;
            Some(SpecialToken { text: model.piece(id)?.to_owned(), id })
        };
        tokenizer.bos = tokenizer.bos.or_else(|| known(model.bos_id));
        tokenizer.eos = tokenizer.eos.or_else(|| known(model.eos_id));
        tokenizer.pad = tokenizer.pad.or_else(|| known(model.pad_id));
        tokenizer.unk = tokenizer.unk.or_else(|| known(model.unk_id));
        Ok(tokenizer)
    }

    /// Returns the token ids of `text`. If `add_special`, they include the begin or end tokens of the tokenizer's own
    /// template.
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    pub fn encode(&self, text: &str, add_special: bool) -> anyhow::Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(anyhow::Error::from_boxed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Splits a rendered prompt into pieces. `image_marker` marks each image.
    ///
    /// If the marker is a token of the vocabulary (transformers' checkpoints), the whole prompt is encoded at once. If
    /// it is not (the original LLaVA), the texts between markers are encoded one by one, as in its code. A prompt that
    /// begins with the begin token does not get a second one.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_image(&self, rendered: &str, image_marker: &str) -> anyhow::Result<Vec<PromptPiece>> {
        let add_special = !self.bos.as_ref().is_some_and(|bos| rendered.starts_with(&bos.text));
        self.encode_around_images(rendered, image_marker, add_special)
    }

    /// Like [`encode_with_image`](Self::encode_with_image), for a prompt that contains all special tokens.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_as_written(&self, prompt: &str, image_marker: &str) -> anyhow::Result<Vec<PromptPiece>> {
        self.encode_around_images(prompt, image_marker, false)
    }

    fn encode_around_images(
        &self,
        rendered: &str,
        image_marker: &str,
        add_special: bool,
    ) -> anyhow::Result<Vec<PromptPiece>> {
        if let Some(image_id) = self.token_id(image_marker) {
            let ids = self.encode(rendered, add_special)?;
            let texts = ids.split(|&id| id == image_id).map(<[u32]>::to_vec);
            return Ok(interleave(texts.collect()));
        }
        let mut texts = Vec::new();
        for (index, chunk) in rendered.split(image_marker).enumerate() {
            texts.push(match (index, chunk) {
                (0, chunk) => self.encode(chunk, add_special)?,
                (_, "") => Vec::new(),
                (_, chunk) => self.encode(chunk, false)?,
            });
        }
        Ok(interleave(texts))
    }

    /// Returns the text of `ids` without special tokens.
    ///
    /// # Errors
    /// The decoder fails.
    pub fn decode(&self, ids: &[u32]) -> anyhow::Result<String> {
        self.inner.decode(ids, true).map_err(anyhow::Error::from_boxed)
    }

    /// The id of exactly this token.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of one token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The number of tokens, including added ones.
    pub fn n_tokens(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of the begin token.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos.as_ref().map(|token| token.id)
    }

    /// The id of the end token.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos.as_ref().map(|token| token.id)
    }

    /// The id of the padding token.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad.as_ref().map(|token| token.id)
    }

    /// The id of the token for unknown text.
    pub fn unk_id(&self) -> Option<u32> {
        self.unk.as_ref().map(|token| token.id)
    }

    /// The begin token as text, for chat templates.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos.as_ref().map(|token| token.text.as_str())
    }

    /// The end token as text, for chat templates.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos.as_ref().map(|token| token.text.as_str())
    }

    /// The identity, `blake3:…`, over the tokenizer in the form of a `tokenizer.json`, whatever file it came from.
    ///
    /// # Errors
    /// The tokenizer cannot be serialised.
    pub fn hash(&self) -> anyhow::Result<String> {
        let text = self.inner.to_string(false).map_err(anyhow::Error::from_boxed)?;
        Ok(format!("blake3:{}", blake3::hash(text.as_bytes()).to_hex()))
    }
}

fn interleave(texts: Vec<Vec<u32>>) -> Vec<PromptPiece> {
    let mut pieces = Vec::new();
    for (index, ids) in texts.into_iter().enumerate() {
        if index > 0 {
            pieces.push(PromptPiece::Image);
        }
        if !ids.is_empty() {
            pieces.push(PromptPiece::Text(ids));
        }
    }
    pieces
}

/// Returns the tokens and ids in a tokenizer file that is ignored because `tokenizer.json` exists. `None` if the file
/// has another form.
pub(in crate::model) fn pieces_elsewhere(file: &str, bytes: &[u8]) -> Option<Vec<(String, u32)>> {
    if file.ends_with(".model") {
        let model = sentencepiece::Model::parse(bytes).ok()?;
        return Some((0..).map_while(|id| Some((model.piece(id)?.to_owned(), id))).collect());
    }
    let tokens: Value = serde_json::from_str(text::decode(bytes).ok()?).ok()?;
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    tokens.as_object()?.iter().map(|(token, value)| Some((token.clone(), id(value)?))).collect()
}

/// Returns `bos_token` and similar tokens as texts. `special_tokens_map.json` takes precedence over
/// `tokenizer_config.json` only if the latter lists no added tokens (transformers 5.24).
pub(in crate::model) fn special_names(
    checkpoint: &Checkpoint,
) -> anyhow::Result<std::collections::BTreeMap<String, String>> {
    let mut names = std::collections::BTreeMap::new();
    let config = checkpoint.read_json("tokenizer_config.json")?;
    let is_whole = config.is_some_and(|config| config.get("added_tokens_decoder").is_some());
    let files = ["special_tokens_map.json", "tokenizer_config.json"];
    // The last file takes precedence.
    let files = if is_whole { files } else { [files[1], files[0]] };
    for file in files {
        let Some(Value::Object(fields)) = checkpoint.read_json(file)? else { continue };
        for (key, value) in fields {
            // A token is a string, or an object with its stripping rules.
            let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
            if let (true, Some(text)) = (key.ends_with("_token"), text) {
                names.insert(key, text.to_owned());
            }
        }
    }
    Ok(names)
}

/// An entry of `added_tokens` in `tokenizer.json`.
fn added_token(id: u32, content: &str, is_special: bool, rules: Option<&Map<String, Value>>) -> Value {
    let rule = |name: &str| rules.and_then(|rules| rules.get(name)).and_then(Value::as_bool).unwrap_or(false);
    json!({
        "id": id, "content": content, "single_word": rule("single_word"), "lstrip": rule("lstrip"),
        "rstrip": rule("rstrip"), "normalized": rule("normalized"), "special": is_special,
    })
}

#[cfg(test)]
mod tests;
