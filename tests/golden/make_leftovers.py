"""Adapters as five tools leave them, over the tiny LLaVA: writes leftovers/ beside itself, with what each answers.

    python make_leftovers.py        (torch, transformers, peft, safetensors; after make_small_llava.py, whose LLaVA they adapt)

Saved by peft with each tool's own `target_modules` and with the files that it writes beside the weights; the tools
themselves are not run. `leftovers/reference.safetensors` holds, by tool, the first logits and eight greedy ids of
transformers + peft for one image and question, in the prompt that the tool trains with, and that prompt's ids.
"""

import json
import re
import shutil
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlavaForConditionalGeneration

BASE = Path(__file__).parent / "fixtures/llava"
OUT = Path(__file__).parent / "leftovers"
FIXTURE = load_file(BASE / "reference.safetensors")
QUESTION = json.loads((BASE / "reference.json").read_text())["question"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

tokenizer = AutoTokenizer.from_pretrained(BASE)
IMAGE_TOKEN, N_IMAGE = tokenizer.convert_tokens_to_ids("<image>"), 9


def base_model():
    return LlavaForConditionalGeneration.from_pretrained(BASE).float().eval()


def ids_of(*texts):
    """Tokens of each text by itself, as trainers tokenise; the image is as many positions as it takes."""
    ids = [id for text in texts for id in tokenizer.encode(text, add_special_tokens=False)]
    return torch.tensor([[id for one in ids for id in ([one] * N_IMAGE if one == IMAGE_TOKEN else [one])]])


@torch.no_grad()
def answers(model, ids):
    prompt, generated, first = ids, [], None
    for _ in range(8):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=FIXTURE["pixel_values"]).logits
        first = logits[:, -1] if first is None else first
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
        generated.append(ids[0, -1])
    return {"input_ids": prompt.clone(), "first_logits": first.contiguous(), "generated_ids": torch.stack(generated)[None]}


def trained(seed, **config):
    """A LoRA with values as after training: random, each module its own."""
    model = get_peft_model(base_model(), LoraConfig(r=2, lora_alpha=8, task_type="CAUSAL_LM", **config))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        elif parameter.requires_grad:
            parameter.data = parameter.data + torch.randn(parameter.shape, generator=generator) * 0.05
    return model.eval()


def save(model, folder, base_name, target_modules=None):
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(folder)
    # peft writes a set, in any order, and a model card that is its own.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    # Of many modules new versions keep only the ends of their names.
    config["target_modules"] = target_modules or config["target_modules"]
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink()


def card(folder, library, version, more=""):
    (folder / "README.md").write_text(
        f"---\nlibrary_name: {library}\n---\n{more}\n### Framework versions\n\n- PEFT 0.17.1\n- Transformers {version}\n"
    )


def ms_swift(folder):
    """`lora_llm`: a regex, tower and aligner whole in a file of their own, in bfloat16, and the arguments."""
    regex = r"^(model\.language_model(?=\.).*\.(" + "|".join(LINEAR) + "))$"
    model = trained(1, target_modules=regex)
    generator = torch.Generator().manual_seed(11)
    for name, parameter in sorted(model.named_parameters()):
        if ".vision_tower." in name or ".multi_modal_projector." in name:
            parameter.requires_grad_(True)
            moved = parameter.data + torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.data = moved.bfloat16().float()
    save(model, folder, "/cache/modelscope/hub/models/llava-hf/llava-1.5-7b-hf")
    trainable = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    tower = {name: value for name, value in trainable.items() if "lora_" not in name}
    tower = {name: value.bfloat16().contiguous() for name, value in tower.items()}
    save_file(tower, folder / "vit.safetensors", metadata={"format": "pt"})
    arguments = {
        "model": "llava-hf/llava-1.5-7b-hf", "model_type": "llava1_5_hf", "template": "llava1_5_hf", "system": None,
        "max_length": 2048, "max_pixels": 1003520, "template_backend": "swift", "quant_method": None, "quant_bits": None,
        "train_type": "lora_llm", "lora_rank": 2, "lora_alpha": 8, "freeze_vit": False, "freeze_aligner": False,
    }
    (folder / "args.json").write_text(json.dumps(arguments, indent=2) + "\n")
    extension = {"lora_dtype": None, "lorap_lr_ratio": None, "lorap_emb_lr": 1e-06}
    (folder / "additional_config.json").write_text(json.dumps(extension))
    return answers(model, ids_of(f"<s>USER: <image>\n{QUESTION}\nASSISTANT:"))


