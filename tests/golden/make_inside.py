"""What the logit lens and attention flow are inside the small families: writes inside.json beside itself.

    python make_inside.py        (torch, transformers, safetensors)

For each family of fixtures/: the prompt of its reference, in f32 with eager attention. `lens` holds, by state of the residual
stream (the embeddings, then the raw output of each layer), log-probabilities of a few tokens after the last norm and the head,
at the prompt's last row. `flow` holds, by layer, the shares of that row's attention to system, image and user tokens: the mean
over heads, renormalised over the three.
"""

import json
import pathlib

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

HERE = pathlib.Path(__file__).parent
FAMILIES = ["qwen2_5_vl", "qwen3_vl", "smolvlm", "llava_onevision"]
TOKENS = [5, 17, 100, 200, 300]


def decoder_of(model):
    inner = model.model
    return inner.text_model if hasattr(inner, "text_model") else inner.language_model


@torch.no_grad()
def inside(family):
    folder = HERE / "fixtures" / family
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    stored = load_file(folder / "reference.safetensors")
    names = ["input_ids", "pixel_values", "image_grid_thw", "image_sizes", "pixel_attention_mask"]
    given = {name: stored[f"prompt.{name}"] for name in names if f"prompt.{name}" in stored}
    given["pixel_values"] = given["pixel_values"].float()
    ids = given["input_ids"]
    if "pixel_attention_mask" in given:
        given["pixel_attention_mask"] = given["pixel_attention_mask"].bool()
    given["attention_mask"] = torch.ones_like(ids)
    image_id = getattr(model.config, "image_token_id", None) or model.config.image_token_index
    if "image_grid_thw" in given:
        given["mm_token_type_ids"] = (ids == image_id).int()

    decoder, states = decoder_of(model), []
    hooks = [decoder.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True)]
    for layer in decoder.layers:
        hooks.append(layer.register_forward_hook(lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out)))
    passed = model(**given, output_attentions=True)
    for hook in hooks:
        hook.remove()
    n_layers = len(decoder.layers)
    assert len(states) == n_layers + 1, len(states)

    lens = []
    for state in states:
        row = state[0, -1] if state.dim() == 3 else state[-1]
        log_probs = model.lm_head(decoder.norm(row)).double().log_softmax(-1)
        lens.append([log_probs[token].item() for token in TOKENS])
    end = passed.logits[0, -1].double().log_softmax(-1)
    assert torch.allclose(torch.tensor(lens[-1], dtype=torch.double), end[TOKENS], atol=1e-5)

    # A placeholder was expanded to the image's positions.
    n_rows = passed.attentions[0].shape[-1]
    assert n_rows == ids.shape[1], (n_rows, ids.shape)
    is_image = (ids[0] == image_id)
    places = is_image.nonzero().flatten()
    first, last = places[0].item(), places[-1].item()
    flow = []
    for weights in passed.attentions:
        row = weights[0, :, -1].double().mean(0)
        shares = torch.stack([row[:first].sum(), row[is_image].sum(), row[last + 1 :].sum()])
        flow.append((shares / shares.sum()).tolist())
    return {"lens": lens, "flow": flow}


found = {"tokens": TOKENS, "families": {family: inside(family) for family in FAMILIES}}
(HERE / "inside.json").write_text(json.dumps(found, indent=1) + "\n")
for family, values in found["families"].items():
    print(family, len(values["lens"]), [round(share, 3) for share in values["flow"][0]])
