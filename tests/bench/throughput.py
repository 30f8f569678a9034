#!/usr/bin/env python3
"""Times `emt eval` and transformers in turn, on the same checkpoint, images and prompts, and prints a table in Markdown.

    cargo build --release
    python3 tests/bench/throughput.py --shared DIR [--images 1000] [--repeats 5] [--batch-size 32]

Needs torch, transformers, safetensors, Pillow and numpy; DIR holds models/tiny-llava, models/tiny-clip and data/cifar10.

What is timed. emt: the whole command less the same command on one batch, so that neither counts its start; reading, decoding,
preparing, judging and journalling are in. transformers: preparing and generating (or encoding); the images are decoded beforehand.
emt runs the tower once for model and encoder where both are the same. For its encoder alone the script gives it a copy of the encoder
whose tower differs in one number by one unit in the last place, so that it must run twice, and takes the difference to a run without.
"""

import argparse
import json
import os
import pathlib
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ENVIRONMENT = dict(os.environ)  # for emt: as it is
for name in list(os.environ):  # for the libraries below: without switches that hold them to old instructions
    if name == "OPENBLAS_CORETYPE" or name.startswith("NVPL_"):
        del os.environ[name]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default=os.environ.get("EMT_SHARED", "../shared"))
    parser.add_argument("--emt", default="target/release/emt")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


class Emt:
    """The program; every run is a new one."""

    def __init__(self, options, work):
        self.options, self.work, self.shared = options, work, pathlib.Path(options.shared)

    def run(self, name, n_images, encoder):
        """Seconds, and the folder of the run."""
        out = self.work / name
        shutil.rmtree(out, ignore_errors=True)
        command = [self.options.emt, "eval", "--model", self.shared / "models/tiny-llava", "--encoder", encoder]
        command += ["--data", self.shared / "data", "--datasets", "cifar10", "--limit", str(n_images), "--judge", "rules"]
        command += ["--batch-size", str(self.options.batch_size), "--quiet", "--out", out]
        environment = {**ENVIRONMENT, "RAYON_NUM_THREADS": str(self.options.threads)}
        start = time.perf_counter()
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start, out

    def seconds(self, name, encoder):
        """Of all images but the first batch, start excluded."""
        whole, _ = self.run(name, self.options.images, encoder)
        start, _ = self.run(f"{name}-start", self.options.batch_size, encoder)
        return whole - start


def another_tower(encoder, folder):
    """A copy of the encoder whose tower is, by one bit, not the model's."""
    shutil.copytree(encoder, folder, copy_function=shutil.copyfile)
    os.chmod(folder, 0o755)
    weights = load_file(encoder / "model.safetensors")
    bias = weights["vision_model.post_layernorm.bias"].copy()
    bias[0] = np.nextafter(bias[0], np.float32(np.inf))
    save_file({**weights, "vision_model.post_layernorm.bias": bias}, folder / "model.safetensors", {"format": "pt"})
    return folder


def trials(run, subject):
    lines = map(json.loads, (run / "trials.jsonl").read_text().splitlines())
    return {line["sample"]: line["answer"] for line in lines if line["subject"] == subject}


