"""Loads what `emt finetune` wrote with Python's transformers and peft, and compares logits with emt's own arithmetic.

    python check_peft.py BASE FOLDER...        (torch, transformers, peft, safetensors)

For each folder: `lora` is loaded with PeftModel; `linear` through `peft/`, through mm_projector.safetensors and through
mm_projector.bin (torch.load with weights_only); `full` with from_pretrained. The tensors that come out of each way are put
into a fresh base by hand (W + alpha / r B A, projector replaced), whose logits on a fixed input must be equal.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

TOLERANCE = 1e-5


def base_model(path):
    return LlavaForConditionalGeneration.from_pretrained(path).float().eval()


@torch.no_grad()
def logits(model, config):
    generator = torch.Generator().manual_seed(0)
    side = config.vision_config.image_size
    n_image = (side // config.vision_config.patch_size) ** 2
    text = torch.randint(3, 900, (1, 12), generator=generator)
    ids = torch.cat([torch.tensor([[1] + [config.image_token_index] * n_image]), text], 1)
    pixels = torch.randn(1, 3, side, side, generator=generator)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits


def put_projector(model, tensors, prefix):
    projector = model.model.multi_modal_projector
    for layer, index in (("linear_1", 0), ("linear_2", 2)):
        getattr(projector, layer).weight.data = tensors[f"{prefix}.{index}.weight"].clone()
        getattr(projector, layer).bias.data = tensors[f"{prefix}.{index}.bias"].clone()


def by_hand(base, folder):
    """The folder's tensors put into a base without peft."""
    model = base_model(base)
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    state = model.state_dict()
    scale = config["lora_alpha"] / config["r"]
    for name, tensor in tensors.items():
        plain = name.removeprefix("base_model.model.")
        if plain.endswith(".lora_A.weight"):
            stem = plain.removesuffix(".lora_A.weight")
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            state[f"{stem}.weight"] += scale * (b @ tensor)
        elif not plain.endswith(".lora_B.weight"):
            state[plain].copy_(tensor)
    return model


def check(what, actual, expected, base_logits):
    error = float((actual - expected).norm() / expected.norm())
    moved = float((actual - base_logits).norm() / base_logits.norm())
    print(f"{what}: relative error {error:.1e}, moved {moved:.1e} from the base")
    assert error < TOLERANCE, what
    assert moved > 1e-3, f"{what} is the base"


def main():
    base, folders = sys.argv[1], [Path(path) for path in sys.argv[2:]]
    plain = base_model(base)
    config = plain.config
    base_logits = logits(plain, config)
    for folder in folders:
        method = json.loads((folder / "emt.json").read_text())["method"]
        if method == "full":
            actual = logits(base_model(folder), config)
            again = base_model(base)
            missing = again.load_state_dict(base_model(folder).state_dict())
            check(f"{folder} from_pretrained", actual, logits(again, config), base_logits)
            assert not missing.missing_keys and not missing.unexpected_keys
            continue
        peft_folder = folder / "peft" if method == "linear" else folder
        actual = logits(PeftModel.from_pretrained(base_model(base), str(peft_folder)).eval(), config)
        check(f"{peft_folder} PeftModel", actual, logits(by_hand(base, peft_folder), config), base_logits)
        if method == "linear":
            for name in ("mm_projector.safetensors", "mm_projector.bin"):
                path = folder / name
                tensors = torch.load(path, weights_only=True) if path.suffix == ".bin" else load_file(path)
                model = base_model(base)
                put_projector(model, tensors, "model.mm_projector")
                check(str(path), logits(model, config), actual, base_logits)
        else:
            tensors = load_file(folder / "non_lora_trainables.safetensors")
            saved = load_file(folder / "adapter_model.safetensors")
            name = "base_model.model.model.multi_modal_projector.linear_1.weight"
            assert torch.equal(tensors["model.mm_projector.0.weight"], saved[name])
    print("ok")


main()
