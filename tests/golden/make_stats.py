#!/usr/bin/env python3
"""Writes tests/golden/stats.json: python3 tests/golden/make_stats.py > tests/golden/stats.json

Needs numpy, scipy and statsmodels. The bootstrap is done twice: by emt's own generator written anew in numpy (equal
to the last digits) and by scipy (equal within the noise of resampling).
"""
import json
import warnings

import numpy as np
import scipy
import statsmodels
from scipy.stats import binom, bootstrap, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

GAMMA, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def splitmix64(seed, n):
    """Steele, Lea and Flood (2014), as counter: the i-th value from 1 mixes seed + i * GAMMA."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def below(values, n):
    """floor(value * n / 2^64) without 128-bit integers."""
    high, low = values >> np.uint64(32), values & np.uint64(0xFFFFFFFF)
    n = np.uint64(n)
    return (high * n + ((low * n) >> np.uint64(32))) >> np.uint64(32)


def own(both, first, second, neither, confidence, n_resamples, seed):
    n = both + first + second + neither
    index = below(splitmix64(seed, n * n_resamples), n).reshape(n_resamples, n)
    a = (index < both).sum(1)
    b = (index < both + first).sum(1) - a
    c = (index < both + first + second).sum(1) - a - b
    alpha = (1 - confidence) / 2
    return np.quantile((a + b) / (a + c), [alpha, 1 - alpha]).tolist()


def by_scipy(both, first, second, neither, confidence):
    model = np.repeat([1.0, 1.0, 0.0, 0.0], [both, first, second, neither])
    encoder = np.repeat([1.0, 0.0, 1.0, 0.0], [both, first, second, neither])
    found = bootstrap((model, encoder), lambda m, e, axis=-1: m.mean(axis) / e.mean(axis), paired=True,
                      confidence_level=confidence, n_resamples=20_000, method="percentile", batch=500,
                      rng=np.random.default_rng(1)).confidence_interval
    return [found.low, found.high]


warnings.simplefilter("error")
cases = [(600, 30, 130, 240), (50, 2, 20, 28), (7000, 500, 1000, 1500), (5, 30, 12, 53), (900, 0, 100, 0)]
seed = 0x656D7400
print(json.dumps({
    "versions": {"numpy": np.__version__, "scipy": scipy.__version__, "statsmodels": statsmodels.__version__},
    "splitmix64": {"seed": seed, "first": [str(v) for v in splitmix64(seed, 4)]},
    "normal_quantile": [[p, norm.ppf(p)] for p in
                        [1e-300, 1e-12, 1e-6, 0.001, 0.0125, 0.025, 0.05, 0.075, 0.2, 0.5, 0.8, 0.925, 0.95, 0.975, 0.999]],
    "wilson": [[k, n, c, *proportion_confint(k, n, 1 - c, "wilson")] for k, n, c in
               [(0, 10, .95), (10, 10, .95), (1, 2, .95), (731, 998, .95), (3, 10_000, .95), (6652, 10_000, .95), (5, 20, .9),
                (1, 1, .99)]],
    "mcnemar": [[b, c, float(mcnemar([[10, b], [c, 10]], exact=True).pvalue),
                 float(min(1, 2 * binom.cdf(min(b, c), b + c, .5) - binom.pmf(min(b, c), b + c, .5)))]
                for b, c in [(30, 20), (5, 0), (0, 0), (7, 7), (300, 200), (1, 12), (900, 1100)]],
    "ratio_interval": [{"cells": case, "confidence": 0.95, "n_resamples": 2000, "seed": seed,
                        "own": own(*case, 0.95, 2000, seed), "scipy": by_scipy(*case, 0.95)} for case in cases],
}, indent=1))
