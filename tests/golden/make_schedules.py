"""Learning rates by transformers and optimizer steps by torch: writes schedules.json beside itself.

    python make_schedules.py        (torch, transformers)
"""

import json
import math
from pathlib import Path

import torch
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup


def rates(decay, learning_rate, warmup_ratio, n_steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=learning_rate)
    n_warmup = math.ceil(warmup_ratio * n_steps)
    if decay == "cosine":
        schedule = get_cosine_schedule_with_warmup(optimizer, n_warmup, n_steps)
    else:
        schedule = get_constant_schedule_with_warmup(optimizer, n_warmup)
    found = []
    for _ in range(n_steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


cases = []
for decay in ("cosine", "constant"):
    for learning_rate, warmup_ratio, n_steps in ((2e-3, 0.03, 40), (2e-4, 0.03, 7), (2e-5, 0.0, 5), (1e-3, 0.5, 12)):
        cases.append(
            dict(
                decay=decay,
                learning_rate=learning_rate,
                warmup_ratio=warmup_ratio,
                n_steps=n_steps,
                rates=rates(decay, learning_rate, warmup_ratio, n_steps),
            )
        )

parameter = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.01)
adamw = dict(start=parameter.tolist(), weight_decay=0.01, steps=[])
for gradient, learning_rate in (([3.0, -4.0, 0.0], 0.1), ([0.1, 0.2, -0.3], 0.05), ([1e-5, 0.0, 2.0], 0.01)):
    parameter.grad = torch.tensor(gradient)
    norm = torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    adamw["steps"].append(
        dict(gradient=gradient, learning_rate=learning_rate, norm=float(norm), after=parameter.tolist())
    )

path = Path(__file__).with_name("schedules.json")
path.write_text(json.dumps(dict(torch=torch.__version__, cases=cases, adamw=adamw), indent=1) + "\n")
