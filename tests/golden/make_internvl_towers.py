"""Writes tiled/internvl_towers.safetensors: the variants of InternVL's tower, with random weights, as transformers computes them."""

import pathlib

import torch
from safetensors.torch import save_file
from transformers import InternVLVisionConfig, InternVLVisionModel

VARIANTS = {
    "qk": dict(use_qk_norm=True, norm_type="rms_norm", attention_bias=False),
    "last": dict(use_mean_pooling=False, use_mask_token=True, attention_bias=True),
}

torch.manual_seed(20)
tensors = {"pixels": torch.randn(1, 3, 28, 28)}
for name, fields in VARIANTS.items():
    config = InternVLVisionConfig(
        hidden_size=8, intermediate_size=12, num_attention_heads=2, num_hidden_layers=2, image_size=[28, 28], patch_size=[14, 14], **fields
    )
    model = InternVLVisionModel._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if parameter.dim() == 1 else 0.0))
        out = model(tensors["pixels"], output_hidden_states=True)
    for key, value in model.state_dict().items():
        tensors[f"{name}.weights.{key}"] = value.contiguous()
    for state in (0, 1):
        tensors[f"{name}.state{state}"] = out.hidden_states[state].contiguous()
    tensors[f"{name}.state2"] = out.last_hidden_state.contiguous()
folder = pathlib.Path(__file__).parent / "tiled"
save_file(tensors, folder / "internvl_towers.safetensors")