def llama_factory(folder):
    """Full paths of modules, the projector as `additional_target`, and the tool's own template in the tokenizer."""
    leaves = [name for name, _ in base_model().named_modules() if re.search(rf"language_model.*\.({'|'.join(LINEAR)})$", name)]
    model = trained(2, target_modules=leaves, modules_to_save=["multi_modal_projector"])
    save(model, folder, "llava-hf/llava-1.5-7b-hf", leaves)
    template = (
        "{% set system_message = '" + SYSTEM.replace("'", "\\'") + "' %}{% if messages[0]['role'] == 'system' %}"
        "{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}"
        "{% set loop_messages = messages %}{% endif %}{% if system_message is defined %}{{ system_message }}{% endif %}"
        "{% for message in loop_messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}"
        "{{ 'USER: ' + content + ' ASSISTANT:' }}{% elif message['role'] == 'assistant' %}{{ content + '</s>' }}{% endif %}"
        "{% endfor %}"
    )
    settings = {"bos_token": "<s>", "eos_token": "</s>", "padding_side": "right", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    card(folder, "peft", "4.46.3", "license: other\n")
    return answers(model, ids_of("<s>", SYSTEM, f"USER: <image>{QUESTION} ASSISTANT:"))


def unsloth(folder):
    """A long regex, the tower adapted as by default, over a base of four bits."""
    parts = "self_attn|attention|attn|mlp|feed_forward|ffn|dense"
    leaves = "|".join([*LINEAR, "out_proj", "fc1", "fc2"])
    regex = (
        rf"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:{parts}).*?(?:{leaves}).*?)"
        rf"|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{parts})\.(?:(?:{leaves})))"
    )
    model = trained(3, target_modules=regex)
    model.peft_config["default"].auto_mapping = {
        "base_model_class": "LlavaForConditionalGeneration",
        "parent_library": "transformers.models.llava.modeling_llava",
        "unsloth_fixed": True,
    }
    save(model, folder, "unsloth/llava-1.5-7b-hf-bnb-4bit")
    return answers(model, FIXTURE["hf_chat_template.input_ids"])


def axolotl(folder):
    """A regex, and the whole configuration in the model card."""
    regex = r"model.language_model.layers.[\d]+.(mlp|cross_attn|self_attn).(up|down|gate|q|k|v|o)_proj"
    model = trained(4, target_modules=regex)
    save(model, folder, "llava-hf/llava-1.5-7b-hf")
    config = (
        "<details><summary>See axolotl config</summary>\n\naxolotl version: `0.13.0`\n```yaml\n"
        "base_model: llava-hf/llava-1.5-7b-hf\nprocessor_type: AutoProcessor\nchat_template: llava\nadapter: qlora\n"
        f"load_in_4bit: true\nlora_target_modules: '{regex}'\n```\n</details>\n"
    )
    card(folder, "peft", "4.57.1", config)
    return answers(model, FIXTURE["hf_chat_template.input_ids"])


def trl(folder):
    """`checkpoint-5` whose tensors have the names that they have in memory, with the optimizer's state beside them."""
    model = trained(5, target_modules=["q_proj", "v_proj"], modules_to_save=["multi_modal_projector"], exclude_modules=".*vision.*")
    folder = folder / "checkpoint-5"
    save(model, folder, "llava-hf/llava-1.5-7b-hf")
    is_kept = lambda name: "lora_" in name or "multi_modal_projector" in name
    raw = {name: value.detach().clone() for name, value in model.state_dict().items() if is_kept(name)}
    assert any(".default." in name for name in raw) and any("original_module" in name for name in raw)
    save_file(raw, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 5, "epoch": 1.0}) + "\n")
    return answers(model, FIXTURE["hf_chat_template.input_ids"])


shutil.rmtree(OUT, ignore_errors=True)
reference = {}
for tool in (ms_swift, llama_factory, unsloth, axolotl, trl):
    folder = OUT / tool.__name__
    folder.mkdir(parents=True)
    found = tool(folder)
    reference |= {f"{tool.__name__}.{name}": tensor for name, tensor in found.items()}
    print(tool.__name__, found["input_ids"].shape[1], found["generated_ids"][0].tolist())
save_file(reference, OUT / "reference.safetensors", metadata={"transformers": transformers.__version__})
