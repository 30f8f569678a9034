"""Tokenizers of the miniature: a BPE of CLIP's kind and a byte-fallback BPE of LLaMA's, learned from the words that it is taught.

    python3 make_tokenizers.py OUT
"""
import io
import json
import sys
from pathlib import Path

import sentencepiece
from data import CLASSES, caption
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

SYSTEM = ("A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
          "detailed, and polite answers to the human's questions.")
# CLIP's own, but for one digit a token.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def corpus():
    lines = []
    for name, labels in CLASSES.items():
        for label in labels:
            lines += [caption(name, label)] * 3 + [label] * 3
            lines += [f"The object is a(n) {label}.", f"The number in the image is {label}.",
                      f"The object in the image is a {label}.", f"This is a photo of a {label}."]
        lines.append(", ".join(labels))
    common = [SYSTEM, "USER: ASSISTANT:", "What is the object in the image? Please only answer a single object in",
              "What is the number in the image? Please only answer a single number in",
              "What type of object is in this photo? Choose one from",
              "Describe the image. Classify the image. Name the thing in this picture.",
              "I am not sure what it is. yes no animal vehicle number plant food insect"]
    return lines + common * 8


def byte_letters():
    """GPT-2's letters for the 256 bytes, printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def make_clip(out, lines):
    def prepared(model):
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        return tokenizer

    learned = prepared(BPE(end_of_word_suffix="</w>"))
    learned.train_from_iterator(lines, BpeTrainer(
        vocab_size=900, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair)
              for pair in json.loads(learned.to_str())["model"]["merges"]]
    # CLIP's order of ids: letters, letters at the end of a word, merges, special tokens.
    letters = byte_letters()
    tokens = dict.fromkeys(letters + [letter + "</w>" for letter in letters] + [a + b for a, b in merges])
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {token: index for index, token in enumerate([*tokens, start, end])}
    merges = [(a, b) for a, b in merges if a in vocabulary and b in vocabulary]
    tokenizer = prepared(BPE(vocabulary, merges, unk_token=end, continuing_subword_prefix="",
                             end_of_word_suffix="</w>", fuse_unk=False))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(start, special=True, normalized=True),
                                  AddedToken(end, special=True, normalized=False)])
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), trim_offsets=False, add_prefix_space=False)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    special = dict(bos_token=start, eos_token=end, unk_token=end, pad_token=end)
    config = dict(add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=24,
                  tokenizer_class="CLIPTokenizer", **special)
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    (out / "special_tokens_map.json").write_text(json.dumps(special, indent=1))


def make_llama(out, lines):
    raw = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=raw, vocab_size=1000, model_type="bpe", num_threads=1,
        minloglevel=2, hard_vocab_limit=False, byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        character_coverage=1.0, add_dummy_prefix=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=raw.getvalue())
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    merges = []
    for piece, index in vocabulary.items():
        halves = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        halves = [(a, b) for a, b in halves if a in vocabulary and b in vocabulary]
        merges += [(pieces.get_score(index), a, b)
                   for a, b in sorted(halves, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))]
    merges = [(a, b) for _, a, b in sorted(merges, key=lambda merge: -merge[0])]
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<image>", "<pad>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer.model").write_bytes(raw.getvalue())
    special = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    config = dict(add_bos_token=True, add_eos_token=False, legacy=True, model_max_length=1024, padding_side="left",
                  tokenizer_class="LlamaTokenizer", **special)
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    (out / "special_tokens_map.json").write_text(json.dumps(special, indent=1))


if __name__ == "__main__":
    make_clip(Path(sys.argv[1]) / "tokenizer-clip", corpus())
    make_llama(Path(sys.argv[1]) / "tokenizer-llama", corpus())
