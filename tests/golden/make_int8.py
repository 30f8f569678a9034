"""Writes int8.tsv: a weight of bf16 rounded to 8 bits by output channel, by torch; of each output a line before and a line after.

    python tests/golden/make_int8.py        (torch 2.15)
"""

import pathlib

import torch

N_OUT, N_IN = 7, 19

torch.manual_seed(11)
# Outputs of unlike size; Python writes as many digits as tell a number from all others.
weight = (torch.randn(N_OUT, N_IN) * torch.logspace(-4, 2, N_OUT)[:, None]).bfloat16().float()
weight[3] = 0.0
scales = weight.abs().amax(dim=1) / 127
# torch divides by the scale, which must not be 0.
safe = torch.where(scales > 0, scales, torch.ones_like(scales))
rounded = torch.fake_quantize_per_channel_affine(weight, safe, torch.zeros(N_OUT, dtype=torch.int32), 0, -127, 127)
lines = ["\t".join(map(repr, row)) for rows in zip(weight.tolist(), rounded.tolist()) for row in rows]
pathlib.Path(__file__).with_name("int8.tsv").write_text("\n".join(lines) + "\n")
