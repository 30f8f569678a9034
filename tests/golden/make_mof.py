"""A second tower beside the small LLaVAs, as in "Eyes Wide Shut?" (Tong et al. 2024): writes into mof/ beside itself.

    python make_mof.py        (torch, transformers, pillow, safetensors; after make_small_llava.py)

`dino/` is a DINOv2 of transformers with positions for a larger picture. `interleaved/` and `additive/` are folders as `emt finetune
--method mof` leaves them over fixtures/llava. `authors.safetensors` holds what the authors' code adds to the original layout: the
tower under their names, with a gated feed-forward half, and its projector. The references splice the features into transformers'
LLaVA: features, logits, greedy tokens, and the gradients of a second projector.
"""

import json
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small_fixtures import OUT, randomise, save, write_json
from transformers import Dinov2Config, Dinov2Model, LlavaForConditionalGeneration

MOF = OUT.parent / "mof"
PATCH, GRID, STORED_GRID = 8, 3, 5
ANSWER = [7, 9, 2]
SHARE = 0.25
N_ORIGINAL = 352


def dino(width, heads, n_layers, gated):
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=heads,
        image_size=STORED_GRID * PATCH,
        patch_size=PATCH,
        use_swiglu_ffn=gated,
        mlp_ratio=2,
    )
    return randomise(Dinov2Model(config), 20261201)


def patches(tower, pixels):
    """The patches after the last block, before the last norm."""
    return tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]


def projector(width, seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))


def of_first_tower(model, pixels):
    return model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


def spliced(model, ids, features):
    """Embeddings of `ids` with one row of features in the place of the image's tokens."""
    is_image = ids[0] == model.config.image_token_index
    embedded = model.get_input_embeddings()(ids)[0]
    first = int(is_image.nonzero()[0])
    return torch.cat([embedded[:first], features[0], embedded[first + int(is_image.sum()) :]])[None]


def answers(model, ids, features, name):
    with torch.no_grad():
        embedded = spliced(model, ids, features)
        out = {f"{name}.features": features, f"{name}.first_logits": model(inputs_embeds=embedded).logits[:, -1]}
        chosen = []
        for _ in range(8):
            best = model(inputs_embeds=embedded).logits[0, -1].argmax()
            chosen.append(int(best))
            embedded = torch.cat([embedded, model.get_input_embeddings()(best[None, None])], 1)
    return out | {f"{name}.generated_ids": torch.tensor([chosen])}


def gradients(model, ids, features, second):
    """Loss and gradients of the second projector for one answer."""
    embedded = torch.cat([spliced(model, ids, features), model.get_input_embeddings()(torch.tensor([ANSWER]))], 1)
    logits = model(inputs_embeds=embedded).logits[0, -len(ANSWER) - 1 : -1]
    loss = F.cross_entropy(logits, torch.tensor(ANSWER))
    loss.backward()
    return {"loss": loss[None]} | {f"gradient.{name}": p.grad for name, p in second.named_parameters()}


def interleaved(first, second):
    return torch.stack([first, second], 2).flatten(1, 2)


def folder(name, mixing, tensors):
    (MOF / name).mkdir(parents=True)
    config = json.loads((OUT / "llava/config.json").read_text())
    config["mixture_of_features"] = {"mixing": mixing, "second_tower": "../dino"}
    write_json(MOF / name / "config.json", config)
    save_file(tensors, MOF / name / "non_lora_trainables.safetensors")


def authors_name(name):
    """The authors' name of a tensor, or nothing where three become one."""
    name = name.replace("encoder.layer.", "blocks.").replace("layer_scale1.lambda1", "ls1.gamma")
    name = name.replace("layer_scale2.lambda1", "ls2.gamma").replace("mlp.weights_in", "mlp.w12")
    name = name.replace("mlp.weights_out", "mlp.w3").replace("attention.output.dense", "attn.proj")
    for old, new in [
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.mask_token", "mask_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("layernorm", "norm"),
    ]:
        name = name.replace(old, new)
    return None if "attention.attention" in name else name


def authors_layout(tower, second):
    stored = {}
    saved = load_file(MOF / "scratch/model.safetensors")
    for name, tensor in saved.items():
        if new := authors_name(name):
            stored[f"model.dino_tower.vision_tower.{new}"] = tensor
    for layer in range(tower.config.num_hidden_layers):
        for leaf in ("weight", "bias"):
            parts = [saved[f"encoder.layer.{layer}.attention.attention.{part}.{leaf}"] for part in ("query", "key", "value")]
            stored[f"model.dino_tower.vision_tower.blocks.{layer}.attn.qkv.{leaf}"] = torch.cat(parts)
    stored |= {f"model.dino_mm_projector.{name}": p.detach().clone() for name, p in second.named_parameters()}
    return {name: tensor.contiguous() for name, tensor in stored.items()}


def resize_as_authors(tower):
    """Stores positions for the wanted grid, interpolated as the authors' code does."""
    positions = tower.embeddings.position_embeddings
    places = positions[:, 1:].reshape(1, STORED_GRID, STORED_GRID, -1).permute(0, 3, 1, 2)
    scale = (GRID + 0.1) / STORED_GRID
    places = F.interpolate(places, scale_factor=(scale, scale), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
    tower.embeddings.position_embeddings = torch.nn.Parameter(torch.cat([positions[:, :1], places], 1))


def main():
    shutil.rmtree(MOF, ignore_errors=True)
    MOF.mkdir()
    model = LlavaForConditionalGeneration.from_pretrained(OUT / "llava").eval()
    given = load_file(OUT / "llava/reference.safetensors")
    pixels, ids = given["pixel_values"], given["hf_chat_template.input_ids"]
    tower = dino(8, 2, 2, False)
    tower.save_pretrained(MOF / "dino")
    with torch.no_grad():
        first, second = of_first_tower(model, pixels), patches(tower, pixels)
    of_second, mixed = projector(8, 1), projector(8, 2)
    names = {f"model.dino_mm_projector.{name}": p.detach() for name, p in of_second.named_parameters()}
    folder("interleaved", "interleaved", names)
    own = model.model.multi_modal_projector
    features = interleaved(own(first), of_second(second))
    out = answers(model, ids, features, "interleaved") | gradients(model, ids, features, of_second)
    folder("additive", f"additive:{SHARE}", {f"model.mm_projector.{n}": p.detach() for n, p in mixed.named_parameters()})
    out |= answers(model, ids, mixed((1 - SHARE) * first + SHARE * second), "additive")
    # The original layout has its own ids and pixels: images are padded to squares there.
    given = load_file(OUT / "llava_original/reference.safetensors")
    tower, of_second = dino(64, 1, 1, True), projector(64, 3)
    tower.save_pretrained(MOF / "scratch")
    save_file(authors_layout(tower, of_second), MOF / "authors.safetensors")
    shutil.rmtree(MOF / "scratch")
    tower.config.image_size = GRID * PATCH
    tower.embeddings.patch_embeddings.image_size = (GRID * PATCH, GRID * PATCH)
    resize_as_authors(tower)
    pixels, ids = given["pixel_values"], given["input_ids_original"]
    ids[ids == -200] = model.config.image_token_index
    with torch.no_grad():
        first, second = of_first_tower(model, pixels), patches(tower, pixels)
    # The port has rows for tokens that the original lacks.
    model.lm_head.weight.data[N_ORIGINAL:] = 0
    out |= answers(model, ids, interleaved(own(first), of_second(second)), "authors")
    save(MOF / "reference.safetensors", out)


main()
