"""Loads what `emt finetune` writes for every local family with Python's peft, and compares label scores with emt's own.

    python check_arms.py EMT_BINARY FIXTURE...    (torch, transformers, peft, numpy, pillow, safetensors)

A FIXTURE is a tiny checkpoint, such as those of fixtures/ beside this script and models/tiny-llava of EMT_SHARED.
emt trains it by each method for one epoch on a few images of noise, and scores the labels with the adapter.
transformers with PeftModel.from_pretrained computes the same scores by forward passes over the prompt and each label,
because PeftModel.generate is wrong with virtual tokens. The log-probabilities must be equal, for the base too. Of each
adapter, peft must miss no tensor and save the same ones again, and its scores must not be the base's.

Printed in each row: the largest difference between emt and peft, and the largest between base and adapter.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

TOLERANCE = 1e-3
# Scores that differ by less are the base's.
MOVED = 1e-2
CLASSES = ["cat", "dog"]
N_IMAGES = 2
METHODS = {
    "linear": ["--method", "linear"],
    "lora": ["--method", "lora"],
    "lora, attention": ["--method", "lora", "--lora-targets", "attention"],
    "lora, layers frozen": ["--method", "lora", "--freeze-layers", "1"],
    # Other maps in one layer than in the next.
    "lora, uneven": ["--method", "lora", "--lora-targets", r"layers\.0\.self_attn\.q_proj|v_proj"],
    "prompt": ["--method", "prompt", "--virtual-tokens", "3"],
    "p-tuning": ["--method", "p-tuning", "--virtual-tokens", "3"],
    "prefix": ["--method", "prefix", "--virtual-tokens", "3"],
    "linear+prompt": ["--method", "linear+prompt", "--virtual-tokens", "3"],
    "linear+prefix": ["--method", "linear+prefix", "--virtual-tokens", "3"],
}
TRAINING = ["--epochs", "1", "--batch-size", "2", "--learning-rate", "1e-2", "--warmup-ratio", "0"]
# What a prompt has in the place of an image, where it is not `<image>`.
MARKER = {"qwen2_vl": "<|image_pad|>", "qwen2_5_vl": "<|image_pad|>", "qwen3_vl": "<|image_pad|>"}


def write_images(folder):
    """Images of noise, of two shapes: some families give them unlike numbers of positions."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for index in range(N_IMAGES):
            pixels = random.integers(0, 256, (40, 40 + 24 * index, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def run(*words):
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr.strip()}\n    in {' '.join(words)}"


class Fixture:
    """A checkpoint, the scores that emt gives, and those that transformers gives."""

    def __init__(self, emt, folder, images, scratch):
        self.emt, self.folder, self.images, self.scratch = emt, folder, images, scratch
        self.kind = json.loads((folder / "config.json").read_text())["model_type"]
        settings = json.loads((folder / "processor_config.json").read_text())["image_processor"]
        # As Pillow resizes, which emt does.
        self.processor = getattr(transformers, settings["image_processor_type"] + "Pil").from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.marker = MARKER.get(self.kind, "<image>")
        self.limits = []
        if self.is_qwen():
            size = settings["size"]
            self.limits = ["--min-pixels", size["shortest_edge"], "--max-pixels", size["longest_edge"]]
        self.plain = self.model()
        self.given = {path: self.seen(path) for path in sorted(images.glob("*/*.png"))}
        self.end = self.terminator()

    def is_qwen(self):
        return self.kind.startswith("qwen")

    def model(self):
        return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()

    def terminator(self):
        """The first id that ends generation and that the tokenizer has, as emt looks for it."""
        config = json.loads((self.folder / "config.json").read_text())
        places = [json.loads((self.folder / "generation_config.json").read_text()), config["text_config"], config]
        for place in places:
            ids = place.get("eos_token_id")
            ids = ids if isinstance(ids, list) else [ids]
            for known in ids:
                if known is not None and known < len(self.tokenizer):
                    return known
        return self.tokenizer.eos_token_id

    @torch.no_grad()
    def seen(self, path):
        """What the model takes of an image, and the text that stands for it in a prompt."""
        image = Image.open(path).convert("RGB")
        if self.kind == "smolvlm":
            given = self.processor([[image]], return_tensors="pt", return_row_col_info=True)
            rows, columns = given.pop("rows")[0][0], given.pop("cols")[0][0]
            marks = dict(fake_token_around_image="<fake_token_around_image>", global_image_token="<global-img>")
            config = self.plain.config
            per_side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
            marks |= dict(image_token=self.marker, image_seq_len=per_side**2)
            return dict(given), get_image_prompt_string(image_rows=rows, image_cols=columns, **marks)
        given = dict(self.processor(image, return_tensors="pt"))
        if self.is_qwen():
            n = int(given["image_grid_thw"].prod()) // self.processor.merge_size**2
        elif self.kind == "llava_onevision":
            given["image_sizes"] = torch.as_tensor(given["image_sizes"])
            given.pop("batch_num_images", None)
            n = len(self.plain.model.get_image_features(given["pixel_values"], given["image_sizes"]).pooler_output[0])
        else:
            vision = self.plain.config.vision_config
            n = (vision.image_size // vision.patch_size) ** 2
        return given, self.marker * n

    def of_emt(self, name, *words):
        """Log-probabilities by image and label, and the prompt: its text, and its ids without those of the image."""
        out = self.scratch / f"{name}-scores"
        command = [self.emt, "eval", "--model", self.folder, *words, "--encoder", "none", "--datasets", self.images]
        run(*command, "--modes", "score", "--quiet", *self.limits, "--out", out)
        prompt = json.loads((out / "run.json").read_text())["prompts"]
        (prompt,) = (of_dataset["model"]["score"] for of_dataset in prompt.values())
        scores = {}
        for line in (out / "trials.jsonl").read_text().splitlines():
            trial = json.loads(line)
            path = self.images.joinpath(*trial["sample"].split("/")[-2:])
            scores[path] = {scored["label"]: scored["score"] for scored in trial["scores"]}
        assert set(scores) == set(self.given) and all(set(labels) == set(CLASSES) for labels in scores.values())
        return scores, prompt["rendered"], prompt["ids"]

    @torch.no_grad()
    def of_torch(self, model, prompt, own_ids):
        """The same log-probabilities by `model`, after the same prompt."""
        with_virtual_tokens = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
        scores = {}
        for path, (given, expansion) in self.given.items():
            text = prompt.replace(self.marker, expansion)
            before = self.tokenizer(text)["input_ids"]
            self.check_prompt(before, own_ids, expansion)
            scores[path] = {}
            for label in CLASSES:
                space = "" if prompt[-1].isspace() else " "
                whole = self.tokenizer(text + space + label)["input_ids"] + [self.end]
                assert whole[: len(before)] == before
                ids = torch.tensor([whole])
                inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids), **given)
                if self.is_qwen() and not with_virtual_tokens:
                    inputs["mm_token_type_ids"] = (ids == self.plain.config.image_token_id).int()
                logits = model(**inputs).logits[0, -ids.shape[1] :]
                chosen = logits[:-1].double().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
                scores[path][label] = float(chosen[len(before) - 1 :].sum())
        return scores

    def check_prompt(self, ids, own_ids, expansion):
        """The prompt has emt's ids before and after the image, whose ids emt records as nulls."""
        start = own_ids.index(None)
        end = len(own_ids) - own_ids[::-1].index(None)
        n_image = len(self.tokenizer(expansion, add_special_tokens=False)["input_ids"])
        expected = own_ids[:start] + ids[start : start + n_image] + own_ids[end:]
        assert ids == expected, f"emt's prompt has other ids: {own_ids} against {ids}"

    def adapted(self, folder):
        """The base with the adapter in `folder`, of which nothing is left out."""
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(self.model(), str(folder)).eval()
        missing = [str(warning.message) for warning in found if "missing" in str(warning.message)]
        assert not missing, f"{folder}: {missing}"
        saved = load_file(folder / "adapter_model.safetensors")
        again = get_peft_model_state_dict(model, save_embedding_layers=False)
        assert set(saved) == set(again), f"{folder}: {sorted(set(saved) ^ set(again))} are not in both"
        assert all(torch.equal(again[name], tensor) for name, tensor in saved.items()), folder
        return model


