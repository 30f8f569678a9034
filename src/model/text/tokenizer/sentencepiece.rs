//! Sentencepiece models (`tokenizer.model`, `spiece.model`), with a small protobuf reader of their own.
//!
//! Field numbers are those of sentencepiece's `sentencepiece_model.proto`.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use serde_json::{Map, Value, json};

use super::added_token;
use crate::model::checkpoint::weights::Checkpoint;

/// The character that represents a space.
const SPACE: &str = "\u{2581}";

/// The punctuation that SigLIP removes before it encodes.
const PUNCTUATION: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]\^_`{|}~]"##;

/// `ModelProto.SentencePiece.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PieceKind {
    Normal,
    Unknown,
    Control,
    Other,
}

#[derive(Clone, Debug)]
struct Piece {
    text: String,
    score: f32,
    kind: PieceKind,
}

/// A parsed model.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pieces: Vec<Piece>,
    is_unigram: bool,
    has_byte_fallback: bool,
    charsmap: Vec<u8>,
    pub(super) unk_id: Option<u32>,
    pub(super) bos_id: Option<u32>,
    pub(super) eos_id: Option<u32>,
    pub(super) pad_id: Option<u32>,
}

/// Options from the files next to the model.
#[derive(Clone, Debug)]
pub(super) struct Options {
    add_bos: bool,
    add_eos: bool,
    is_siglip: bool,
    /// Tokens beyond the model's own, by id, with their stripping rules.
    added: BTreeMap<u32, (String, Map<String, Value>)>,
}

impl Options {
    pub(super) fn of(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let config = checkpoint.read_json("tokenizer_config.json")?.unwrap_or(Value::Null);
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let is_siglip = class.starts_with("Siglip");
        let is_t5 = class.starts_with("T5");
        let flag = |name: &str, default: bool| config.get(name).and_then(Value::as_bool).unwrap_or(default);
        let mut added = BTreeMap::new();
        for (token, id) in checkpoint.read_json("added_tokens.json")?.iter().filter_map(Value::as_object).flatten() {
            if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                added.insert(id, (token.clone(), Map::new()));
            }
        }
        for (id, rules) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
            let content = rules.get("content").and_then(Value::as_str);
            if let (Ok(id), Some(content), Some(rules)) = (id.parse(), content, rules.as_object()) {
                added.insert(id, (content.to_owned(), rules.clone()));
            }
        }
        let ends = is_siglip || is_t5;
        Ok(Self { add_bos: flag("add_bos_token", !ends), add_eos: flag("add_eos_token", ends), is_siglip, added })
    }
}

