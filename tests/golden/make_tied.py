"""What PEFT (0.21) makes of adapters that touch the input embedding or the head of a model in which both are one tensor, beside and
merged, for `src/model/layers/vocabulary.rs`: the effective matrices, of a Llama with 6 tokens of 4 numbers.

    python tests/golden/make_tied.py    # writes tests/golden/tied/
"""
import json, pathlib, shutil, warnings
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).parent / "tied"
CONFIG = lambda: LlamaConfig(vocab_size=6, hidden_size=4, num_hidden_layers=1, intermediate_size=4, num_attention_heads=1, tie_word_embeddings=True)


def base():
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG())
    model.get_input_embeddings().weight.data = torch.randn(6, 4)
    model.tie_weights()
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    return model


def effective(model):
    with torch.no_grad():
        embedding = model.get_input_embeddings()(torch.arange(6))
        head = model.get_output_embeddings()(torch.eye(4)).T
    return {"embedding": embedding.tolist(), "head": head.tolist()}


CASES = {
    "save_embedding": dict(modules_to_save=["embed_tokens"]),
    "save_head": dict(modules_to_save=["lm_head"]),
    "save_both": dict(modules_to_save=["embed_tokens", "lm_head"]),
    "save_embedding_ensured": dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "save_both_ensured": dict(modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=True),
    "lora_embedding": dict(target_modules=["embed_tokens"]),
    "lora_head": dict(target_modules=["lm_head"]),
    "lora_both": dict(target_modules=["embed_tokens", "lm_head"]),
    "lora_embedding_ensured": dict(target_modules=["embed_tokens"], ensure_weight_tying=True),
    "lora_head_ensured": dict(target_modules=["lm_head"], ensure_weight_tying=True),
    "lora_head_save_embedding": dict(target_modules=["lm_head"], modules_to_save=["embed_tokens"]),
    "lora_embedding_save_head": dict(target_modules=["embed_tokens"], modules_to_save=["lm_head"]),
    "saved_layers": dict(touch=True),
}
shutil.rmtree(HERE, ignore_errors=True); HERE.mkdir()
weight = base().get_input_embeddings().weight.detach().clone()
save_file({"model.embed_tokens.weight": weight}, HERE / "base.safetensors")
results = {}
for name, options in CASES.items():
    options = {"target_modules": [], **options}
    options["target_modules"] = options["target_modules"] + ["q_proj"]  # PEFT wants one, and takes no module twice
    touch = options.pop("touch", False)
    torch.manual_seed(1)
    try:
        model = get_peft_model(base(), LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, **options))
    except Exception as error:
        print(name, "PEFT cannot:", repr(error)[:200]); continue
    torch.manual_seed(2)
    for key, parameter in model.named_parameters():
        if "modules_to_save" in key or "lora_" in key: parameter.data.add_(0.3 * torch.randn_like(parameter))
    if touch: model.get_base_model().get_input_embeddings().weight.data += 0.1
    model.save_pretrained(HERE / name, save_embedding_layers="auto" if not touch else True)
    (HERE / name / "README.md").unlink(missing_ok=True)
    load = lambda: PeftModel.from_pretrained(base(), HERE / name).eval()
    results[name] = {"beside": effective(load().get_base_model())}
    results[name]["merged"] = effective(load().merge_and_unload())
json.dump(results, open(HERE / "expected.json", "w"))
print(len(results), {k: [torch.allclose(torch.tensor(v[w]["embedding"]), torch.tensor(v[w]["head"])) for w in v] for k, v in results.items()})
