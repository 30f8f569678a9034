//! CLIP's byte-level BPE from `vocab.json` and `merges.txt`.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::added_token;
use crate::domain::text;

const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

/// Words, contractions, single digits and runs of signs, as OpenAI's tokenizer splits them.
const PATTERN: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Converts the tokenizer to the contents of a `tokenizer.json`.
pub(super) fn tokenizer_json(vocab: &[u8], merges: &[u8]) -> anyhow::Result<Value> {
    let vocab: Value = serde_json::from_slice(text::without_mark(vocab)).context("`vocab.json` is not JSON")?;
    let merges = text::decode(merges).context("failed to read `merges.txt`")?;
    let merges: Vec<&str> =
        merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).collect();
    for line in &merges {
        ensure!(line.split(' ').count() == 2, "`merges.txt` has the line `{line}`, which is not a pair");
    }
    let id_of = |token: &str| {
        let id = vocab.get(token).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        id.with_context(|| format!("`vocab.json` has no `{token}`; only CLIP's tokenizer is read from these files"))
    };
    let (bos, eos) = (id_of(BOS)?, id_of(EOS)?);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added_token(bos, BOS, true, None), added_token(eos, EOS, true, None)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {
            "type": "RobertaProcessing", "sep": [EOS, eos], "cls": [BOS, bos],
            "trim_offsets": false, "add_prefix_space": false,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": EOS, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}
