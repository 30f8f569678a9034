"""Label scores of the small pair by transformers: writes label_scores.json beside itself.

    python make_label_scores.py SHARED        (torch, transformers, numpy, pillow; SHARED as in EMT_SHARED)

Each label's log-probability, terminator included, is computed by itself: one forward pass over the whole conversation,
without a cache and without what other labels have in common with it. `mean_colour` is an image of which every pixel is
the processor's mean: zeros once normalised.
"""

import gzip
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy
import torch
import transformers
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessorPil, LlavaForConditionalGeneration

SHARED = Path(sys.argv[1])
MODEL = SHARED / "models/tiny-llava"
# emt's built-in `llava_v0`, of which no token but a text ends an answer.
LLAVA_V0 = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions.###Human: <image>\n{}###Assistant:"
)


def mnist(index):
    with gzip.open(SHARED / "data/mnist/t10k-images-idx3-ubyte.gz") as file:
        pixels = numpy.frombuffer(file.read(), numpy.uint8, offset=16).reshape(-1, 28, 28)
    return f"mnist/test/{index:05}", Image.fromarray(pixels[index]).convert("RGB")


def cifar10(index):
    with open(SHARED / "data/cifar10/cifar-10-batches-py/test_batch", "rb") as file:
        batch = pickle.load(file, encoding="latin1")
    return f"cifar10/test/{index:05}", Image.fromarray(batch["data"][index].reshape(3, 32, 32).transpose(1, 2, 0))


def cifar100(path):
    with zipfile.ZipFile(SHARED / "data/cifar100/cifar100_test_png.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith(path))
        return f"cifar100/test/{path}", Image.open(io.BytesIO(archive.read(name))).convert("RGB")


IMAGES = {
    "mnist": [mnist(index) for index in (0, 7, 42)],
    "cifar10": [cifar10(index) for index in (0, 1, 5, 300)],
    "cifar100": [cifar100(path) for path in ("apple/apple_s_000022.png", "caterpillar/cankerworm_s_000356.png")],
}

processor = AutoProcessor.from_pretrained(MODEL)
processor.image_processor = CLIPImageProcessorPil.from_pretrained(MODEL)  # resizes as Pillow does
model = LlavaForConditionalGeneration.from_pretrained(MODEL).float().eval()
n_image = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2


def tokens(text):
    text = text.replace("<image>", "<image>" * n_image)
    return processor.tokenizer(text, add_special_tokens=True)["input_ids"]


@torch.no_grad()
def log_probability(pixels, prompt, answer):
    before, ids = tokens(prompt), tokens(prompt + answer)
    assert ids[: len(before)] == before and len(ids) > len(before), answer
    ids = torch.tensor([ids])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, use_cache=False).logits
    chosen = logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return float(chosen[len(before) - 1 :].sum())


def question(dataset):
    """The paper's question and its labels, from the header of the reference answers."""
    with open(SHARED / f"models/answers/{dataset}.jsonl") as file:
        prompt = json.loads(file.readline())["prompt"]
    text = prompt.removeprefix("USER: <image>\n").removesuffix(" ASSISTANT:")
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
    assert processor.apply_chat_template([turn], add_generation_prompt=True) == prompt
    answer = {"role": "assistant", "content": [{"type": "text", "text": "cat"}]}
    # The template writes a space before the answer and nothing that would end it: the model's end token does.
    assert processor.apply_chat_template([turn, answer]) == prompt + " cat "
    return text, prompt, text.split(" in ")[-1].removesuffix(".").split(", ")


def main():
    cases = []
    eos = processor.tokenizer.decode([model.generation_config.eos_token_id])
    for template, dataset, n_images in [
        (None, "mnist", 3),
        (None, "cifar10", 4),
        (None, "cifar100", 2),
        ("llava_v0", "cifar10", 2),
    ]:
        text, prompt, labels = question(dataset)
        end = eos if template is None else "###"
        prompt = prompt if template is None else LLAVA_V0.format(text)
        images = [
            (sample, processor.image_processor(image, return_tensors="pt")["pixel_values"])
            for sample, image in IMAGES[dataset][:n_images]
        ]
        images.append(("mean_colour", torch.zeros_like(images[0][1])))
        scores = {
            sample: [round(log_probability(pixels.float(), prompt, f" {label}{end}"), 6) for label in labels]
            for sample, pixels in images
        }
        cases.append({"template": template, "dataset": dataset, "question": text, "labels": labels, "scores": scores})
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    out = Path(__file__).with_name("label_scores.json")
    lines = ",\n".join(json.dumps(case) for case in cases)
    out.write_text(f'{{"versions": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n')


main()
