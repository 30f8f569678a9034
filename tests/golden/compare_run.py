"""Compares a run of `emt eval` under an adapter with transformers and peft: answers, and the logit gaps of every answer.

    python compare_run.py BASE ADAPTER RUN TEST_BATCH        (torch, transformers, peft, safetensors, pillow, numpy)

RUN is the folder of an `emt eval` of BASE under ADAPTER (a PEFT folder) on cifar10; TEST_BATCH is the published pickle of
its images. The gap is the least difference of the two highest logits over an answer's steps, so equal gaps mean equal
logits where it matters.
"""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration

TOLERANCE = 1e-4


@torch.no_grad()
def main():
    base, adapter, run, batch = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    model = LlavaForConditionalGeneration.from_pretrained(base).float().eval()
    model = PeftModel.from_pretrained(model, adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    processor = AutoImageProcessor.from_pretrained(base, backend="pil")
    config = model.base_model.model.config
    prompt = json.loads((run / "run.json").read_text())["prompts"]["cifar10"]["model"]["generate"]["ids"]
    ids = torch.tensor([[config.image_token_index if token is None else token for token in prompt]])
    images = pickle.load(open(batch, "rb"), encoding="bytes")[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    trials = [trial for trial in trials if trial["subject"] == "model"]
    n_equal, largest = 0, 0.0
    for trial in trials:
        image = Image.fromarray(np.ascontiguousarray(images[int(trial["sample"].rsplit("/", 1)[1])]))
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            max_new_tokens=32,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        answer = tokenizer.decode(out.sequences[0, ids.shape[1] :], skip_special_tokens=True).strip()
        gaps = [float(step[0].topk(2).values.diff().abs()) for step in out.logits]
        n_equal += answer == trial["answer"].strip()
        largest = max(largest, abs(min(gaps) - trial["logit_gap"]))
    print(f"{adapter}: {n_equal} of {len(trials)} answers equal, logit gaps within {largest:.1e}")
    assert n_equal == len(trials) and largest < TOLERANCE


main()