def distance(a, b):
    return max(abs(a[path][label] - b[path][label]) for path in a for label in CLASSES)


def report(fixture, method, error, moved=None):
    """Prints a row, and returns whether it is right."""
    is_right = error < TOLERANCE and (moved is None or moved > MOVED)
    moved = "" if moved is None else f"moved {moved:8.3f}"
    mark = "" if is_right else "WRONG"
    print(f"{fixture.folder.name:16} {method:20} difference {error:.1e}  {moved:14} {mark}".rstrip(), flush=True)
    return is_right


def check(fixture):
    """The methods whose adapters peft reads otherwise than emt."""
    expected, prompt, ids = fixture.of_emt("base")
    base = fixture.of_torch(fixture.plain, prompt, ids)
    wrong = [] if report(fixture, "base", distance(expected, base)) else ["base"]
    for method, words in METHODS.items():
        if fixture.is_qwen() and "prefix" in method:
            continue
        out = fixture.scratch / method.replace(", ", "-").replace(" ", "-")
        command = [fixture.emt, "finetune", "--model", fixture.folder, *words, "--train", fixture.images, *TRAINING]
        try:
            run(*command, "--eval-datasets", "none", "--quiet", *fixture.limits, "--out", out)
            expected, *_ = fixture.of_emt(out.name, "--adapter", out, "--no-base")
            actual = fixture.of_torch(fixture.adapted(out / "peft" if method == "linear" else out), prompt, ids)
            is_right = report(fixture, method, distance(expected, actual), distance(actual, base))
        except Exception as error:  # Of any library: the other methods are still checked.
            is_right = False
            print(f"{fixture.folder.name:16} {method:20} FAILED: {type(error).__name__}: {error}", flush=True)
        wrong += [] if is_right else [method]
    return wrong


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    emt, folders = Path(sys.argv[1]).resolve(), [Path(path).resolve() for path in sys.argv[2:]]
    wrong = {}
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "noise/train"
        write_images(images)
        for index, folder in enumerate(folders):
            wrong[str(folder)] = check(Fixture(emt, folder, images, Path(scratch) / f"{index}"))
    assert not any(wrong.values()), wrong
    print("ok")


main()
