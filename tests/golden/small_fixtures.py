"""What the scripts make_small_*.py share: pictures, tokenizers, random weights, and the folder fixtures/ beside itself.

The folder is laid out as the fixtures of EMT_SHARED are, under the same names, so that a test runs over both. All in it
is made here: pictures are drawn, tokenizers learn from the lines below, weights come from a seed.
"""

import copy
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

OUT = Path(__file__).parent / "fixtures"
QUESTION = (
    "What is the object in the image? Please choose from: airplane, automobile, bird, cat, deer, dog, frog, horse, "
    "ship, truck. Answer with a single word."
)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)
LINES = [
    QUESTION,
    SYSTEM,
    "USER: ASSISTANT:",
    "a photo of a",
    "This is a photo of",
    "The object is a(n)",
    ", ".join(CLASSES),
    "It's 0123456789 #$%&+-/;<=>@[]^_{|}~ Who? Why! A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "African elephant",
]
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def picture(name):
    """A picture whose seed and size are in its name `pN_WxH`: a tile again and again, so that its file is small."""
    stem = name.split(".")[0].split("_")
    width, height = map(int, stem[1].split("x"))
    random = np.random.default_rng(int("".join(filter(str.isdigit, stem[0]))) + 5)
    tile = random.integers(0, 256, (11, 13, 3), np.uint8)
    pixels = np.tile(tile, (height // 11 + 1, width // 13 + 1, 1))[:height, :width].copy()
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (200, 40, 90)
    image = Image.fromarray(pixels)
    return image.convert("L") if stem[-1] == "L" else image


def pictures(folder, names):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        picture(name).save(folder / "images" / name, optimize=True)
    return [Image.open(folder / "images" / name).convert("RGB") for name in names]


def randomise(model, seed):
    """Weights of the size that they have in trained models, so that no part of a model is without effect."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        draw = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            is_scale = name.endswith("weight")
            parameter.data = 1 + 0.2 * draw if is_scale else 0.2 * draw
        else:
            parameter.data = draw * 1.2 / parameter[0].numel() ** 0.5
            if "embed" in name:
                parameter.data = draw * 0.5
    return model.eval()


def save_in_bfloat16(model, folder):
    """Rounds the model's weights, and saves them in half as many bytes."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    copy.deepcopy(model).bfloat16().save_pretrained(folder)


def save(path, tensors):
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def compact(folder):
    """`tokenizer.json` of a folder without the blanks between its parts."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False, separators=(",", ":")))


def byte_letters():
    """GPT-2's letters for the 256 bytes, printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def learned_merges(tokenizer, n, suffix=""):
    """The `n` pairs that a BPE joins first, of equally frequent ones the first in the order of letters."""
    words = Counter()
    for line in LINES:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(line)):
            words[(*word[:-1], word[-1] + suffix)] += 1
    merges = []
    for _ in range(n):
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((first, second))
        joined = Counter()
        for word, count in words.items():
            parts = []
            for part in word:
                if parts and (parts[-1], part) == (first, second):
                    parts[-1] += part
                else:
                    parts.append(part)
            joined[tuple(parts)] += count
        words = joined
    return merges


def sentencepiece_model(n, kind, **options):
    raw = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=raw,
        vocab_size=n,
        model_type=kind,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        **options,
    )
    return raw.getvalue(), sentencepiece.SentencePieceProcessor(model_proto=raw.getvalue())


def llama_tokenizer(folder):
    """A byte-fallback BPE of LLaMA's kind, as sentencepiece's model and as the JSON that transformers 5 saves of it."""
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    raw, pieces = sentencepiece_model(
        352,
        "bpe",
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
    )
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    merges = []
    for piece, index in vocabulary.items():
        halves = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        halves = [(a, b) for a, b in halves if a in vocabulary and b in vocabulary]
        halves.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(pieces.get_score(index), a, b) for a, b in halves]
    merges = [(a, b) for _, a, b in sorted(merges, key=lambda merge: -merge[0])]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<image>", "<pad>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    config = dict(model_max_length=2048, padding_side="left", tokenizer_class="LlamaTokenizer", legacy=True, **special)
    write_json(folder / "tokenizer_config.json", config)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    write_json(
        folder / "tokenizer_config.json", json.loads((folder / "tokenizer_config.json").read_text()) | {"legacy": True}
    )
    compact(folder)
    (folder / "tokenizer.model").write_bytes(raw)
    write_json(folder / "special_tokens_map.json", special)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    assert json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] == saved["pre_tokenizer"]
    assert saved["pre_tokenizer"]["prepend_scheme"] == "always"
    return tokenizer, pieces


def clip_tokenizer(folder, with_files=True):
    """CLIP's byte-level BPE, as its vocabulary and merges and as a JSON."""

    def prepared(model):
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        words = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        return tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    merges = learned_merges(prepared(models.BPE()), 50, "</w>")
    letters = byte_letters()
    tokens = dict.fromkeys(letters + [letter + "</w>" for letter in letters] + [a + b for a, b in merges])
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {token: index for index, token in enumerate([*tokens, start, end])}
    tokenizer = prepared(
        models.BPE(vocabulary, merges, unk_token=end, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(start, special=True, normalized=True), AddedToken(end, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    compact(folder)
    special = dict(bos_token=start, eos_token=end, unk_token=end, pad_token=end)
    config = dict(do_lower_case=True, errors="replace", model_max_length=77, tokenizer_class="CLIPTokenizer", **special)
    write_json(folder / "tokenizer_config.json", config)
    if with_files:
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")))
        lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return tokenizer


def qwen_tokenizer(folder, extra=()):
    """A byte-level BPE of Qwen's kind with its special tokens, of which some are images', and `extra`."""
    folder.mkdir(parents=True, exist_ok=True)

    def prepared(model):
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        return tokenizer

    merges = learned_merges(prepared(models.BPE()), 44)
    tokens = dict.fromkeys(byte_letters() + [a + b for a, b in merges])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = prepared(models.BPE(vocabulary, merges))
    tokenizer.decoder = decoders.ByteLevel()
    names = ["endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"]
    special = [f"<|{name}|>" for name in names] + list(extra)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = dict(
        add_prefix_space=False,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        errors="replace",
        model_max_length=32768,
        tokenizer_class="Qwen2Tokenizer",
        extra_special_tokens=special[1:],
    )
    write_json(folder / "tokenizer_config.json", config)
    compact(folder)
    return tokenizer


def padded(n):
    """Rows of an embedding for `n` tokens."""
    return (n + 15) // 8 * 8
