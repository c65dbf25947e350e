"""Intervals against published values, and what they must cover."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from forgetcli.evaluation.intervals import (
    Z95,
    harmonic,
    harmonic_interval,
    harmonic_lead,
    harmonic_mean_interval,
    mean_interval,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),  # the same
        (0, 20, 0.0, 0.1611),  # the same
        (1, 29, 0.0061, 0.1718),  # the same
    ],
)
def test_wilson_is_as_published(successes: int, count: int, low: float, high: float):
    assert wilson(successes, count) == pytest.approx((low, high), abs=6e-5)


def test_wilson_has_width_where_the_plain_interval_has_none():
    share = 0 / 10
    assert Z95 * math.sqrt(share * (1 - share) / 10) == 0  # "0 ± 0" from ten pictures
    low, high = wilson(0, 10)
    assert high - low > 0.2
    assert wilson(0, 1000)[1] < high / 10  # more pictures say more


def test_wilson_solves_its_own_equation():
    """The limits are the shares p at which the observed one lies 1.96 standard errors of p away."""
    for limit in wilson(7, 31):
        assert abs(7 / 31 - limit) == pytest.approx(Z95 * math.sqrt(limit * (1 - limit) / 31))


def test_wilson_of_nothing_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_harmonic_mean():
    assert harmonic(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic(0.8, 0.8) == pytest.approx(0.8)
    assert harmonic(0.0, 1.0) == harmonic(1.0, 0.0) == harmonic(0.0, 0.0) == 0.0
    assert harmonic(0.1, 0.9) < 0.2  # where the plain mean would say 0.5


def test_bootstrap_interval_contains_h_and_narrows():
    forget, retain = [1.0, 0.75, 1.0, 0.5, 1.0, 0.25], [1.0, 1.0, 0.5, 1.0, 0.75]
    h = harmonic(sum(forget) / 6, sum(retain) / 5)
    low, high = harmonic_interval(forget, retain)
    assert 0 < low < h < high < 1
    near = harmonic_interval(forget * 20, retain * 20)
    assert near[0] < h < near[1]
    assert near[1] - near[0] < (high - low) / 2
    assert not low < harmonic(0.1, 0.9) < high  # it does not contain just anything


def test_bootstrap_of_prompts_that_agree_is_a_point_and_repeats():
    assert harmonic_interval([1.0] * 4, [1.0] * 4) == (1.0, 1.0)
    forget, retain = [0.0, 1.0, 0.5], [1.0, 0.25, 1.0]
    assert harmonic_interval(forget, retain, seed=3) == harmonic_interval(forget, retain, seed=3)


def test_a_lead_is_told_from_paired_prompts_where_two_intervals_overlap():
    ours = [1.0] * 90 + [0.0] * 10
    theirs = [1.0] * 84 + [0.0] * 16  # wrong where we are, and in six places more
    assert (
        harmonic_interval(ours, ours)[0] < harmonic_interval(theirs, theirs)[1]
    )  # side by side they overlap
    low, high = harmonic_lead(ours, ours, theirs, theirs)
    assert 0.01 < low < 0.06 < high < 0.12
    shuffled = theirs[50:] + theirs[:50]  # the same shares, wrong elsewhere: nothing to tell
    assert harmonic_lead(ours, ours, shuffled, shuffled)[0] < 0
    assert harmonic_lead(ours, ours, ours, ours) == (0.0, 0.0)
    backwards = harmonic_lead(theirs, theirs, ours, ours)
    assert backwards == pytest.approx((-high, -low))


def test_bootstrap_limits_are_the_quantiles_of_two_and_a_half_percent():
    """Half of 400 prompts succeed, so that a resample's share is binomial: its quantiles are known.

    With 2,000 resamples a limit is within 1.5 successes of the quantile. The limits of a 90 %
    interval would be 3.2 successes nearer to the middle, those of a 99 % interval 6.2 further off.
    """
    count = 400
    halves = [0.0, 1.0] * (count // 2)
    deviation = math.sqrt(count / 4)
    limits = [count / 2 + side * Z95 * deviation for side in (-1, 1)]
    for interval, share in (
        (mean_interval(halves), lambda mean: mean),
        # H = 2f / (f + 1) where everything is retained: f = H / (2 - H).
        (harmonic_interval(halves, [1.0] * count), lambda h: h / (2 - h)),
        # The other model never forgets: its H is 0 and the lead is H.
        (
            harmonic_lead(halves, [1.0] * count, [0.0] * count, [1.0] * count),
            lambda h: h / (2 - h),
        ),
    ):
        assert [count * share(end) for end in interval] == pytest.approx(limits, abs=1.5)


@pytest.mark.parametrize(
    ("successes", "count"), [(0, 3), (1, 3), (7, 31), (31, 31), (1, 1), (16, 16)]
)
def test_wilson_limits_are_the_roots_of_the_equation_at_30_digits(successes: int, count: int):
    """(p̂ − p)² = z² p (1 − p) / n, a quadratic equation in p."""
    with mpmath.workdps(30):
        z2 = 2 * mpmath.erfinv(mpmath.mpf("0.95")) ** 2
        assert mpmath.sqrt(z2) == pytest.approx(Z95, rel=1e-15)
        share = mpmath.mpf(successes) / count
        limits = mpmath.polyroots([1 + z2 / count, -(2 * share + z2 / count), share**2])
    expected = sorted(float(limit.real) for limit in limits)
    assert wilson(successes, count) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert wilson(successes, count)[0] >= 0 and wilson(successes, count)[1] <= 1


def test_bootstraps_are_of_2000_resamples_from_the_seed():
    """Results of two runs can be compared to the last digit, also with another seed."""
    forget, retain = np.array([0.0, 0.5, 1.0, 0.25, 0.75]), np.array([1.0, 0.5, 0.0])
    other_forget, other_retain = forget[::-1] / 2, retain[::-1]

    def h(f: float, r: float) -> float:
        return 2 / (1 / f + 1 / r) if f and r else 0.0

    for seed, options in ((0, {}), (7, {"seed": 7})):
        draws = [np.random.default_rng(seed) for _ in range(3)]
        single, lead = [], []
        for _ in range(2000):
            f, r = (draws[0].integers(0, n, n) for n in (5, 3))
            single.append(h(forget[f].mean(), retain[r].mean()))
            f, r = (draws[1].integers(0, n, n) for n in (5, 3))
            theirs = h(other_forget[f].mean(), other_retain[r].mean())
            lead.append(h(forget[f].mean(), retain[r].mean()) - theirs)
        axes = np.random.default_rng(seed)
        forgets = forget[axes.integers(0, 5, (2000, 5))].mean(1)
        retains = retain[axes.integers(0, 3, (2000, 3))].mean(1)
        mean = [h(*both) for both in zip(forgets, retains)]
        means = forget[draws[2].integers(0, 5, (2000, 5))].mean(1)
        for found, values in (
            (harmonic_interval(forget, retain, **options), single),
            (harmonic_lead(forget, retain, other_forget, other_retain, **options), lead),
            (mean_interval(forget, **options), means),
            (harmonic_mean_interval([forget, retain], **options), mean),
        ):
            assert found == pytest.approx(np.quantile(values, [0.025, 0.975]), rel=1e-12)
