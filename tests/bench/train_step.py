"""Times one training step of `emt finetune` beside transformers + peft, on the same batch in one run.

    python train_step.py --emt target/release/emt --shared DIR        (torch, transformers, peft, pillow, numpy)

DIR is the shared folder (models/tiny-llava, data/cifar10). 32 training images of CIFAR-10 are written to a folder; each
engine, in turn, makes steps of LoRA (rank 64, projector trained too, dropout 0) on all of them as one batch, in a process of
its own. The losses of the first step must agree. Printed: the median seconds of a step (the first two left out) with
spread, the ratio, and the peak memory of each process.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

N_IMAGES, N_STEPS, N_WARM, N_ROUNDS = 32, 8, 2, 3
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
ANSWER = "The object is a {}."


def write_images(shared, folder):
    import numpy as np
    from PIL import Image

    raw = np.fromfile(shared / "data/cifar10/cifar-10-batches-bin/train_subset_10000.bin", np.uint8).reshape(-1, 3073)
    for index, row in enumerate(raw[:N_IMAGES]):
        path = folder / CLASSES[row[0]]
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row[1:].reshape(3, 32, 32).transpose(1, 2, 0)).save(path / f"{index:02}.png")
    assert len(list(folder.iterdir())) == len(CLASSES)


def reference(model_dir, folder):
    """Runs in a process of its own: prints seconds and losses of every step as JSON."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from PIL import Image
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = LlavaForConditionalGeneration.from_pretrained(model_dir).float()
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    config = LoraConfig(
        r=64, lora_alpha=16, lora_dropout=0.0, target_modules=targets, modules_to_save=["multi_modal_projector"]
    )
    model = get_peft_model(model, config).train()
    image_id = model.config.image_token_index
    n_image = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
    question = "What is the object in the image? Please only answer a single object in " + ", ".join(CLASSES) + "."
    prompt = "USER: " + "<image>" * n_image + "\n" + question + " ASSISTANT:"
    prompt_ids = tokenizer(prompt)["input_ids"]
    assert prompt_ids.count(image_id) == n_image
    alone = tokenizer("ASSISTANT:", add_special_tokens=False)["input_ids"]
    rows, pixels = [], []
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    for path in sorted(folder.glob("*/*.png")):
        text = "ASSISTANT: " + ANSWER.format(path.parent.name)
        answer = tokenizer(text, add_special_tokens=False)["input_ids"][len(alone) :] + [tokenizer.eos_token_id]
        rows.append((prompt_ids, answer))
        pixels.append(((np.asarray(Image.open(path), np.float32) / 255 - mean) / std).transpose(2, 0, 1))
    length = max(len(p) + len(a) for p, a in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), -100)
    attention = torch.zeros(len(rows), length, dtype=torch.long)
    for index, (p, a) in enumerate(rows):
        n = len(p) + len(a)
        ids[index, :n] = torch.tensor(p + a)
        labels[index, len(p) : n] = torch.tensor(a)
        attention[index, :n] = 1
    pixels = torch.from_numpy(np.stack(pixels))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    seconds, losses = [], []
    for _ in range(N_STEPS):
        start = time.perf_counter()
        loss = model(input_ids=ids, attention_mask=attention, pixel_values=pixels, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(float(loss))
    print(json.dumps(dict(seconds=seconds, losses=losses)))


def child(command):
    """Standard output and peak memory (bytes) of a process."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return text, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emt", required=True)
    parser.add_argument("--shared", required=True, type=Path)
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = arguments.shared / "models/tiny-llava"
    if arguments.reference:
        return reference(model, arguments.reference)
    scratch = Path(tempfile.mkdtemp())
    folder = scratch / "cifar/train"
    write_images(arguments.shared, folder)
    found = {"emt": [], "transformers + peft": []}
    memory = dict.fromkeys(found, 0)
    first = {}
    for round_ in range(N_ROUNDS):
        out = scratch / f"out-{round_}"
        command = [arguments.emt, "finetune", "--model", model, "--method", "lora", "--train", folder, "--out", out]
        command += ["--epochs", str(N_STEPS), "--learning-rate", "1e-4", "--warmup-ratio", "0", "--dropout", "0"]
        command += ["--batch-size", str(N_IMAGES), "--answer-template", ANSWER.format("{label}")]
        command += ["--eval-datasets", "none", "--quiet"]
        _, peak = child([str(word) for word in command])
        lines = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
        results = {"emt": ([line["seconds"] for line in lines], [line["loss"] for line in lines], peak)}
        command = [sys.executable, __file__, "--emt", "-", "--shared", arguments.shared, "--reference", folder]
        text, peak = child([str(word) for word in command])
        text = json.loads(text)
        results["transformers + peft"] = (text["seconds"], text["losses"], peak)
        for name, (seconds, losses, peak) in results.items():
            assert len(seconds) == N_STEPS
            found[name] += seconds[N_WARM:]
            memory[name] = max(memory[name], peak)
            first[name] = losses[0]
    shutil.rmtree(scratch)
    (a, b) = first.values()
    assert abs(a - b) < 1e-4 * b, f"the first step's losses differ: {first}"
    for name, seconds in found.items():
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(f"{name:22} {statistics.median(seconds):.3f} s a step ({spread}), peak {memory[name] / 2**20:.0f} MiB")
    ratio = statistics.median(found["transformers + peft"]) / statistics.median(found["emt"])
    print(f"ratio (reference over emt): {ratio:.2f}; first loss {a:.5f} and {b:.5f}; batch of {N_IMAGES}, {os.cpu_count()} cores")


main()
