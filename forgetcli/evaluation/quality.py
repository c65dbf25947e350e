"""How an edit changed images of retained concepts: perceptual distance, FID, KID, CLIP score.

Each image of the edited model is compared with the unedited model's image of the same prompt and
seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.evaluation import features
from forgetcli.evaluation.intervals import mean_interval
from forgetcli.evaluation.measures import Measure, ModelQuality, Quality
from forgetcli.evaluation.opened import opened
from forgetcli.evaluation.scores import counts

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from forgetcli.evaluation.features import Extractor
    from forgetcli.evaluation.judged import Run
    from forgetcli.evaluation.judges import Judge
    from forgetcli.progress import Observer

load = features.load
BATCH = 64
KID_SUBSET = 1000  # images


def measure(
    baseline: Run,
    edited: Run,
    extractor: Extractor | None,
    judge: Judge,
    observer: Observer,
) -> Quality:
    """The quality of one edited model's images.

    FID is biased upwards if there are fewer images than features, so it is comparable only at equal
    `n`. KID is unbiased (Bińkowski et al., arXiv 1801.01401), but it assumes that the two sets are
    independent. Images at equal seeds are alike, so the KID of an edit that changes
    nothing is negative.

    Args:
        extractor: None leaves out all measures that need features.
        judge: one without `clip_score` leaves out the CLIP score.

    Returns:
        Without any measure if there are no images of retained concepts.
    """
    pairs = [
        (a, b)
        for a, b in zip(baseline.answers, edited.answers)
        if b.question.label not in edited.subject.forgets
        and not b.question.axis
        and counts(b.question, edited.subject)
    ]
    prompts = [b.question.prompt for _, b in pairs]
    before = [a.path for a, _ in pairs]
    after = [b.path for _, b in pairs]
    if not pairs:
        return Quality()
    identity = None
    baseline_quality = edited_quality = ModelQuality()
    if extractor is not None:
        observer.stage("quality", len(pairs))
        identity = extractor.identity()
        edited_quality = compare(before, after, prompts, extractor, observer)
    clip_score = getattr(judge, "clip_score", None)
    if clip_score is not None:
        means = [_mean(clip_score(_opened(paths), prompts), prompts) for paths in (before, after)]
        baseline_quality = replace(baseline_quality, clip_score=means[0])
        edited_quality = replace(edited_quality, clip_score=means[1])
    return Quality(identity, baseline_quality, edited_quality)


def compare(
    before: Sequence[Path],
    after: Sequence[Path],
    prompts: Sequence[str],
    extractor: Extractor,
    observer: Observer,
) -> ModelQuality:
    """The mean distance of the pairs, and FID and KID between the two sets.

    Args:
        before, after: pairs of images.
        prompts: the prompt of each pair.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Vectors(torch.nn.Identity):
        """The network of both metrics. They are given vectors, which are computed once."""

        num_features = extractor.size

    n = len(before)
    distances: dict[int, float] = {}
    with warnings.catch_warnings(), torch.random.fork_rng():
        # KID warns that it keeps all features in memory. They are a few thousand vectors.
        warnings.simplefilter("ignore")
        # KID draws random subsets of more than 1000 images.
        torch.manual_seed(0)
        # sync_on_compute: only the first of several processes measures.
        fid = FrechetInceptionDistance(feature=Vectors(), sync_on_compute=False)
        kid = KernelInceptionDistance(
            feature=Vectors(),
            subsets=1 if n <= KID_SUBSET else 100,
            subset_size=min(n, KID_SUBSET),
            sync_on_compute=False,
        )
        for part in _batches(before):
            a = images_of([before[i] for i in part])
            b = images_of([after[i] for i in part])
            distances |= dict(zip(part, extractor.distances(a, b).tolist()))
            for images, real in ((a, True), (b, False)):
                vectors = extractor.vectors(images)
                fid.update(vectors, real=real)
                kid.update(vectors, real=real)
            observer.advance(len(a))
        distance = _mean([distances[i] for i in range(n)], prompts)
        if n == 1:
            return ModelQuality(distance)
        return ModelQuality(
            distance,
            fid=Measure(round(float(fid.compute()), 4), n),
            kid=Measure(round(float(kid.compute()[0]), 6), n),
        )


def _batches(paths: Sequence[Path]) -> Iterator[list[int]]:
    """Indices of at most `BATCH` images of equal size."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, path in enumerate(paths):
        by_size.setdefault(opened(path).size, []).append(i)
    for indices in by_size.values():
        yield from (indices[k : k + BATCH] for k in range(0, len(indices), BATCH))


def images_of(paths: Sequence[Path]) -> Tensor:
    """The images as a tensor: uint8, shape (n, 3, h, w)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack([np.asarray(p) for p in _opened(paths)])).permute(0, 3, 1, 2)


def _opened(paths: Sequence[Path]) -> list[Image]:
    return [opened(path) for path in paths]


def _mean(values: Sequence[float], prompts: Sequence[str]) -> Measure:
    """The mean of `values`, with its bootstrap interval over prompts."""
    groups: dict[str, list[float]] = {}
    for value, prompt in zip(values, prompts):
        groups.setdefault(prompt, []).append(value)
    low, high = mean_interval([sum(g) / len(g) for g in groups.values()])
    return Measure(
        value=round(sum(values) / len(values), 5),
        count=len(values),
        interval=(round(low, 5), round(high, 5)),
    )
