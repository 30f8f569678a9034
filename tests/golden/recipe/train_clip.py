"""Trains tiny-clip: python3 train_clip.py DATA OUT --minutes N

Cross-entropy between an image and the captions of all classes of all sets at once. For the first 78% of the time the
tower sees 28 of the 64 patches (Li et al. 2023, FLIP), which is about twice as fast.
"""
import argparse
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from data import CLASSES, MEAN, STD, caption, load
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy, normalize, pad
from transformers import CLIPConfig, CLIPModel

N_BATCH, N_PATCHES_KEPT, MASKED_SHARE = 256, 28, 0.78
RATE, N_WARMUP_STEPS = 1.2e-3, 200
# How often each set is drawn.
SHARES = {"mnist": 0.09, "cifar10": 0.36, "cifar100": 0.38, "imagenet20": 0.17}


def build(tokenizer):
    start, end = (tokenizer.token_to_id(f"<|{name}oftext|>") for name in ("start", "end"))
    text = dict(vocab_size=tokenizer.get_vocab_size(), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=24, hidden_act="quick_gelu", bos_token_id=start,
                eos_token_id=end, pad_token_id=end, projection_dim=96)
    vision = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4, image_size=32,
                  patch_size=4, hidden_act="quick_gelu", projection_dim=96)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96, logit_scale_init_value=2.6592))


class Training:
    def __init__(self, data, tokenizer):
        captions, pixels, targets, weights = {}, [], [], []
        for name, (images, labels) in load(data).items():
            index = [captions.setdefault(caption(name, label), len(captions)) for label in CLASSES[name]]
            pixels.append(torch.from_numpy(images))
            targets.append(torch.tensor(index)[torch.from_numpy(labels)])
            weights.append(torch.full((len(labels),), SHARES[name] / len(labels), dtype=torch.double))
        self.is_digit = torch.cat([torch.full((len(part),), i == 0) for i, part in enumerate(pixels)])
        self.pixels = torch.cat(pixels).permute(0, 3, 1, 2).contiguous()
        self.targets, self.cumulative = torch.cat(targets), torch.cumsum(torch.cat(weights), 0)
        rows = [tokenizer.encode(text).ids for text in captions]
        length, end = max(map(len, rows)), tokenizer.token_to_id("<|endoftext|>")
        self.ids = torch.tensor([row + [end] * (length - len(row)) for row in rows])
        self.mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])

    def batch(self):
        """Shifted by up to 3 pixels, and mirrored half of the time unless a digit."""
        chosen = torch.searchsorted(self.cumulative, torch.rand(N_BATCH, dtype=torch.double) * self.cumulative[-1])
        chosen = chosen.clamp(max=len(self.targets) - 1)
        padded = pad(self.pixels[chosen].float(), (3, 3, 3, 3), mode="reflect")
        rows = (torch.randint(0, 7, (N_BATCH, 1)) + torch.arange(32))[:, None, :, None]
        columns = (torch.randint(0, 7, (N_BATCH, 1)) + torch.arange(32))[:, None, None, :]
        images = padded[torch.arange(N_BATCH)[:, None, None, None], torch.arange(3)[None, :, None, None], rows, columns]
        mirrored = (torch.rand(N_BATCH) < 0.5) & ~self.is_digit[chosen]
        images[mirrored] = images[mirrored].flip(3)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        return (images / 255 - mean) / std, self.targets[chosen]


def image_embeddings(model, pixels, is_masked):
    vision = model.vision_model
    hidden = vision.embeddings(pixels)
    if is_masked:
        kept = torch.rand(len(hidden), 64).argsort(1)[:, :N_PATCHES_KEPT] + 1
        patches = torch.gather(hidden, 1, kept[:, :, None].expand(-1, -1, hidden.shape[2]))
        hidden = torch.cat([hidden[:, :1], patches], 1)
    hidden = vision.encoder(inputs_embeds=vision.pre_layrnorm(hidden)).last_hidden_state
    return normalize(model.visual_projection(vision.post_layernorm(hidden[:, 0])), dim=-1)


def train(model, training, seconds):
    matrices = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    start, step = time.time(), 0
    while (share := (time.time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / N_WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * share)) + 1e-6
        pixels, targets = training.batch()
        images = image_embeddings(model, pixels, share < MASKED_SHARE)
        text = model.text_model(input_ids=training.ids, attention_mask=training.mask).pooler_output
        text = normalize(model.text_projection(text), dim=-1)
        logits = model.logit_scale.exp().clamp(max=100) * images @ text.T
        loss = cross_entropy(logits, targets, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 500 == 0:
            print(f"{share:.0%} step {step} loss {loss.item():.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    np.random.seed(0)
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer-clip/tokenizer.json"))
    model = build(tokenizer)
    train(model, Training(args.data, tokenizer), 60 * args.minutes)
    folder = args.out / "tiny-clip"
    model.save_pretrained(folder)
    shutil.copytree(args.out / "tokenizer-clip", folder, dirs_exist_ok=True)
    processor = dict(
        crop_size=dict(height=32, width=32), do_center_crop=True, do_convert_rgb=True, do_normalize=True,
        do_rescale=True, do_resize=True, image_mean=MEAN, image_processor_type="CLIPImageProcessor", image_std=STD,
        resample=3, rescale_factor=1 / 255, size=dict(shortest_edge=32))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))


if __name__ == "__main__":
    main()
