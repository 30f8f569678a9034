"""Writes simultaneous.json: quantiles of the largest studentised deviation of bootstrap means, by numpy.

Arms have values on the same images, in part the same ones, so that their means are correlated. The values are no
integers: the quantile of a few counts would jump.
Run: python make_simultaneous.py
"""

import json
from pathlib import Path

import numpy

N_RESAMPLES = 400_000


def case(generator, n_arms, n_images, correlation, confidence):
    common = generator.exponential(size=n_images)
    own = generator.normal(size=(n_arms, n_images))
    data = numpy.round(correlation * common + (1 - correlation) * own, 3)
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
    case(generator, 1, 50, 0.0, 0.95),
    case(generator, 4, 60, 0.7, 0.95),
    case(generator, 12, 40, 0.2, 0.9),
]
text = json.dumps({"made_by": "make_simultaneous.py", "numpy": numpy.__version__, "cases": cases})
Path(__file__).with_name("simultaneous.json").write_text(text + "\n")
print([round(case["quantile"], 4) for case in cases])
