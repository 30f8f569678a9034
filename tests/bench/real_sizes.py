#!/usr/bin/env python3
"""Times `emt eval` and transformers in turn on models of real sizes with random weights, and prints a table in Markdown.

    cargo build --release
    python3 tests/bench/real_sizes.py --shared DIR [--shapes b32-300m,l14-300m] [--batch-sizes 1,8] [--dtypes f32,bf16]

Needs torch, transformers and Pillow; DIR holds models/tiny-llava (tokenizer and template) and
data/cifar100/cifar100_test_png.zip.

emt: its own time for all images (run.json's `timing`: from the first that is read to the last that is in the journal, without loading the
model) less the same of a run of one batch, so that what is done once is not counted; reading, decoding, preparing and journalling are in. transformers: preparing and generating in a process of its own, once as it is installed and once with each of
SETTINGS; the best counts. Both answer the same prompts about the same images, and their first answers must agree.

Beside the ratio stands the share of the attainable: the floating-point operations of encoder and prefill over the seconds without
decoding (the same with one new token), over the best rate of a product of two 4096 x 4096 matrices that either engine reaches in this run
with any setting.
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

# What people find in forums when torch is slower than it could be. MKL takes its widest instructions only where it believes
# the processor to be of its maker: SHIM stands for a library that says so.
SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n"
WIDE = {"LD_PRELOAD": "SHIM", "MKL_ENABLE_INSTRUCTIONS": "AVX512", "ATEN_CPU_CAPABILITY": "avx512"}
NARROW = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
SETTINGS = {"installed": {}, "wide": WIDE, "narrow": NARROW, "compiled": {"BENCH_COMPILE": "1"}}
# (side, patch, width, hidden, layers, heads) and (width, hidden, layers, heads, heads of keys)
TOWERS = {"b32": (224, 32, 768, 3072, 12, 12), "l14": (336, 14, 1024, 4096, 24, 16)}
LANGUAGE = {"300m": (1024, 2816, 22, 16, 16), "1b": (2048, 5632, 22, 32, 4)}
VOCABULARY = 32000
N_NEW_TOKENS = 16


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default=os.environ.get("EMT_SHARED", "../shared"), type=pathlib.Path)
    parser.add_argument("--emt", default="target/release/emt")
    parser.add_argument("--shapes", default="b32-300m,l14-300m")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--batches", type=int, default=2, help="timed batches")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--settings", default=",".join(SETTINGS), help="of transformers; `installed` is always among them")
    parser.add_argument("--kernels", help="forces those of emt")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def environment(extra):
    """Ours without switches that hold the libraries to old instructions."""
    held = ("OPENBLAS_CORETYPE", "NVPL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(held)}
    return {**kept, "RAYON_NUM_THREADS": str(OPTIONS.threads), **extra}


def make_checkpoint(shape, folder):
    """A LLaVA of the given sizes with random weights, and the tokenizer of the small one."""
    import torch
    import transformers

    small = OPTIONS.shared / "models/tiny-llava"
    shutil.copytree(small, folder, copy_function=shutil.copyfile)
    os.chmod(folder, 0o755)
    (folder / "model.safetensors").unlink()
    tower, language = shape.split("-")
    side, patch, width, hidden, layers, heads = TOWERS[tower]
    config = json.loads((small / "config.json").read_text())
    n_known = config["image_token_index"]  # Padding comes after it.
    config["image_seq_length"] = (side // patch) ** 2
    config["vision_config"] |= {"image_size": side, "patch_size": patch, "hidden_size": width, "intermediate_size": hidden}
    config["vision_config"] |= {"num_hidden_layers": layers, "num_attention_heads": heads}
    width, hidden, layers, heads, kv_heads = LANGUAGE[language]
    config["text_config"] |= {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers, "head_dim": width // heads}
    config["text_config"] |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": VOCABULARY}
    config["text_config"]["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((small / "processor_config.json").read_text())
    processor["patch_size"] = patch
    processor["image_processor"] |= {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    torch.manual_seed(1)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig.from_pretrained(folder))
    with torch.no_grad():
        # Tokens that the small tokenizer lacks never win, and neither does the end: all answers are of one length.
        model.lm_head.weight[n_known:] = 0
        model.lm_head.weight[config["text_config"]["eos_token_id"]] = 0
    model.save_pretrained(folder, safe_serialization=True)
    return n_flops(shape)


def n_flops(shape):
    """Of one image through the tower and of one token through the language model, products with weights alone."""
    tower, language = shape.split("-")
    side, patch, width, hidden, layers, _ = TOWERS[tower]
    n_tokens = (side // patch) ** 2 + 1
    encoder = 2 * n_tokens * (layers - 1) * (4 * width * width + 2 * width * hidden)
    width, hidden, layers, heads, kv_heads = LANGUAGE[language]
    projections = width * width * (2 + 2 * kv_heads / heads)
    return encoder, 2 * layers * (projections + 3 * width * hidden)


def run_emt(checkpoint, dtype, batch_size, n_images, n_new, out):
    """Seconds of one command from its first image on; its run is left in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    command = [OPTIONS.emt, "eval", "--model", checkpoint, "--encoder", "none", "--data", OPTIONS.shared / "data"]
    command += ["--datasets", "cifar100", "--limit", str(n_images), "--batch-size", str(batch_size), "--dtype", dtype]
    command += ["--max-new-tokens", str(n_new), "--judge", "rules", "--quiet", "--out", out]
    forced = {"EMT_KERNELS": OPTIONS.kernels} if OPTIONS.kernels else {}
    subprocess.run(command, check=True, env=environment(forced), stdout=subprocess.DEVNULL)
    return json.loads((out / "run.json").read_text())["environment"]["timing"]["seconds"]


