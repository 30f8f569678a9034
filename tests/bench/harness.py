#!/usr/bin/env python3
"""What `emt eval` costs beside the model, and how fast it decodes and prepares images, and prints two tables in Markdown.

    cargo build --release
    python3 tests/bench/harness.py --shared DIR [--limit 10000] [--repeats 2] [--only overhead|preprocess]

Needs torch, transformers, Pillow and blake3 for the second table; DIR holds models/tiny-llava, models/tiny-clip and data.

Harness. The small model and its encoder over four datasets, each in a run of its own with the rules as judge. Times of stages are those
that emt writes into run.json: seconds at work, of reading and preparing summed over threads. Two figures, for which the least of all
repeats counts:
  path   what a user waits for beside model and preparation: wall time, less the time that the device was at work, less the part of its
         waiting for images that preparing (and not reading) took;
  work   all that the harness does, as if nothing ran side by side: wall time outside the flow of images (start, loading, compacting the
         journal, reports) + reading, decoding, hashing + judging and journal, less its waiting for the disk (a sync a second, on a
         thread of its own).
Times of threads that share cores with the model, or with other programs, count what they wait for a core: measure on a quiet machine.
Ends with 1 where the larger of both is over 3 seconds a 10,000 samples, of all four together.

Preparation. Images of three kinds, read, decoded, brought to RGB, resized (bicubic), cropped and normalised, for towers of 224 and 336
pixels: emt by its own times with one thread, beside Pillow and the steps of transformers' CLIPImageProcessorPil in one thread, in
turn; images/s of the fastest repeat. Decoded pixels must be equal, by their hash; that resized ones are is held by the tests.
Ends with 1 where emt is slower anywhere.
"""

import argparse
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

SECONDS_PER_10_000_MAX = 3.0
SIDES = (224, 336)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default=os.environ.get("EMT_SHARED", "../shared"), type=pathlib.Path)
    parser.add_argument("--emt", default="target/release/emt")
    parser.add_argument("--limit", type=int, default=10_000, help="samples of each dataset")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--images", type=int, default=1000, help="images of each kind that are prepared")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["overhead", "preprocess"])
    return parser.parse_args()


def run_emt(options, model, dataset, out, n_threads, limit, extra=()):
    """Wall seconds, and the run's manifest."""
    shutil.rmtree(out, ignore_errors=True)
    command = [options.emt, "eval", "--model", model, "--data", options.shared / "data", "--datasets", dataset]
    command += ["--limit", str(limit), "--judge", "rules", "--quiet", "--out", out, *extra]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "RAYON_NUM_THREADS": str(n_threads)})
    return time.perf_counter() - start, json.loads((out / "run.json").read_text())


def machine(manifest):
    environment = manifest["environment"]
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    load = os.getloadavg()[0]
    return f"{model}, {' '.join(environment['instruction_set'])}, kernels {environment['kernels']}; load {load:.1f}"


