"""Writes int8.json: a weight of bf16 rounded to 8 bits by output channel, by torch.

    python tests/golden/make_int8.py        (torch 2.15)
"""

import json
import pathlib

import torch

N_OUT, N_IN = 7, 19

torch.manual_seed(11)
# Outputs of unlike size; bf16 numbers are exact in JSON.
weight = (torch.randn(N_OUT, N_IN) * torch.logspace(-4, 2, N_OUT)[:, None]).bfloat16().float()
weight[3] = 0.0
scales = weight.abs().amax(dim=1) / 127
# torch divides by the scale, which must not be 0.
safe = torch.where(scales > 0, scales, torch.ones_like(scales))
rounded = torch.fake_quantize_per_channel_affine(weight, safe, torch.zeros(N_OUT, dtype=torch.int32), 0, -127, 127)
golden = {"n_in": N_IN, "weight": weight.flatten().tolist(), "rounded": rounded.flatten().tolist()}
path = pathlib.Path(__file__).with_name("int8.json")
path.write_text(json.dumps(golden) + "\n")