def emt_seconds(checkpoint, dtype, batch_size, n_new, out):
    """Of the timed batches."""
    whole = run_emt(checkpoint, dtype, batch_size, (OPTIONS.batches + 1) * batch_size, n_new, out)
    return whole - run_emt(checkpoint, dtype, batch_size, batch_size, n_new, out.with_name("start"))


def worker(task):
    """The work of transformers, in a process with one of SETTINGS."""
    import torch
    import transformers
    from PIL import Image

    torch.set_num_threads(OPTIONS.threads)
    a, b = torch.randn(4096, 4096), torch.randn(4096, 4096)
    if task["dtype"] == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        a @ b
        rates.append(2 * 4096**3 / (time.perf_counter() - start))
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[task["dtype"]]
    model = transformers.LlavaForConditionalGeneration.from_pretrained(task["checkpoint"], dtype=dtype).eval()
    if os.environ.get("BENCH_COMPILE"):
        model.forward = torch.compile(model.forward, dynamic=True)
    processor = transformers.AutoProcessor.from_pretrained(task["checkpoint"])
    with zipfile.ZipFile(OPTIONS.shared / "data/cifar100/cifar100_test_png.zip") as archive:
        images = [Image.open(archive.open(name)).convert("RGB") for name in task["images"]]

    def answers(n_new):
        texts = []
        with torch.inference_mode():
            for start in range(0, len(images), task["batch_size"]):
                batch = images[start : start + task["batch_size"]]
                inputs = processor(images=batch, text=[task["prompt"]] * len(batch), return_tensors="pt").to(dtype)
                rows = model.generate(**inputs, do_sample=False, max_new_tokens=n_new)
                task["n_prompt_tokens"] = inputs["input_ids"].shape[1]
                texts += processor.batch_decode(rows[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    first = answers(N_NEW_TOKENS)
    times = []
    for _ in range(task["repeats"]):
        start = time.perf_counter()
        answers(N_NEW_TOKENS)
        times.append(time.perf_counter() - start)
    print(json.dumps({"answers": first, "seconds": statistics.median(times), "rate": max(rates), "n_tokens": task["n_prompt_tokens"]}))


def transformers_results(task):
    """By setting, what the worker printed; a setting that fails on this machine is left out, aloud."""
    results = []
    for name in dict.fromkeys(["installed", *OPTIONS.settings.split(",")]):
        setting = {key: str(task["shim"]) if value == "SHIM" else value for key, value in SETTINGS[name].items()}
        command = [sys.executable, __file__, "--shared", OPTIONS.shared, "--threads", str(OPTIONS.threads), "--worker", json.dumps(task)]
        done = subprocess.run(command, env=environment(setting), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"left out: {name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        results.append((name, json.loads(done.stdout.splitlines()[-1])))
    return results


def row(shape, dtype, batch_size, checkpoint, flops, work):
    """One line of the table."""
    out = work / "run"
    run_emt(checkpoint, dtype, batch_size, (OPTIONS.batches + 1) * batch_size, N_NEW_TOKENS, out)  # Warms up.
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()][batch_size:]
    spec = json.loads((out / "run.json").read_text())["spec"]["datasets"][0]
    prompt = next(prompt for prompt in spec["prompts"] if prompt["subject"] == "model")
    task = {"checkpoint": str(checkpoint), "dtype": dtype, "batch_size": batch_size, "prompt": prompt["rendered"]}
    task |= {"shim": str(work / "shim.so")}
    task |= {"images": [trial["sample"].removeprefix("cifar100/") for trial in trials], "repeats": OPTIONS.repeats}
    results = transformers_results(task)
    ours = [emt_seconds(checkpoint, dtype, batch_size, N_NEW_TOKENS, out) for _ in range(OPTIONS.repeats)]
    prefill = [emt_seconds(checkpoint, dtype, batch_size, 1, out) for _ in range(OPTIONS.repeats)]
    plain = results[0][1]
    best_setting, best = min(results, key=lambda result: result[1]["seconds"])
    n_equal = sum(trial["answer"].strip() == answer for trial, answer in zip(trials, plain["answers"]))
    rate = max(OPTIONS.rates.get(dtype, 0), *(result["rate"] for _, result in results))
    encoder, token = flops
    wanted = len(trials) * (encoder + token * plain["n_tokens"]) / rate
    middle = statistics.median(ours)
    cells = [shape, dtype, batch_size, f"{middle:.2f} ({min(ours):.2f} to {max(ours):.2f})", f"{plain['seconds']:.2f}"]
    cells += [f"{best['seconds']:.2f} ({best_setting})", f"{plain['seconds'] / middle:.2f}", f"{best['seconds'] / middle:.2f}"]
    cells += [f"{wanted / statistics.median(prefill):.2f}", f"{n_equal} of {len(trials)}"]
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def rates_of_kernels():
    """Of emt's own product of that size, by type: `cargo bench --bench kernels` prints it."""
    command = ["cargo", "bench", "--locked", "--quiet", "--bench", "kernels", "--", "4096x4096x4096"]
    done = subprocess.run(command, env=environment({}), check=True, stdout=subprocess.PIPE, text=True)
    fields = [line.split("\t") for line in done.stdout.splitlines()]
    kept = [of for of in fields if OPTIONS.kernels in (None, of[0])]
    return {dtype: max(float(of[5]) * 1e9 for of in kept if of[2] == f"product {dtype}") for dtype in ("f32", "bf16")}


def main():
    OPTIONS.rates = rates_of_kernels()
    print("| shape | type | batch | emt, s | as installed, s | best, s | ratio | ratio to the best | of the attainable | equal answers |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "shim.c").write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", work / "shim.so", work / "shim.c"], check=True)
        for shape in OPTIONS.shapes.split(","):
            checkpoint = work / shape
            flops = make_checkpoint(shape, checkpoint)
            for dtype in OPTIONS.dtypes.split(","):
                for batch_size in map(int, OPTIONS.batch_sizes.split(",")):
                    row(shape, dtype, batch_size, checkpoint, flops, work)
        environment_of_run = json.loads((work / "run/run.json").read_text())["environment"]
        print(f"\n{OPTIONS.threads} threads; {' '.join(environment_of_run['instruction_set'])}; load {os.getloadavg()[0]:.1f}")


OPTIONS = arguments()
if OPTIONS.worker:
    worker(json.loads(OPTIONS.worker))
else:
    main()
