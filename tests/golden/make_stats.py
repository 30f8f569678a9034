#!/usr/bin/env python3
"""Writes tests/golden/stats.json: python3 tests/golden/make_stats.py > tests/golden/stats.json

Needs numpy, scipy, statsmodels and scikit-learn. What no library has is done again by brute force: the exact
unconditional test over all tables, Tango's z by maximising the likelihood, and the group-sequential boundaries by the
multivariate normal distribution.
"""
import json
import warnings

import numpy as np
import scipy
import sklearn
import statsmodels
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import beta, binom, binomtest, bootstrap, multinomial, multivariate_normal, norm
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

GAMMA = 0x9E3779B97F4A7C15


def splitmix64(seed, n):
    """Steele, Lea and Flood (2014), as counter: the i-th value from 1 mixes seed + i * GAMMA."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def ratio_interval(cells):
    """scipy's BCa interval of (both + first) / (both + second), and its acceleration by the formula over all images."""
    model = np.repeat([1.0, 1.0, 0.0, 0.0], cells)
    encoder = np.repeat([1.0, 0.0, 1.0, 0.0], cells)
    found = bootstrap((model, encoder), lambda m, e, axis=-1: m.mean(axis) / e.mean(axis), paired=True,
                      confidence_level=0.95, n_resamples=50_000, method="BCa", batch=200,
                      rng=np.random.default_rng(1)).confidence_interval
    without = (model.sum() - model) / (encoder.sum() - encoder)
    away = without.mean() - without
    acceleration = (away ** 3).sum() / (6 * (away ** 2).sum() ** 1.5)
    return {"cells": cells, "scipy": [found.low, found.high], "acceleration": acceleration}


def tango(lost, gained, n, supposed):
    """The score z at the likelihood's maximum under P(lost) - P(gained) = supposed, found numerically."""
    def log_likelihood(p_gained):
        p_lost = p_gained + supposed
        cells = [(lost, p_lost), (gained, p_gained), (n - lost - gained, 1 - p_lost - p_gained)]
        return sum(k * np.log(max(p, 1e-300)) for k, p in cells if k > 0)
    low, high = max(0, -supposed), (1 - supposed) / 2
    found = minimize_scalar(lambda p: -log_likelihood(p), bounds=(low, high), method="bounded",
                            options={"xatol": 1e-13})
    variance = (2 * found.x + supposed - supposed ** 2) / n
    return float(((lost - gained) / n - supposed) / np.sqrt(variance))


def tango_formula(lost, gained, n, supposed):
    """Vectorised over tables; Tango (1998), equations 2.9 to 2.11, for the fall."""
    d = -supposed
    linear = -lost - gained + (2 * n - gained + lost) * d
    constant = -lost * d * (1 - d)
    q = (np.sqrt(np.maximum(linear ** 2 - 8 * n * constant, 0)) - linear) / (4 * n)
    top, variance = lost - gained - n * supposed, n * (2 * q + d * (1 - d))
    return np.where(top == 0, 0.0, top / np.sqrt(np.where(top == 0, 1.0, variance)))


def exact_unconditional(lost, gained, n, margin):
    """Berger and Boos over all tables of n: both p values."""
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    keep = b + c <= n
    tables = np.stack([b[keep], c[keep], n - b[keep] - c[keep]], axis=1)
    z = tango_formula(tables[:, 0].astype(float), tables[:, 1].astype(float), n, margin)
    observed = float(tango_formula(np.array(float(lost)), np.array(float(gained)), n, margin))
    d = lost + gained
    low = 0.0 if d == 0 else beta.ppf(0.0005, d, n - d + 1)
    high = 1.0 if d == n else beta.ppf(0.9995, d + 1, n - d)

    def greatest(extreme, low):
        if low > high:
            return 0.001
        best = 0.0
        for discordance in low + (high - low) * np.arange(101) / 100:
            fall = min(margin, discordance)
            p = [(discordance + fall) / 2, (discordance - fall) / 2]
            best = max(best, multinomial.pmf(extreme, n, [*p, 1 - sum(p)]).sum())
        return min(best + 0.001, 1.0)
    return [greatest(tables[z <= observed + 1e-9], max(low, margin)), greatest(tables[z >= observed - 1e-9], low)]