class Transformers:
    """The same work by the reference implementation, on the samples of a run of emt."""

    def __init__(self, shared, run, batch_size):
        self.batch_size = batch_size
        models = shared / "models"
        self.llava = transformers.LlavaForConditionalGeneration.from_pretrained(models / "tiny-llava", dtype=torch.float32).eval()
        self.clip = transformers.CLIPModel.from_pretrained(models / "tiny-clip", dtype=torch.float32).eval()
        self.processor = transformers.AutoProcessor.from_pretrained(models / "tiny-llava")
        # Pillow's resize, as the checkpoints were trained and as emt does it.
        of_pillow = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
        self.prepare = of_pillow.from_pretrained(models / "tiny-clip")
        batch = pickle.loads((shared / "data/cifar10/cifar-10-batches-py/test_batch").read_bytes(), encoding="bytes")
        pixels = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        self.samples = sorted(trials(run, "model"))
        self.images = [Image.fromarray(pixels[int(sample.rsplit("/", 1)[1])]) for sample in self.samples]
        spec = json.loads((run / "run.json").read_text())["spec"]["datasets"][0]
        prompts = {prompt["subject"]: prompt for prompt in spec["prompts"]}
        inputs = self.processor(images=[self.images[0]], text=[prompts["model"]["rendered"]], return_tensors="pt")
        self.ids = inputs["input_ids"]
        image_token = self.llava.config.image_token_index
        ids = [None if token == image_token else token for token in self.ids[0].tolist()]
        assert ids == prompts["model"]["ids"], "emt and transformers do not ask the same"
        self.labels = [label["name"] for label in spec["labels"]]
        captions = [prompts["encoder"]["text"].replace("{}", label) for label in self.labels]
        tokenizer = transformers.AutoTokenizer.from_pretrained(models / "tiny-clip")
        tokens = tokenizer(captions, padding=True, return_tensors="pt")
        with torch.inference_mode():
            text = self.clip.text_projection(self.clip.text_model(**tokens).pooler_output)
        self.text = torch.nn.functional.normalize(text, dim=-1)

    def batches(self):
        for start in range(0, len(self.images), self.batch_size):
            images = self.images[start : start + self.batch_size]
            yield self.prepare(images=images, return_tensors="pt")["pixel_values"]

    def model(self):
        answers = []
        with torch.inference_mode():
            for pixels in self.batches():
                ids = self.ids.repeat(len(pixels), 1)
                options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 32}
                rows = self.llava.generate(input_ids=ids, pixel_values=pixels, **options)
                rows = rows[:, ids.shape[1] :]
                answers += [text.strip() for text in self.processor.batch_decode(rows, skip_special_tokens=True)]
        return dict(zip(self.samples, answers))

    def encoder(self):
        answers = []
        with torch.inference_mode():
            for pixels in self.batches():
                image = self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)
                cosines = torch.nn.functional.normalize(image, dim=-1) @ self.text.T
                answers += [self.labels[index] for index in cosines.argmax(1).tolist()]
        return dict(zip(self.samples, answers))


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def rates_of(n_images, seconds):
    """Median, least and greatest rate; None where a difference of two times was lost in the noise of a busy machine."""
    middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
    if least <= 0:
        return None
    return n_images / middle, n_images / most, n_images / least


def shown(rates):
    return "lost in the noise" if rates is None else "{:,.0f} ({:,.0f} to {:,.0f})".format(*rates)


def machine(run):
    environment = json.loads((run / "run.json").read_text())["environment"]
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    load = os.getloadavg()
    return f"{model}, {environment['n_threads']} cores, {' '.join(environment['instruction_set'])}; load before {load[0]:.1f}"


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    shared = pathlib.Path(options.shared)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        emt = Emt(options, work)
        own, other = shared / "models/tiny-clip", another_tower(shared / "models/tiny-clip", work / "clip")
        # The warm-up is also what both are compared by.
        _, run = emt.run("warm-up", options.images, own)
        where = machine(run)
        reference = Transformers(shared, run, options.batch_size)
        n_equal = {}
        for subject, work_of in [("model", reference.model), ("encoder", reference.encoder)]:
            ours, theirs = trials(run, subject), work_of()
            n_equal[subject] = sum(ours[sample].strip() == theirs[sample] for sample in theirs)
        n_timed = options.images - options.batch_size
        seconds = {}
        for repeat in range(options.repeats):
            alone, both, separate = emt.seconds("alone", "none"), emt.seconds("both", own), emt.seconds("separate", other)
            by_model, _ = timed(reference.model)
            by_encoder, _ = timed(reference.encoder)
            for name, time_of in {
                ("model", "emt"): alone,
                ("model", "transformers"): by_model,
                ("encoder", "emt"): separate - alone,
                ("encoder", "transformers"): by_encoder,
                ("both", "emt"): both,
                ("both", "transformers"): by_model + by_encoder,
            }.items():
                seconds.setdefault(name, []).append(time_of)
            shown_times = ", ".join(f"{' '.join(name)} {times[-1]:.2f} s" for name, times in seconds.items())
            print(f"repeat {repeat + 1}: {shown_times}", file=sys.stderr)
    print(f"{where}; {options.images} images of CIFAR-10, batches of {options.batch_size}, f32, {options.threads} threads, "
          f"{options.repeats} repeats; torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| images/s, median (least to most) | emt | transformers | ratio | equal answers |")
    print("|---|---:|---:|---:|---:|")
    for name, title in [("model", "model"), ("encoder", "encoder"), ("both", "model and its encoder")]:
        ours = rates_of(n_timed, seconds[name, "emt"])
        theirs = rates_of(options.images, seconds[name, "transformers"])
        ratio = f"{ours[0] / theirs[0]:.2f}" if ours and theirs else ""
        equal = f"{n_equal[name]} of {options.images}" if name in n_equal else ""
        print(f"| {title} | {shown(ours)} | {shown(theirs)} | {ratio} | {equal} |")
    n_least = 0.998 * options.images
    if n_equal["model"] < n_least or n_equal["encoder"] < n_least:
        sys.exit("error: the answers are not those of transformers; these times mean nothing")


if __name__ == "__main__":
    main()
