#!/usr/bin/env python3
"""Times `emt eval` and transformers in turn on models of real sizes with random weights, and prints a table in Markdown.

    cargo build --release
    python3 tests/bench/real_sizes.py --shared DIR [--shapes b32,l14,b32-300m,l14-300m] [--batch-sizes 1,8] [--dtypes f32,bf16]

Needs torch, transformers and Pillow; DIR holds models/tiny-llava, models/tiny-clip (tokenizer and template) and
data/cifar100/cifar100_test_png.zip. A shape is a tower, for a CLIP of its size, or a tower and a language model, for a LLaVA.

emt: the time of run.json's `timing`, from the first image that is read to the last answer in the journal; reading, decoding, preparing
and journalling are in. For a CLIP: the small LLaVA with it as the encoder, less the small LLaVA without, and less the same of one batch,
so that captions do not count. transformers: preparing and generating (or encoding) in a process of its own, once with each of SETTINGS;
the best counts. Both answer the same prompts about the same images. Repeats stop after `--row-seconds` of an engine.

Beside the ratio stands the share of the attainable: the floating-point operations of encoder and prefill over the seconds without
decoding (the same with one new token), over the best rate of a product of two 4096 x 4096 matrices that either engine reaches in this run
with any setting. For decoding (batch 1): bytes of the language model's weights, keys and values over the seconds of a further token, over the rate at
which as many bytes are read and added up just before and after: on a machine that others use, too, that rate is not always the same.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile

from random_models import LANGUAGE, TOWERS, VOCABULARY, make_encoder, make_model

# What people find in forums when torch is slower than it could be. MKL takes its widest instructions only where it believes
# the processor to be of its maker: SHIM stands for a library that says so.
SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n"
WIDE = {"LD_PRELOAD": "SHIM", "MKL_ENABLE_INSTRUCTIONS": "AVX512", "ATEN_CPU_CAPABILITY": "avx512"}
NARROW = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
SETTINGS = {"installed": {}, "wide": WIDE, "narrow": NARROW, "compiled": {**WIDE, "BENCH_COMPILE": "1"}}
N_NEW_TOKENS = 16


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default=os.environ.get("EMT_SHARED", "../shared"), type=pathlib.Path)
    parser.add_argument("--emt", default="target/release/emt")
    parser.add_argument("--shapes", default="b32,b32-300m,l14-300m")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--images", type=int, default=8, help="timed images, at least; whole batches")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--row-seconds", type=float, default=60)
    parser.add_argument("--settings", default="installed,wide", help="of transformers, from " + ", ".join(SETTINGS) + "; the first is the plain one")
    parser.add_argument("--kernels", help="forces those of emt")
    parser.add_argument("--kernels-bench", default="cargo bench --locked --quiet --bench kernels --", help="what times emt's products")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def environment(extra):
    """Ours without switches that hold the libraries to old instructions."""
    held = ("OPENBLAS_CORETYPE", "NVPL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(held)}
    return {**kept, "RAYON_NUM_THREADS": str(OPTIONS.threads), **extra}


def n_flops(shape, n_prompt_tokens):
    """Of one image, what must be computed: patches, tower, and prompt through the language model; products with weights, and
    attention's own. Of a last layer only keys and values are of all tokens: one token's state is looked at."""
    tower, _, language = shape.partition("-")
    side, patch, width, hidden, layers, _ = TOWERS[tower]
    n_patches = (side // patch) ** 2
    n_tokens = n_patches + 1
    flops = 2 * n_patches * 3 * patch**2 * width
    # LLaVA takes the last state but one.
    flops += (layers - 1) * (2 * n_tokens * (4 * width * width + 2 * width * hidden) + 4 * n_tokens**2 * width)
    if not language:
        flops += 2 * n_tokens * 2 * width * width
    else:
        width, _, layers, heads, kv_heads = LANGUAGE[language]
        of_layer = n_language_weights(language) / layers
        flops += 2 * n_prompt_tokens * ((layers - 1) * of_layer + 2 * width * width * kv_heads / heads)
        flops += (layers - 1) * 2 * n_prompt_tokens**2 * width  # Half of them: no token sees a later one.
    return flops


def n_language_weights(language):
    """Of the language model's layers, without embedding and head."""
    width, hidden, layers, heads, kv_heads = LANGUAGE[language]
    return layers * (width * width * (2 + 2 * kv_heads / heads) + 3 * width * hidden)


