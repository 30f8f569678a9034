"""Trains tiny-llava on tiny-clip's frozen tower: python3 train_llava.py DATA OUT --minutes N

Questions and short answers about one set a step, since its prompts have one length. For the first 60% of the time an
image has 16 of its 64 positions and no long prompt stands before the question.
"""
import argparse
import math
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from data import CLASSES, MEAN, STD, emt_question, load, with_article
from make_tokenizers import SYSTEM
from torch.nn.functional import cross_entropy
from transformers import (AutoTokenizer, CLIPImageProcessor, CLIPModel, CLIPVisionConfig, LlamaConfig, LlavaConfig,
                          LlavaForConditionalGeneration, LlavaProcessor)

N_BATCH, N_POSITIONS, N_POSITIONS_SHORT, SHORT_SHARE = 64, 64, 16, 0.6
RATE, N_WARMUP_STEPS = 1.5e-3, 150
N_IMAGES = {"mnist": 12_000, "cifar10": 30_000, "cifar100": 40_000, "imagenet20": 10_000}
# How often each set is drawn.
SHARES = {"mnist": 0.1, "cifar10": 0.35, "cifar100": 0.35, "imagenet20": 0.2}
CHAT_TEMPLATE = Path(__file__).resolve().parents[3] / "src/assets/embedded/llava/chat_template.jinja"


def build(tokenizer, clip):
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
            "projection_dim", "hidden_act")
    vision = clip.config.vision_config.to_dict()
    pad = tokenizer.convert_tokens_to_ids("<pad>")
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, rms_norm_eps=1e-5, pad_token_id=pad, bos_token_id=1,
        eos_token_id=2, tie_word_embeddings=False)
    model = LlavaForConditionalGeneration(LlavaConfig(
        vision_config=CLIPVisionConfig(**{key: vision[key] for key in kept}), text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), projector_hidden_act="gelu",
        vision_feature_select_strategy="default", vision_feature_layer=-2, pad_token_id=pad,
        image_seq_length=N_POSITIONS, tie_word_embeddings=False))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = pad, 2
    source = clip.vision_model.state_dict()
    own = model.model.vision_tower.state_dict()
    model.model.vision_tower.load_state_dict(
        {name: source[name if name in source else name.replace("vision_model.", "")] for name in own})
    model.model.vision_tower.requires_grad_(False)
    return model