def obrien_fleming(alpha, information):
    """Each boundary as the root of P(no crossing before, crossing now) = what is spent now."""
    t = np.array(information)
    spent = 2 * norm.sf(norm.isf(alpha / 2) / np.sqrt(t))
    z = [norm.isf(spent[0])]
    for k in range(1, len(t)):
        cov = np.sqrt(np.minimum.outer(t[:k + 1], t[:k + 1]) / np.maximum.outer(t[:k + 1], t[:k + 1]))

        def below(upper, size):
            if size == 1:
                return norm.cdf(upper[0])
            return multivariate_normal.cdf(
                upper, cov=cov[:size, :size], abseps=1e-9, releps=0, maxpts=1_000_000, rng=np.random.default_rng(1))
        stay = below(z, k)
        z.append(brentq(lambda c: stay - below([*z, c], k + 1) - (spent[k] - spent[k - 1]), 0.5, 9, xtol=1e-9))
    return {"alpha": alpha, "information": information, "boundaries": [float(value) for value in z]}


def obrien_fleming_of_three(alpha, information):
    """Three looks, also close together, where the multivariate normal of scipy is off in the fourth digit: what of the
    second look's density stayed below the first boundary is known in closed form (a Brownian bridge)."""
    t = np.array(information)
    spent = 2 * norm.sf(norm.isf(alpha / 2) / np.sqrt(t))
    first = norm.isf(spent[0]) * np.sqrt(t[0])
    bridge = np.sqrt(t[0] * (1 - t[0] / t[1]))

    def density(s):
        return norm.pdf(s / np.sqrt(t[1])) / np.sqrt(t[1]) * norm.cdf((first - s * t[0] / t[1]) / bridge)

    def integral(f, low, high):
        ends = np.linspace(low, high, 60)
        return sum(quad(f, a, b, epsabs=1e-15)[0] for a, b in zip(ends, ends[1:]))
    second = brentq(lambda c: integral(density, c, 9) - (spent[1] - spent[0]), -1, 5, xtol=1e-13)
    third = brentq(lambda c: integral(lambda s: density(s) * norm.sf((c - s) / np.sqrt(t[2] - t[1])), -8, second)
                   - (spent[2] - spent[1]), -1, 5, xtol=1e-13)
    boundaries = np.array([first, second, third]) / np.sqrt(t)
    return {"alpha": alpha, "information": information, "boundaries": boundaries.tolist()}


def kappa(table):
    found = cohens_kappa(np.array(table))
    first, second = zip(*[(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)])
    assert abs(cohen_kappa_score(first, second) - found.kappa) < 1e-12
    return {"table": table, "kappa": [found.kappa, found.std_kappa, found.kappa_low, found.kappa_upp]}


def multiplicity(p):
    return {"p": p, **{name: multipletests(p, method=name)[1].tolist() for name in ["holm", "fdr_bh"]}}


