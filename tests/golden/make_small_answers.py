"""What transformers makes of the built-in miniature: writes the folder miniature/ beside itself.

    python make_small_answers.py        (torch, transformers, tokenizers, numpy, pillow, safetensors)

`prompts.json`: the prompt about each data set by the checkpoint's own chat template, and its token ids.
`<data set>.tsv`: label and answer of the first 200 test images; the first line has how many are right by equality,
after the phrase that the answers begin with. The rounded weights are unpacked from src/assets/embedded, and computed
with in f32.
"""

import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaForConditionalGeneration

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "recipe"))
from data import CLASSES, emt_question  # noqa: E402

ASSETS = HERE.parents[1] / "src/assets/embedded"
N_IMAGES, N_POSITIONS = 200, 64
PHRASE = "The object is a "


def planes(name):
    """The low bytes of all values, then the high ones."""
    packed = zlib.decompress((ASSETS / name).read_bytes())
    half = len(packed) // 2
    return np.stack([np.frombuffer(packed[:half], np.uint8), np.frombuffer(packed[half:], np.uint8)], 1).tobytes()


def unpacked(folder):
    for path in (ASSETS / "llava").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    header = (ASSETS / "llava/header.json").read_bytes()
    data = len(header).to_bytes(8, "little") + header + planes("tower.bin") + planes("llava.bin")
    (folder / "model.safetensors").write_bytes(data)


def images(name):
    sheet = np.asarray(Image.open(ASSETS / f"{name}-test.webp").convert("RGB"))
    side = sheet.shape[1] // 25
    places = [(i // 25 * side, i % 25 * side) for i in range(N_IMAGES)]
    return [Image.fromarray(sheet[y : y + side, x : x + side]) for y, x in places]


def prompts(folder, tokenizer):
    template = (folder / "chat_template.jinja").read_text()
    out = {}
    for name, labels in CLASSES.items():
        noun = "number" if name == "mnist" else "object"
        content = [{"type": "image"}, {"type": "text", "text": emt_question(name)}]
        chat = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text)["input_ids"]
        out[name] = {"noun": noun, "labels": labels, "question": emt_question(name), "prompt": text, "prompt_ids": ids}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in out.items())
    (HERE / "miniature/prompts.json").write_text(f"{{\n{lines}\n}}\n")
    return out


@torch.no_grad()
def answers(model, tokenizer, processor, name, ids):
    image = model.config.image_token_index
    row = torch.tensor([i for one in ids for i in ([one] * N_POSITIONS if one == image else [one])])
    pictures, said = images(name), []
    for start in range(0, N_IMAGES, 50):
        pixels = processor(pictures[start : start + 50], return_tensors="pt")["pixel_values"]
        rows = row.repeat(len(pixels), 1)
        new = model.generate(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            pixel_values=pixels,
            do_sample=False,
            max_new_tokens=32,
        )
        said += tokenizer.batch_decode(new[:, rows.shape[1] :], skip_special_tokens=True)
    labels = CLASSES[name]
    pairs = [(labels[i % len(labels)], answer.strip()) for i, answer in enumerate(said)]
    n_equal = sum(label == answer.removesuffix(".").removeprefix(PHRASE) for label, answer in pairs)
    text = "".join(f"{label}\t{answer}\n" for label, answer in pairs)
    (HERE / f"miniature/{name}.tsv").write_text(f"# {n_equal} of {N_IMAGES} answers equal their label\n{text}")
    print(name, n_equal, pairs[:5])


with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    unpacked(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = prompts(folder, tokenizer)
    model = LlavaForConditionalGeneration.from_pretrained(folder).float().eval()
    settings = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    keep = ("size", "crop_size", "resample", "image_mean", "image_std", "do_center_crop")
    processor = CLIPImageProcessorPil(**{key: settings[key] for key in keep if key in settings})
    for name in ("mnist", "cifar10", "cifar100"):
        answers(model, tokenizer, processor, name, known[name]["prompt_ids"])