def run_emt(models, dtype, batch_size, n_images, n_new, out):
    """Seconds of one command from its first image on; its run is left in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    command = [OPTIONS.emt, "eval", *models, "--data", OPTIONS.shared / "data"]
    command += ["--datasets", "cifar100", "--limit", str(n_images), "--batch-size", str(batch_size), "--dtype", dtype]
    command += ["--max-new-tokens", str(n_new), "--judge", "rules", "--quiet", "--out", out]
    forced = {"EMT_KERNELS": OPTIONS.kernels} if OPTIONS.kernels else {}
    subprocess.run(command, check=True, env=environment(forced), stdout=subprocess.DEVNULL)
    return json.loads((out / "run.json").read_text())["environment"]["timing"]["seconds"]


def repeated(work):
    """Results of `work`, which gives seconds, until the row's share of time or the repeats are used up. The first one warms up and
    counts only where it has used all the time alone."""
    seconds = [work()]
    while len(seconds) <= OPTIONS.repeats and sum(seconds) < OPTIONS.row_seconds:
        seconds.append(work())
    return seconds[1:] or seconds


def images_of(task):
    from PIL import Image

    with zipfile.ZipFile(OPTIONS.shared / "data/cifar100/cifar100_test_png.zip") as archive:
        return [Image.open(archive.open(name)).convert("RGB") for name in task["images"]]


def rate_of_product(dtype):
    """Best floating-point operations a second of a square product."""
    import torch

    a, b = torch.randn(4096, 4096).to(dtype), torch.randn(4096, 4096).to(dtype)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * 4096**3 / min(seconds)


def answers_of_model(task, dtype):
    """A function that answers all images, by the processor and `generate`."""
    import torch
    import transformers

    model = transformers.LlavaForConditionalGeneration.from_pretrained(task["checkpoint"], dtype=dtype).eval()
    if os.environ.get("BENCH_COMPILE"):
        model.forward = torch.compile(model.forward, dynamic=True)
    processor = transformers.AutoProcessor.from_pretrained(task["checkpoint"])
    images = images_of(task)

    def answers():
        texts = []
        for start in range(0, len(images), task["batch_size"]):
            batch = images[start : start + task["batch_size"]]
            inputs = processor(images=batch, text=[task["prompt"]] * len(batch), return_tensors="pt").to(dtype)
            rows = model.generate(**inputs, do_sample=False, max_new_tokens=N_NEW_TOKENS)
            task["n_tokens"] = inputs["input_ids"].shape[1]
            texts += processor.batch_decode(rows[:, task["n_tokens"] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    return answers


def answers_of_encoder(task, dtype):
    """A function that names every image's nearest caption."""
    import torch
    import transformers

    clip = transformers.CLIPModel.from_pretrained(task["checkpoint"], dtype=dtype).eval()
    tower = torch.compile(clip.vision_model) if os.environ.get("BENCH_COMPILE") else clip.vision_model
    # Pillow's resize, as the checkpoints were trained and as emt does it.
    prepare = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor).from_pretrained(task["checkpoint"])
    tokens = transformers.AutoTokenizer.from_pretrained(task["checkpoint"])(
        [task["prompt"].replace("{}", label) for label in task["labels"]], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        text = torch.nn.functional.normalize(clip.text_projection(clip.text_model(**tokens).pooler_output), dim=-1)
    images = images_of(task)

    def answers():
        labels = []
        for start in range(0, len(images), task["batch_size"]):
            pixels = prepare(images=images[start : start + task["batch_size"]], return_tensors="pt")["pixel_values"].to(dtype)
            image = torch.nn.functional.normalize(clip.visual_projection(tower(pixel_values=pixels).pooler_output), dim=-1)
            labels += [task["labels"][index] for index in (image @ text.T).argmax(1).tolist()]
        return labels

    return answers


def worker(task):
    """The work of transformers, in a process with one of SETTINGS."""
    import torch

    torch.set_num_threads(OPTIONS.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[task["dtype"]]
    result = {"rate": rate_of_product(dtype)}
    answers = (answers_of_encoder if task["labels"] else answers_of_model)(task, dtype)

    def timed():
        start = time.perf_counter()
        with torch.inference_mode():
            result["answers"] = answers()
        return time.perf_counter() - start

    if os.environ.get("BENCH_COMPILE"):
        timed()
    seconds = repeated(timed)
    print(json.dumps({**result, "seconds": statistics.median(seconds), "n_tokens": task.get("n_tokens", 0)}))


def transformers_results(task, shim):
    """By setting, what the worker printed; a setting that fails on this machine is left out, aloud."""
    results = {}
    for name in OPTIONS.settings.split(","):
        setting = {key: str(shim) if value == "SHIM" else value for key, value in SETTINGS[name].items()}
        command = [sys.executable, __file__, "--shared", OPTIONS.shared, "--threads", str(OPTIONS.threads)]
        command += ["--repeats", str(OPTIONS.repeats), "--row-seconds", str(OPTIONS.row_seconds), "--worker", json.dumps(task)]
        done = subprocess.run(command, env=environment(setting), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"left out: {name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        results[name] = json.loads(done.stdout.splitlines()[-1])
    return results


def task_of(out, subject, dtype, batch_size, checkpoint):
    """What the worker does, and emt's answers to it by sample, from a run of emt."""
    trials = map(json.loads, (out / "trials.jsonl").read_text().splitlines())
    answers = {trial["sample"].removeprefix("cifar100/"): trial["answer"].strip() for trial in trials if trial["subject"] == subject}
    spec = json.loads((out / "run.json").read_text())["spec"]["datasets"][0]
    prompt = next(prompt for prompt in spec["prompts"] if prompt["subject"] == subject)
    task = {"checkpoint": str(checkpoint), "dtype": dtype, "batch_size": batch_size, "images": list(answers)}
    task |= {"prompt": prompt["rendered" if subject == "model" else "text"]}
    task |= {"labels": [label["name"] for label in spec["labels"]] if subject == "encoder" else []}
    return task, answers


def row(shape, dtype, batch_size, checkpoint, work):
    """One line of the table."""
    out = work / "run"
    n_images = -(-OPTIONS.images // batch_size) * batch_size
    small = ["--model", OPTIONS.shared / "models/tiny-llava"]
    alone = [*small, "--encoder", "none"]
    both = [*small, "--encoder", checkpoint]
    model = ["--model", checkpoint, "--encoder", "none"]
    is_encoder = "-" not in shape

    def of_encoder():
        seconds = [run_emt(models, dtype, batch_size, n, 1, out) for models in (alone, both) for n in (batch_size, n_images + batch_size)]
        return seconds[3] - seconds[2] - (seconds[1] - seconds[0])

    memory = [rate_of_memory()] if batch_size == 1 else []
    if is_encoder:
        ours = prefill = repeated(of_encoder)
    else:
        prefill = repeated(lambda: run_emt(model, dtype, batch_size, n_images, 1, out))
        ours = repeated(lambda: run_emt(model, dtype, batch_size, n_images, N_NEW_TOKENS, out))
    memory += [rate_of_memory()] if batch_size == 1 else []
    task, answers = task_of(out, "encoder" if is_encoder else "model", dtype, batch_size, checkpoint)
    if is_encoder:
        task["images"] = task["images"][:n_images]
    results = transformers_results(task, work / "shim.so")
    plain = results[OPTIONS.settings.split(",")[0]]
    best = min(results, key=lambda name: results[name]["seconds"])
    n_equal = sum(answers[image] == answer for image, answer in zip(task["images"], plain["answers"]))
    OPTIONS.rates[dtype] = max(OPTIONS.rates[dtype], *(result["rate"] for result in results.values()))
    middle = statistics.median(ours)
    reached = n_images * n_flops(shape, plain["n_tokens"]) / OPTIONS.rates[dtype] / statistics.median(prefill)
    decode = ""
    if not is_encoder and batch_size == 1:
        language = shape.split("-")[1]
        width, _, layers, heads, kv_heads = LANGUAGE[language]
        n_kept = 2 * layers * kv_heads * width // heads * plain["n_tokens"]
        n_bytes = {"f32": 4, "bf16": 2}[dtype] * (n_language_weights(language) + VOCABULARY * width + n_kept)
        step = (middle - statistics.median(prefill)) / n_images / (N_NEW_TOKENS - 1)
        decode = f"{n_bytes / step / max(memory):.2f} of {max(memory) / 1e9:.0f} GB/s"
    others = ", ".join(f"{name} {result['seconds'] / n_images:.3f}" for name, result in results.items())
    cells = [shape, dtype, batch_size, f"{middle / n_images:.3f} ({min(ours) / n_images:.3f} to {max(ours) / n_images:.3f})", others]
    cells += [f"{plain['seconds'] / middle:.2f}", f"{results[best]['seconds'] / middle:.2f} ({best})", f"{reached:.2f}", decode]
    print("| " + " | ".join(map(str, [*cells, f"{n_equal} of {n_images}"])) + " |", flush=True)


def bench_of_kernels(shape):
    """Lines of `cargo bench --bench kernels` for one shape: kernels, threads, what, shape, milliseconds, rate in 10^9 a second."""
    done = subprocess.run([*OPTIONS.kernels_bench.split(), shape], env=environment({}), check=True, stdout=subprocess.PIPE, text=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def rates_of_kernels():
    """Of emt's own product of that size, by type."""
    kept = [of for of in bench_of_kernels("4096x4096x4096") if OPTIONS.kernels in (None, of[0])]
    return {dtype: max(float(of[5]) * 1e9 for of in kept if of[2] == f"product {dtype}") for dtype in ("f32", "bf16")}


def rate_of_memory():
    """Bytes a second that all threads read."""
    return max(float(of[5]) * 1e9 for of in bench_of_kernels("1x4096x32000") if of[2].startswith("read"))


def main():
    OPTIONS.rates = rates_of_kernels()
    plain = OPTIONS.settings.split(",")[0]
    print(f"| shape | type | batch | emt, s an image | transformers, s an image | ratio to {plain} | to the best | prefill of the attainable | decode of it | equal answers |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "shim.c").write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", work / "shim.so", work / "shim.c"], check=True)
        for shape in OPTIONS.shapes.split(","):
            checkpoint = work / shape
            (make_model if "-" in shape else make_encoder)(OPTIONS.shared, shape, checkpoint)
            for dtype in OPTIONS.dtypes.split(","):
                for batch_size in map(int, OPTIONS.batch_sizes.split(",")):
                    row(shape, dtype, batch_size, checkpoint, work)
            shutil.rmtree(checkpoint)
        environment_of_run = json.loads((work / "run/run.json").read_text())["environment"]
    sets = " ".join(environment_of_run["instruction_set"])
    print(f"\n{OPTIONS.threads} threads; {sets}; emt's kernels: {OPTIONS.kernels or 'the best'}; load {os.getloadavg()[0]:.1f}")
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in OPTIONS.rates.items())
    print(f"attainable: {rates}")


OPTIONS = arguments()
if OPTIONS.worker:
    worker(json.loads(OPTIONS.worker))
else:
    main()