warnings.simplefilter("error")
cases = [(600, 30, 130, 240), (50, 2, 20, 28), (3500, 250, 500, 750), (5, 30, 12, 53), (900, 0, 100, 0)]
shapes = [(.5, .5), (1, 1), (2, 3), (.5, 300.5), (20, 9981), (732, 267), (5001, 5000), (99_990, 11), (1e5, 3e5)]
print(json.dumps({
    "versions": {"numpy": np.__version__, "scipy": scipy.__version__, "statsmodels": statsmodels.__version__,
                 "sklearn": sklearn.__version__},
    "splitmix64": {"seed": 0x656D7400, "first": [str(v) for v in splitmix64(0x656D7400, 4)]},
    "normal_quantile": [[p, norm.ppf(p)] for p in
                        [1e-300, 1e-12, 1e-6, 0.001, 0.0125, 0.025, 0.05, 0.075, 0.2, 0.5, 0.8, 0.925, 0.95, 0.975, 0.999]],
    "binomial": [[k, n, p, binom.pmf(k, n, p), binom.cdf(k, n, p)] for k, n, p in
                 [(0, 10, .3), (10, 10, .3), (3, 10, .3), (7, 10, .9), (19, 1000, .05), (80, 1000, .05), (0, 100_000, 1e-4),
                  (2000, 100_000, .02), (1800, 100_000, .02), (49_000, 100_000, .5), (1, 40, .999)]],
    "beta_cdf": [[x, a, b, beta.cdf(x, a, b)] for a, b in shapes for x in
                 [.001, .3, .9, *(a / (a + b) + s * np.sqrt(a * b / (a + b + 1)) / (a + b) for s in (-3, -1, 0, 1, 3))] if 0 < x < 1],
    "beta_quantile": [[p, a, b, beta.ppf(p, a, b)] for a, b in shapes for p in [.0005, .025, .3, .5, .975, .9995]],
    "wilson": [[k, n, c, *proportion_confint(k, n, 1 - c, "wilson")] for k, n, c in
               [(0, 10, .95), (10, 10, .95), (1, 2, .95), (731, 998, .95), (3, 10_000, .95), (6652, 10_000, .95), (5, 20, .9),
                (1, 1, .99)]],
    "clopper_pearson": [[k, n, c, *proportion_confint(k, n, 1 - c, "beta")] for k, n, c in
                        [(0, 10, .95), (10, 10, .95), (1, 2, .95), (731, 998, .95), (3, 10_000, .95), (19, 100_000, .999),
                         (50_000, 100_000, .95), (5, 20, .9), (1, 1, .99)]],
    "mcnemar": [[b, c, float(mcnemar([[10, b], [c, 10]], exact=True).pvalue),
                 float(min(1, 2 * binom.cdf(min(b, c), b + c, .5) - binom.pmf(min(b, c), b + c, .5)))]
                for b, c in [(30, 20), (5, 0), (0, 0), (7, 7), (300, 200), (1, 12), (900, 1100)]],
    "mcnemar_one_sided": [[b, c, float(binomtest(b, b + c, .5, "greater").pvalue)]
                          for b, c in [(30, 20), (20, 30), (5, 0), (0, 5), (7, 7), (300, 200), (1200, 800)]],
    "tango": [[*case, tango(*case)] for case in
              [(30, 20, 1000, .02), (30, 20, 1000, -.05), (300, 200, 10_000, .01), (5, 0, 200, .02), (0, 5, 200, .02),
               (12, 40, 90, .3), (0, 0, 500, .01), (3, 9, 12, -.2)]],
    "exact_unconditional": [[*case, *exact_unconditional(*case)] for case in
                            [(0, 0, 60, .05), (3, 1, 60, .05), (0, 4, 60, .05), (9, 0, 100, .02), (6, 6, 100, .1), (1, 0, 150, .02),
                             (12, 7, 200, .02), (2, 3, 250, .03), (15, 3, 40, .2), (1, 1, 300, .1)]],
    "obrien_fleming": [obrien_fleming(alpha, information) for alpha, information in
                       [(.025, [.5, 1]), (.025, [.2, .4, .6, .8, 1]), (.025, [.125, .25, .5, 1]), (.3, [.1, .35, .4, 1])]],
    "obrien_fleming_of_three": [obrien_fleming_of_three(alpha, information) for alpha, information in
                                [(.00625, [.5, .52, 1]), (.1, [.3, .9, .901]), (.025, [.25, .5, 1]), (1e-4, [.4, .7, 1])]],
    "ratio_interval": [ratio_interval(case) for case in cases],
    "multiplicity": [multiplicity(p) for p in
                     [[.01, .04, .03, .005], [.5], [1, 1, .2], [.001, .001, .02, .9, .04, .03, .3, .011]]],
    "kappa": [kappa(table) for table in
              [[[45, 15], [25, 15]], [[695, 20], [35, 250]], [[5, 60], [70, 3]], [[10, 2, 1], [3, 20, 4], [0, 5, 30]]]],
}, indent=1))
