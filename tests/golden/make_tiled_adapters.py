"""LoRA of PEFT on language model, tower and projector of LLaVA-NeXT and InternVL: writes tiled/*_lora beside itself.

    EMT_SHARED=... python make_tiled_adapters.py        (torch, transformers, peft, safetensors)

With logits and answers of the first image of the shared fixtures, beside the base and merged.
"""

import json
import os
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import InternVLForConditionalGeneration, LlavaNextForConditionalGeneration

FIXTURES = Path(os.environ["EMT_SHARED"]) / "fixtures"
OUT = Path(__file__).parent / "tiled"


def answer(model, inputs):
    """Logits of the first token, and eight tokens."""
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1]
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=8, min_new_tokens=8)
    return logits, ids[:, inputs["input_ids"].shape[1] :]


def adapter(fixture, model_class, names, targets):
    model = model_class.from_pretrained(FIXTURES / fixture).float().eval()
    reference = load_file(FIXTURES / fixture / "reference.safetensors")
    inputs = {name: reference[f"prompt.{name}"] for name in names}
    base, _ = answer(model, inputs)
    difference = (base - reference["prompt.first_logits"]).norm() / base.norm()
    assert difference < 1e-5, f"{fixture} without an adapter is not met: {difference}"
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=targets))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    folder = OUT / f"{fixture}_lora"
    model.eval().save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = fixture
    config["target_modules"] = sorted(config["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    beside, ids = answer(model, inputs)
    merged, _ = answer(model.merge_and_unload(), inputs)
    reference = {"adapter.first_logits": beside, "adapter.generated_ids": ids, "merged.first_logits": merged}
    save_file({name: tensor.contiguous() for name, tensor in reference.items()}, folder / "reference.safetensors")
    print(fixture, "logits move by", ((beside - base).norm() / base.norm()).item())


adapter(
    "llava_next",
    LlavaNextForConditionalGeneration,
    ["input_ids", "pixel_values", "image_sizes", "attention_mask"],
    ["q_proj", "fc1", "down_proj", "linear_2"],
)
adapter(
    "internvl",
    InternVLForConditionalGeneration,
    ["input_ids", "pixel_values", "attention_mask"],
    ["q_proj", "projection_layer", "fc2", "down_proj", "linear_1"],
)
