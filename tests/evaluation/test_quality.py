"""Distance, FID and KID against independent computations, and what happens to them when pictures
change.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from forgetcli.errors import ForgetError
from forgetcli.evaluation import Answer, Question, Run, Subject, features
from forgetcli.evaluation.measures import Measure, Quality
from forgetcli.evaluation.quality import compare, images_of, measure
from forgetcli.progress import Silent


@pytest.fixture(scope="module")
def extractor():
    return features.load("demo", "cpu")


def noise(
    folder: Path, name: str, count: int, spread: float, seed: int, size: int = 64
) -> list[Path]:
    rng, paths = np.random.default_rng(seed), []
    for k in range(count):
        paths.append(folder / f"{name}{k}.png")
        Image.fromarray(
            (128 + spread * rng.standard_normal((size, size, 3))).clip(0, 255).astype(np.uint8)
        ).save(paths[-1])
    return paths


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), float64, by the eigenvalues of Σ₁^½ Σ₂ Σ₁^½ (Heusel et
    al., arXiv 1706.08500).
    """
    s1, s2 = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross)


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased MMD² with (x·y/d + 1)³ (arXiv 1801.01401, eq. 4)."""

    def k(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n = len(a)
    inside = sum((k(x, x).sum() - np.trace(k(x, x))) / (n * (n - 1)) for x in (a, b))
    return float(inside - 2 * k(a, b).mean())


def test_fid_and_kid_agree_with_their_definitions(extractor, tmp_path):
    before, after = noise(tmp_path, "a", 24, 40, 0), noise(tmp_path, "b", 24, 70, 1)
    figures = compare(before, after, [str(k) for k in range(24)], extractor, Silent())
    a, b = (extractor.vectors(images_of(p)).double().numpy() for p in (before, after))
    assert figures.fid.value == pytest.approx(frechet(a, b), rel=1e-2)
    assert figures.kid.value == pytest.approx(kernel(a, b), rel=1e-2, abs=1e-5)
    assert figures.fid.value != pytest.approx(
        frechet(a, a), abs=0.1
    )  # the control: it is not always that


def test_the_same_pictures_are_at_no_distance_and_others_are(extractor, tmp_path):
    before, after = noise(tmp_path, "a", 6, 40, 0), noise(tmp_path, "b", 6, 70, 1)
    same, other = (
        compare(before, paths, list("aabbcc"), extractor, Silent()) for paths in (before, after)
    )
    assert same.distance.value == 0 and abs(same.fid.value) < 1e-2
    low, high = other.distance.interval
    assert 0 < low <= other.distance.value <= high and other.distance.count == 6
    a, b = images_of(before), images_of(after)
    assert torch.allclose(extractor.distances(a, b), extractor.distances(b, a))
    one = compare(before[:1], after[:1], ["a"], extractor, Silent())
    assert one.fid is None and one.distance.count == 1  # no covariance of one picture


def test_pictures_of_several_sizes_are_measured_together(extractor, tmp_path):
    paths = noise(tmp_path, "a", 3, 40, 0) + noise(tmp_path, "b", 3, 40, 1, size=96)
    assert compare(paths, paths[::1], list("abcdef"), extractor, Silent()).distance == Measure(
        0.0, 6, (0.0, 0.0)
    )


def test_only_what_should_stay_is_measured(extractor, tmp_path):
    paths = noise(tmp_path, "a", 4, 40, 0)
    base = SimpleNamespace(id="demo", digest="0")
    answers = tuple(
        Answer(Question(label, label, label), 0, p, True, label, 1.0)
        for label, p in zip(("gone", "a", "b", "c"), paths)
    )
    judge = SimpleNamespace(clip_score=lambda pictures, prompts: [10.0] * len(pictures))
    made = measure(
        Run(Subject("unedited", base), answers),
        Run(Subject("edited", base, frozenset({"gone"})), answers),
        extractor,
        judge,
        Silent(),
    )
    assert made.edited.distance.count == 3 and made.edited.clip_score == Measure(
        10.0, 3, (10.0, 10.0)
    )
    assert made.extractor["name"] == "demo" and len(made.extractor["digest"]) == 64
    # What names an erased concept is meant to change: it is no measure of quality.
    naming = Subject("edited", base, frozenset({"gone"}), apart=frozenset({("a", "a")}))
    unedited = Run(Subject("unedited", base), answers)
    made = measure(unedited, Run(naming, answers), extractor, judge, Silent())
    assert made.edited.distance.count == 2
    everything = Subject("edited", base, frozenset({"gone", "a", "b", "c"}))
    assert (
        measure(
            Run(Subject("unedited", base), answers),
            Run(everything, answers),
            extractor,
            judge,
            Silent(),
        )
        == Quality()
    )


def test_an_extractor_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(ForgetError) as refused:
        features.load("dem")
    assert refused.value.code == "features.unknown" and "did you mean 'demo'?" in refused.value.hint
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ForgetError) as refused:
        features.load("inception", "cpu")
    assert (
        refused.value.code == "features.unavailable" and "forgetcli[quality]" in refused.value.hint
    )
