"""Writes adapters of PEFT over the shared fixtures `gemma3` and `paligemma`, and what transformers answers with them.

    python tests/golden/make_gemma_lora.py SHARED/fixtures tests/golden/gemma_lora

Updates of the language model and of the tower, and the whole projector. Needs transformers 5.24 and PEFT 0.21.
"""
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

EOS = 1


def main(fixtures: Path, out: Path) -> None:
    for name in ("gemma3", "paligemma"):
        torch.manual_seed(20261201)
        reference = load_file(fixtures / name / "reference.safetensors")
        inputs = {key: reference[f"prompt.{key}"] for key in ("input_ids", "pixel_values", "token_type_ids")}
        model = AutoModelForImageTextToText.from_pretrained(fixtures / name, attn_implementation="eager").eval()
        config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj", "fc1"],
                            modules_to_save=["multi_modal_projector"], init_lora_weights=False)
        model = get_peft_model(model, config)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "modules_to_save" in key:
                    value.add_(torch.randn_like(value) * 0.05)
            logits = model(**inputs).logits[:, -1]
            said = model.generate(**inputs, max_new_tokens=8, do_sample=False, suppress_tokens=[EOS])
        # No folder of one machine.
        model.peft_config["default"].base_model_name_or_path = name
        model.save_pretrained(out / name)
        (out / name / "README.md").unlink(missing_ok=True)
        n_prompt = inputs["input_ids"].shape[1]
        save_file({"first_logits": logits.contiguous(), "generated_ids": said[:, n_prompt:].contiguous()},
                  out / name / "reference.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
