"""95 % intervals of fractions, of means and of H."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

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

    forgotten, kept = resampled_means(
        [np.asarray([forget], float), np.asarray([retain], float)], seed
    )
    draws = _harmonic_draws(forgotten[0], kept[0])
    return (float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975)))


def resampled_means(samples: Sequence[NDArray[Any]], seed: int) -> list[NDArray[Any]]:
    """Means of bootstrap resamples, (k, RESAMPLES), of each array of samples, (k, n).

    The k rows of an array are resampled alike. All numbers are drawn by one call, each resample's
    one after the other, which are those of a call for every resample and array.
    """
    import numpy as np

    sizes = [values.shape[1] for values in samples]
    highs = np.broadcast_to(np.repeat(sizes, sizes), (RESAMPLES, sum(sizes)))
    drawn = np.random.default_rng(seed).integers(0, highs)  # (resamples, Σ n)
    parts = np.split(drawn, np.cumsum(sizes)[:-1], axis=1)
    return [np.stack([row[at].mean(1) for row in values]) for values, at in zip(samples, parts)]


def _harmonic_draws(forget: NDArray[Any], retain: NDArray[Any]) -> NDArray[Any]:
    """`harmonic` of each pair."""
    import numpy as np

    total = forget + retain
    return 2 * forget * retain / np.where(total > 0, total, 1)


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

    f, k = resampled_means(
        [
            np.array([mine, theirs], float)
            for mine, theirs in ((forget, other_forget), (retain, other_retain))
        ],
        seed,
    )  # (2, resamples) each
    differences = _harmonic_draws(f[0], k[0]) - _harmonic_draws(f[1], k[1])
    return (float(np.quantile(differences, 0.025)), float(np.quantile(differences, 0.975)))


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over independent values (prompts)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    a = np.asarray(values, float)
    means = a[rng.integers(0, len(a), (RESAMPLES, len(a)))].mean(1)
    return (float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975)))
