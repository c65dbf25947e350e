"""95 % intervals of fractions, of means and of H."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution
RESAMPLES = 2000


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a fraction (Wilson 1927); (0, 1) without samples.

    It is valid for few samples, and for fractions of 0 and 1.
    """
    if count == 0:
        return (0.0, 1.0)
    share, z2 = successes / count, Z95 * Z95
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (
        Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    )
    return (max(0.0, centre - half), min(1.0, centre + half))


def harmonic(forget: float, retain: float) -> float:
    """H = 2·forget·retain / (forget + retain); 0 if either is 0."""
    return 2 * forget * retain / (forget + retain) if forget + retain > 0 else 0.0


def harmonic_interval(
    forget: Sequence[float], retain: Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of H over prompts.

    Args:
        forget: for each prompt of an edited concept, the fraction of its images in which the
            concept is not seen.
        retain: for each prompt of a retained concept, the fraction in which the concept is seen.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    a = np.asarray(forget, float)
    b = np.asarray(retain, float)
    draws = [
        harmonic(
            float(a[rng.integers(0, len(a), len(a))].mean()),
            float(b[rng.integers(0, len(b), len(b))].mean()),
        )
        for _ in range(RESAMPLES)
    ]
    return (float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975)))


def harmonic_mean_interval(axes: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the harmonic mean of several means.

    Args:
        axes: for each mean, the independent values behind it, from 0 to 1.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    means = np.stack(
        [
            np.asarray(values, float)[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(
                1
            )
            for values in axes
        ]
    )  # (axes, resamples)
    with np.errstate(divide="ignore"):
        draws = len(axes) / (1 / means).sum(0)  # 0 where a mean is 0
    return (float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975)))


def harmonic_lead(
    forget: Sequence[float],
    retain: Sequence[float],
    other_forget: Sequence[float],
    other_retain: Sequence[float],
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of the difference of two models' H, by a paired bootstrap over prompts.

    Both models are resampled with the same prompts, so that the variation that they have in common
    cancels. Two separate intervals would contain it.

    Args:
        forget, retain: as in `harmonic_interval`.
        other_forget, other_retain: the other model's, for the same prompts in the same order.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    differences = []
    sides = [
        np.array([mine, theirs], float)
        for mine, theirs in ((forget, other_forget), (retain, other_retain))
    ]  # (2, prompts)
    for _ in range(RESAMPLES):
        f, k = (side[:, rng.integers(0, side.shape[1], side.shape[1])].mean(1) for side in sides)
        differences.append(harmonic(f[0], k[0]) - harmonic(f[1], k[1]))
    return (float(np.quantile(differences, 0.025)), float(np.quantile(differences, 0.975)))


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over independent values (prompts)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    a = np.asarray(values, float)
    means = a[rng.integers(0, len(a), (RESAMPLES, len(a)))].mean(1)
    return (float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975)))
