"""Writes simultaneous.json: quantiles of the largest studentised deviation of bootstrap means, by numpy.

The values are paired differences of answers (-1, 0, 1) as a sweep has them: arms on the same images.
Run: python make_simultaneous.py
"""

import json
from pathlib import Path

import numpy

N_RESAMPLES = 400_000


def case(generator, n_arms, n_images, share, confidence):
    # A hard image is lost by many arms: differences are correlated.
    hardness = generator.uniform(0, 2 * share, n_images)
    lost = generator.uniform(size=(n_arms, n_images)) < hardness
    gained = generator.uniform(size=(n_arms, n_images)) < share / 3
    data = gained.astype(int) - lost.astype(int)
    observed = data.mean(axis=1)
    resampled = []
    for _ in range(N_RESAMPLES // 10_000):
        counts = generator.multinomial(n_images, numpy.full(n_images, 1 / n_images), size=10_000)
        resampled.append(counts @ data.T / n_images)
    resampled = numpy.concatenate(resampled)
    errors = resampled.std(axis=0, ddof=1)
    largest = (numpy.abs(resampled - observed) / errors).max(axis=1)
    return {
        "confidence": confidence,
        "data": data.tolist(),
        "quantile": numpy.quantile(largest, confidence),
        "errors": errors.tolist(),
    }


generator = numpy.random.default_rng(20)
cases = [
    case(generator, 1, 50, 0.3, 0.95),
    case(generator, 4, 60, 0.2, 0.95),
    case(generator, 12, 90, 0.4, 0.9),
]
text = json.dumps({"made_by": "make_simultaneous.py", "numpy": numpy.__version__, "cases": cases})
Path(__file__).with_name("simultaneous.json").write_text(text + "\n")
print([round(case["quantile"], 4) for case in cases])
