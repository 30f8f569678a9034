"""PEFT's LoRA over the shared fixture `mllama`: make_mllama_lora.py FIXTURE OUT.

Changes maps of the language model (layers that attend to the text and to the image), the tower and the projector.
Writes the adapter, and the logits and ids beside the base and merged, for the first image of `reference2`.
Made with transformers 5.24, peft 0.21, torch 2.15."""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import MllamaForConditionalGeneration

fixture, out = map(Path, sys.argv[1:])
model = MllamaForConditionalGeneration.from_pretrained(fixture, attn_implementation="eager").float().eval()
targets = (
    r".*(layers\.(0|1|3)\.(self_attn|cross_attn)\.(q_proj|v_proj|o_proj)|layers\.1\.mlp\.down_proj"
    r"|multi_modal_projector|global_transformer\.layers\.1\.mlp\.fc1)$"
)
adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=targets)).eval()
for name, weight in adapted.named_parameters():
    if "lora_" in name:
        torch.manual_seed(sum(map(ord, name)) % 100003)
        weight.data = torch.randn_like(weight) * 0.2
expected = load_file(fixture / "reference2.safetensors")
names = ("input_ids", "pixel_values", "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask")
inputs = {name: expected[f"0.{name}"] for name in names}
with torch.no_grad():
    beside = adapted(**inputs).logits[:, -1]
    adapted.save_pretrained(out)
    generated = adapted.generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    merged = adapted.merge_and_unload()(**inputs).logits[:, -1]
tensors = {
    "first_logits": beside,
    "merged.first_logits": merged,
    "generated_ids": generated[:, inputs["input_ids"].shape[1] :],
}
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "reference.safetensors")
config = json.loads((out / "adapter_config.json").read_text())
config["base_model_name_or_path"] = "mllama"
(out / "adapter_config.json").write_text(json.dumps(config, indent=2))
(out / "README.md").unlink()
