"""Tiny language models of transformers with what makes their family: weights in bf16, logits and greedy ids in f32.

    python tests/golden/make_text_families.py tests/golden/text_families

transformers 5.24, peft 0.21. Phi-3 has joined maps, turns half of each head, by LongRoPE's short factors, and has an adapter
of PEFT; Qwen3 has norms of its heads; Mistral has heads wider than their share; YaRN is on a Qwen2.
"""
import json, sys, warnings
from pathlib import Path
import torch
warnings.filterwarnings("ignore"); torch.set_num_threads(1)
from transformers import MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

root = Path(sys.argv[1])
common = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2)
models = {
    "phi3": (Phi3Config, Phi3ForCausalLM, dict(original_max_position_embeddings=64, sliding_window=60, rope_parameters={
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "short_factor": [1.0, 1.5], "long_factor": [3.0, 9.0]})),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, dict(head_dim=8)),
    "mistral": (MistralConfig, MistralForCausalLM, dict(head_dim=16, sliding_window=128)),
    "qwen2_yarn": (Qwen2Config, Qwen2ForCausalLM, dict(rope_parameters={
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64})),
}
ids = torch.tensor([[1, 17, 42, 5, 63, 8, 8, 30, 51, 12]])


@torch.no_grad()
def answers(model):
    logits, whole = model(ids).logits[0], ids
    for _ in range(6):
        whole = torch.cat([whole, model(whole).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return {"logits": [[round(x, 7) for x in row] for row in logits.tolist()], "generated": whole[0, ids.shape[1]:].tolist()}


for name, (config, cls, extra) in models.items():
    torch.manual_seed(29)
    model = cls(config(**common, **extra)).eval()
    for parameter in model.parameters():
        parameter.data.copy_((torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1)).to(torch.bfloat16).float())
    folder = root / name
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = cls.from_pretrained(folder, dtype=torch.float32).eval()
    reference = {"ids": ids[0].tolist(), **answers(model)}
    if name == "phi3":
        from peft import LoraConfig, get_peft_model
        tuned = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["qkv_proj", "gate_up_proj", "o_proj", "down_proj"]))
        for key, parameter in tuned.named_parameters():
            if "lora_" in key: parameter.data.copy_((torch.randn_like(parameter) * 0.2).to(torch.bfloat16).float())
        tuned.eval().save_pretrained(folder / "adapter")
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        reference["adapter"] = answers(tuned)
    (folder / "reference.json").write_text(json.dumps(reference))