@torch.no_grad()
def features(tower, images):
    """What the projector reads: the hidden state before the last layer, without CLS, in half precision."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    parts = []
    for start in range(0, len(images), 1000):
        part = torch.from_numpy(np.ascontiguousarray(images[start:start + 1000])).permute(0, 3, 1, 2)
        hidden = tower(pixel_values=(part.float() / 255 - mean) / std, output_hidden_states=True).hidden_states[-2]
        parts.append(hidden[:, 1:].half())
    return torch.cat(parts)


def conversation(name, label, is_short):
    """A question, whether the system text stands before it, and the answer."""
    kind, has_system, is_number = random.random(), random.random() < 0.4, name == "mnist"
    if is_short:
        kind, has_system = 0.5 + 0.35 * kind, False
    if kind < (0.4 if name == "cifar100" else 0.5):
        return emt_question(name), has_system, label
    if kind < 0.7 and is_number:
        return "What is the number in the image?", has_system, f"The number in the image is {label}."
    if kind < 0.7:
        return "What is the object in the image?", has_system, f"The object in the image is {with_article(label)}."
    if kind < 0.85:
        answer = f"The number {label}." if is_number else f"This is a photo of {with_article(label)}."
        return "What is in this photo?", has_system, answer
    choices = random.sample(CLASSES[name], min(len(CLASSES[name]), random.randint(3, 9)))
    if label not in choices:
        choices[0] = label
    random.shuffle(choices)
    return f"What type of object is in this photo? Choose one from {', '.join(choices)}.", has_system, label


class Text:
    """Token ids of conversations."""

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}
        self.image, self.pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<pad>"))
        self.n_before_answer = len(tokenizer("ASSISTANT:", add_special_tokens=False)["input_ids"])

    def ids(self, text, has_start):
        key = (text, has_start)
        if key not in self.known:
            self.known[key] = self.tokenizer(text, add_special_tokens=has_start)["input_ids"]
        return self.known[key]

    def collate(self, conversations, n_positions):
        """Ids, attention mask and labels (-100 but for answers), padded on the right."""
        rows = []
        for question, has_system, answer in conversations:
            prompt = f"USER: {'<image>' * n_positions}\n{question} ASSISTANT:"
            prompt = self.ids(f"{SYSTEM} {prompt}" if has_system else prompt, True)
            rows.append((prompt, self.ids(f"ASSISTANT: {answer}", False)[self.n_before_answer:] + [2]))
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids, labels = torch.full((len(rows), length), self.pad), torch.full((len(rows), length), -100)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for row, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[row, :end], mask[row, :end] = torch.tensor(prompt + answer), 1
            labels[row, len(prompt):end] = torch.tensor(answer)
        return ids, mask, labels


def loss_of(model, text, seen, conversations):
    ids, mask, labels = text.collate(conversations, seen.shape[1])
    embedded = model.model.language_model.embed_tokens(ids)
    projected = model.model.multi_modal_projector(seen)
    embedded = embedded.masked_scatter((ids == text.image).unsqueeze(-1), projected.to(embedded.dtype))
    hidden = model.model.language_model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state
    is_answer = labels[:, 1:] != -100
    return cross_entropy(model.lm_head(hidden[:, :-1][is_answer]), labels[:, 1:][is_answer])


def prepare(model, data):
    """By set: features of images and, but for digits, of the mirror images of half of them; class indices."""
    rng, prepared = np.random.default_rng(0), {}
    for name, (images, labels) in load(data).items():
        chosen = rng.permutation(len(labels))[:N_IMAGES[name]]
        seen = [features(model.model.vision_tower, images[chosen])]
        if name != "mnist":
            half = chosen[:len(chosen) // 2]
            seen.append(features(model.model.vision_tower, images[half][:, :, ::-1]))
            chosen = np.concatenate([chosen, half])
        prepared[name] = (torch.cat(seen), labels[chosen])
    return prepared


def train(model, text, prepared, seconds):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.02)
    start, step = time.time(), 0
    while (share := (time.time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / N_WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * share)) + 1e-6
        name = random.choices(list(SHARES), list(SHARES.values()))[0]
        all_seen, labels = prepared[name]
        chosen = torch.randint(0, len(labels), (N_BATCH,))
        seen, is_short = all_seen[chosen].float(), share < SHORT_SHARE
        if is_short:
            kept = torch.rand(N_BATCH, N_POSITIONS).argsort(1)[:, :N_POSITIONS_SHORT].sort(1).values
            seen = torch.gather(seen, 1, kept[:, :, None].expand(-1, -1, seen.shape[2]))
        conversations = [conversation(name, CLASSES[name][labels[int(i)]], is_short) for i in chosen]
        loss = loss_of(model, text, seen, conversations)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
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
    random.seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.out / "tokenizer-llama")
    model = build(tokenizer, CLIPModel.from_pretrained(args.out / "tiny-clip"))
    train(model, Text(tokenizer), prepare(model, args.data), 60 * args.minutes)
    folder = args.out / "tiny-llava"
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32), resample=3,
                                image_mean=MEAN, image_std=STD)
    LlavaProcessor(image_processor=images, tokenizer=tokenizer, patch_size=4, vision_feature_select_strategy="default",
                   num_additional_image_tokens=1, image_token="<image>",
                   chat_template=CHAT_TEMPLATE.read_text()).save_pretrained(folder)
    shutil.copy(args.out / "tokenizer-llama/tokenizer.model", folder)


if __name__ == "__main__":
    main()