def overhead(options, work):
    shared = options.shared
    datasets = ["mnist", "cifar10", "cifar100", str(shared / "data/imagenet20/train")]
    rows, totals, where = [], [0, 0.0, 0.0], ""
    for dataset in datasets:
        best = None
        for _ in range(options.repeats):
            extra = ("--encoder", shared / "models/tiny-clip")
            wall, manifest = run_emt(options, shared / "models/tiny-llava", dataset, work / "run", options.threads, options.limit, extra)
            where = machine(manifest)
            timing = manifest["environment"]["timing"]
            read, prepare = timing["read_seconds"], timing["prepare_seconds"]
            share = read / (read + prepare) if read + prepare else 1.0
            path = wall - timing["answer_seconds"] - timing["wait_seconds"] * (1 - share)
            done = wall - timing["seconds"] + read + timing["record_seconds"] - timing["sync_seconds"]
            print(f"{dataset}: wall {wall:.2f} s, {timing}, path {path:.2f} s, work {done:.2f} s", file=sys.stderr, flush=True)
            if best is None or max(path, done) < max(best[-2:]):
                best = (timing, wall, path, done)
        timing, wall, path, done = best
        n, per = timing["n_images"], 10_000 / timing["n_images"]
        outside = wall - timing["seconds"]
        rows.append(
            f"| {pathlib.Path(dataset).name} | {n:,} | {wall:.1f} | {timing['answer_seconds']:.1f} | {timing['prepare_seconds']:.2f} "
            f"| {timing['read_seconds']:.2f} | {timing['record_seconds']:.2f} ({timing['sync_seconds']:.2f}) | {outside:.2f} | {path * per:.2f} | {done * per:.2f} |"
        )
        totals = [totals[0] + n, totals[1] + path, totals[2] + done]
    n, path, done = totals
    print(f"{where}; {options.threads} threads, {options.repeats} repeats\n")
    print("| dataset | samples | wall, s | model | preparing | reading | judging, journal (sync) | start and end | path per 10,000 | work per 10,000 |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    print("\n".join(rows))
    print(f"| together | {n:,} | | | | | | | {path / n * 10_000:.2f} | {done / n * 10_000:.2f} |\n", flush=True)
    return max(path, done) / n * 10_000 <= SECONDS_PER_10_000_MAX


def checkpoint(shared, side, folder):
    """A LLaVA with the preparation of a tower of `side` pixels and next to no work behind it, with random weights."""
    import torch
    import transformers

    small = shared / "models/tiny-llava"
    shutil.copytree(small, folder, copy_function=shutil.copyfile)
    os.chmod(folder, 0o755)
    (folder / "model.safetensors").unlink()
    config = json.loads((small / "config.json").read_text())
    config["image_seq_length"] = 4
    config["vision_config"] |= {"image_size": side, "patch_size": side // 2, "hidden_size": 16, "intermediate_size": 16}
    config["vision_config"] |= {"num_hidden_layers": 2, "num_attention_heads": 1}
    config["text_config"] |= {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 16}
    config["text_config"] |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((small / "processor_config.json").read_text())
    processor["patch_size"] = side // 2
    processor["image_processor"] |= {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    torch.manual_seed(1)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig.from_pretrained(folder))
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def sources(options, work):
    """By name: what emt takes for a dataset, and what gives the encoded bytes of one of its samples by id."""
    data = options.shared / "data"
    # One photograph of each of 100 classes is too little to time: the same ones under several names.
    photographs = work / "photographs/val"
    for path in sorted((data / "miniimagenet100").rglob("*.JPEG")):
        folder = photographs / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        for copy in range(max(1, options.images // 100)):
            shutil.copyfile(path, folder / f"{copy:03}-{path.name}")
    archive = zipfile.ZipFile(data / "cifar100/cifar100_test_png.zip")

    def of_folder(root):
        return lambda sample: (root / sample.split("/", 2)[2]).read_bytes()

    return {
        "PNG of 32 pixels in a zip": ("cifar100", lambda sample: archive.read(sample.split("/", 1)[1])),
        "JPEG of 64 pixels": (str(data / "imagenet20/train"), of_folder(data / "imagenet20/train")),
        "JPEG photographs": (str(photographs), of_folder(photographs)),
    }


def by_pillow(read, samples, processor):
    """Seconds of preparing all `samples`, one by one as emt does."""
    from PIL import Image

    start = time.perf_counter()
    for sample in samples:
        image = Image.open(io.BytesIO(read(sample)))
        processor(images=image.convert("RGB"), return_tensors="np")
    return time.perf_counter() - start


def content(data):
    """A sample's content as emt has it, of the pixels that Pillow decodes."""
    import blake3
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    sides = image.width.to_bytes(4, "little") + image.height.to_bytes(4, "little")
    return "blake3:" + blake3.blake3(sides + image.tobytes()).hexdigest()


def preprocess(options, work):
    import torch
    import transformers

    torch.set_num_threads(1)
    of_pillow = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    rows, is_slower, where = [], False, ""
    for side in SIDES:
        model = checkpoint(options.shared, side, work / f"model-{side}")
        processor = of_pillow.from_pretrained(model)
        for name, (dataset, read) in sources(options, work).items():
            ours, theirs, split = [], [], ""
            for _ in range(options.repeats):
                extra = ("--encoder", "none", "--max-new-tokens", "1", "--prompt", "emt-open", "--max-unscored", "1")
                _, manifest = run_emt(options, model, dataset, work / "run", 1, options.images, extra)
                where = machine(manifest)
                timing = manifest["environment"]["timing"]
                ours.append((timing["read_seconds"] + timing["prepare_seconds"]) / timing["n_images"])
                if ours[-1] == min(ours):
                    parts = (timing[key] / timing["n_images"] * 1e6 for key in ("read_seconds", "prepare_seconds"))
                    split = " + ".join(f"{part:.0f}" for part in parts)
                trials = [json.loads(line) for line in (work / "run/trials.jsonl").read_text().splitlines()]
                theirs.append(by_pillow(read, [trial["sample"] for trial in trials], processor) / len(trials))
            unequal = [trial["sample"] for trial in trials if content(read(trial["sample"])) != trial["content"]]
            if unequal:
                sys.exit(f"error: {len(unequal)} images decode to other pixels, {unequal[0]} among them; these times mean nothing")
            ratio = min(theirs) / min(ours)
            is_slower |= ratio < 1
            rows.append(f"| {name} | {side} | {1 / min(ours):,.0f} | {split} | {1 / min(theirs):,.0f} | {ratio:.2f} |")
    import PIL

    print(f"{where}; one thread, {options.images} images, {options.repeats} repeats, the fastest; "
          f"Pillow {PIL.__version__}, transformers {transformers.__version__} ({of_pillow.__name__})\n")
    print("| images | side | emt, images/s | µs: reading + preparing | Pillow, images/s | ratio |\n|---|---:|---:|---:|---:|---:|")
    print("\n".join(rows) + "\n", flush=True)
    return not is_slower


def main():
    options = arguments()
    is_good = True
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        if options.only != "preprocess":
            is_good &= overhead(options, work)
        if options.only != "overhead":
            is_good &= preprocess(options, work)
    if not is_good:
        sys.exit("error: slower than it should be")


if __name__ == "__main__":
    main()