impl Model {
    /// Parses the bytes of a `ModelProto`.
    ///
    /// # Errors
    /// The bytes are not such a message, or the model is of a kind other than BPE and unigram.
    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut model = Self {
            pieces: Vec::new(),
            is_unigram: true,
            has_byte_fallback: false,
            charsmap: Vec::new(),
            // The defaults of `TrainerSpec`.
            unk_id: Some(0),
            bos_id: Some(1),
            eos_id: Some(2),
            pad_id: None,
        };
        for field in Fields::of(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => model.pieces.push(parse_piece(piece)?),
                (2, Wire::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Wire::Bytes(normaliser)) => {
                    for field in Fields::of(normaliser) {
                        if let (2, Wire::Bytes(charsmap)) = field? {
                            model.charsmap = charsmap.to_vec();
                        }
                    }
                }
                _ => {}
            }
        }
        ensure!(!model.pieces.is_empty(), "it has no pieces; hint: copy the base model's tokenizer again");
        let n_pieces = model.pieces.len();
        for id in [&mut model.unk_id, &mut model.bos_id, &mut model.eos_id, &mut model.pad_id] {
            *id = id.filter(|&id| (id as usize) < n_pieces);
        }
        Ok(model)
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        // Negative ids mean "none" and are written as 64-bit two's complement.
        let id = |value: u64| u32::try_from(value).ok();
        for field in Fields::of(bytes) {
            match field? {
                (3, Wire::Integer(kind)) => match kind {
                    1 => self.is_unigram = true,
                    2 => self.is_unigram = false,
                    _ => bail!("it is neither a BPE nor a unigram model; no other kind is read"),
                },
                (35, Wire::Integer(value)) => self.has_byte_fallback = value != 0,
                (40, Wire::Integer(value)) => self.unk_id = id(value),
                (41, Wire::Integer(value)) => self.bos_id = id(value),
                (42, Wire::Integer(value)) => self.eos_id = id(value),
                (43, Wire::Integer(value)) => self.pad_id = id(value),
                _ => {}
            }
        }
        Ok(())
    }

    /// The text of piece `id`.
    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(|piece| piece.text.as_str())
    }

    /// Converts the tokenizer to the contents of a `tokenizer.json`.
    pub(super) fn tokenizer_json(&self, options: &Options) -> anyhow::Result<Value> {
        let (normalizer, pre_tokenizer) = self.normalisation(options);
        let decoder = if self.is_unigram {
            json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": true})
        } else {
            json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]})
        };
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added_tokens(options)?,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor(options),
            "decoder": decoder,
            "model": if self.is_unigram { self.unigram() } else { self.bpe() },
        }))
    }

    fn bpe(&self) -> Value {
        let vocab: Map<String, Value> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), json!(id))).collect();
        json!({
            "type": "BPE", "dropout": null, "unk_token": self.unk_id.and_then(|id| self.piece(id)),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": self.has_byte_fallback, "ignore_merges": false, "vocab": vocab, "merges": self.merges(),
        })
    }

    /// Returns the pairs of pieces whose concatenation is a piece, by falling score of the result.
    ///
    /// Sentencepiece always merges the neighbours whose result scores best, so the rank of a merge is its result's
    /// score. Splits of one result are ordered by the ids of their halves; the sort by score is stable.
    fn merges(&self) -> Vec<[&str; 2]> {
        let ids: std::collections::HashMap<&str, usize> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect();
        let mut merges: Vec<(f32, [&str; 2])> = Vec::new();
        for piece in &self.pieces {
            let text = piece.text.as_str();
            let mut splits: Vec<(usize, usize, [&str; 2])> = text
                .char_indices()
                .skip(1)
                .filter_map(|(at, _)| {
                    let halves = text.split_at(at);
                    Some((*ids.get(halves.0)?, *ids.get(halves.1)?, [halves.0, halves.1]))
                })
                .collect();
            splits.sort();
            merges.extend(splits.into_iter().map(|(_, _, halves)| (piece.score, halves)));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0));
        merges.into_iter().map(|(_, halves)| halves).collect()
    }

    fn unigram(&self) -> Value {
        let vocab: Vec<Value> = self.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
        json!({
            "type": "Unigram", "unk_id": self.unk_id, "vocab": vocab, "byte_fallback": self.has_byte_fallback,
        })
    }

    fn normalisation(&self, options: &Options) -> (Value, Value) {
        if !self.is_unigram {
            let normalizer = json!({"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ]});
            return (normalizer, Value::Null);
        }
        let mut steps = Vec::new();
        if options.is_siglip {
            steps.extend([
                json!({"type": "Lowercase"}),
                json!({"type": "Replace", "pattern": {"Regex": PUNCTUATION}, "content": ""}),
                json!({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}),
                json!({"type": "Strip", "strip_left": true, "strip_right": true}),
            ]);
        }
        if !self.charsmap.is_empty() {
            let charsmap = base64::engine::general_purpose::STANDARD.encode(&self.charsmap);
            steps.push(json!({"type": "Precompiled", "precompiled_charsmap": charsmap}));
        }
        steps.push(json!({"type": "Strip", "strip_left": false, "strip_right": true}));
        steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE}));
        let metaspace = json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": true});
        (json!({"type": "Sequence", "normalizers": steps}), metaspace)
    }

    fn post_processor(&self, options: &Options) -> Value {
        let begin = self.bos_id.filter(|_| options.add_bos);
        let end = self.eos_id.filter(|_| options.add_eos);
        let special = |id: Option<u32>| id.and_then(|id| Some((id, self.piece(id)?)));
        let (begin, end) = (special(begin), special(end));
        let entry = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
        let mut single: Vec<Value> = begin.iter().map(|(_, text)| entry(text)).collect();
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        single.extend(end.iter().map(|(_, text)| entry(text)));
        let mut pair = single.clone();
        pair.push(json!({"Sequence": {"id": "B", "type_id": 0}}));
        let tokens: Map<String, Value> = begin
            .iter()
            .chain(&end)
            .map(|(id, text)| ((*text).to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
            .collect();
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
    }

    /// Returns the control and unknown pieces, then the tokens from the files next to the model.
    fn added_tokens(&self, options: &Options) -> anyhow::Result<Vec<Value>> {
        let mut tokens = BTreeMap::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            if matches!(piece.kind, PieceKind::Control | PieceKind::Unknown) {
                let id = u32::try_from(id).context("too many pieces")?;
                tokens.insert(id, added_token(id, &piece.text, true, None));
            }
        }
        for (&id, (text, rules)) in &options.added {
            if self.piece(id).is_some_and(|piece| piece != text) {
                bail!("token {id} is `{text}` in the files next to it, but another piece in the model");
            }
            let is_special = rules.get("special").and_then(Value::as_bool).unwrap_or(true);
            tokens.insert(id, added_token(id, text, is_special, Some(rules)));
        }
        let beyond = tokens.keys().filter(|&&id| id as usize >= self.pieces.len());
        for (index, &id) in beyond.enumerate() {
            let expected = self.pieces.len() + index;
            ensure!(id as usize == expected, "the added token {id} leaves a gap: {expected} would be the next");
        }
        Ok(tokens.into_values().collect())
    }
}

fn parse_piece(bytes: &[u8]) -> anyhow::Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    for field in Fields::of(bytes) {
        match field? {
            (1, Wire::Bytes(text)) => {
                piece.text = std::str::from_utf8(text).context("a piece that is not UTF-8")?.to_owned();
            }
            (2, Wire::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
            (3, Wire::Integer(kind)) => {
                piece.kind = match kind {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    _ => PieceKind::Other,
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// A protobuf value.
enum Wire<'a> {
    Integer(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message: number and value.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> anyhow::Result<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Integer(self.varint()?),
            1 => {
                self.slice(8)?;
                Wire::Fixed64
            }
            2 => {
                let n_bytes = usize::try_from(self.varint()?)?;
                Wire::Bytes(self.slice(n_bytes)?)
            }
            5 => Wire::Fixed32(self.slice(4)?.try_into().expect("the slice has 4 bytes")),
            kind => bail!("it is not a sentencepiece model (wire type {kind}); hint: copy it again"),
        };
        Ok((tag >> 3, value))
    }

    fn varint(&mut self) -> anyhow::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.slice(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("it is not a sentencepiece model (an endless integer); hint: copy it again")
    }

    fn slice(&mut self, n_bytes: usize) -> anyhow::Result<&'a [u8]> {
        let (slice, rest) =
            self.rest.split_at_checked(n_bytes).context("it ends too early; hint: copy or download it again")?;
        self.rest = rest;
        Ok(slice)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = anyhow::Result<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            // A broken message has no next field.
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests;
