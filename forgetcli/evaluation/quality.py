"""How an edit changed images of retained concepts: perceptual distance, FID, KID, CLIP score.

Each image of the edited model is compared with the unedited model's image of the same prompt and
seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcli.evaluation import features
from forgetcli.evaluation.intervals import mean_interval
from forgetcli.evaluation.opened import opened

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
) -> dict[str, Any]:
    """The quality of one edited model's images.

    FID is biased upwards if there are fewer images than features, so it is comparable only at equal
    `n`. KID is unbiased (Bińkowski et al., arXiv 1801.01401), but it assumes that the two sets are
    independent. Images at equal seeds are alike, so the KID of an edit that changes
    nothing is negative.

    Args:
        extractor: None leaves out all measures that need features.
        judge: one without `clip_score` leaves out the CLIP score.

    Returns:
        `extractor`: its identity. `distance`: of each pair, with `ci`. `fid`, `kid`: between the
        two sets. `clip_score`: {`baseline`, `edited`}, with `ci`. Each measure has `value`, the
        number of images `n`, and where noted `ci` (95 %, bootstrap over prompts). Empty without
        images of retained concepts.
    """
    pairs = [
        (a, b)
        for a, b in zip(baseline.answers, edited.answers)
        if b.question.label not in edited.subject.forgets
    ]
    prompts = [b.question.prompt for _, b in pairs]
    before = [a.path for a, _ in pairs]
    after = [b.path for _, b in pairs]
    measured: dict[str, Any] = {}
    if not pairs:
        return measured
    if extractor is not None:
        observer.stage("quality", len(pairs))
        measured = {
            "extractor": extractor.identity(),
            **compare(before, after, prompts, extractor, observer),
        }
    clip_score = getattr(judge, "clip_score", None)
    if clip_score is not None:
        measured["clip_score"] = {
            name: _mean(clip_score(_opened(paths), prompts), prompts)
            for name, paths in (("baseline", before), ("edited", after))
        }
    return measured


def compare(
    before: Sequence[Path],
    after: Sequence[Path],
    prompts: Sequence[str],
    extractor: Extractor,
    observer: Observer,
) -> dict[str, Any]:
    """The mean distance of the pairs, and FID and KID between the two sets.

    Args:
        before, after: pairs of images.
        prompts: the prompt of each pair.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Vectors(torch.nn.Module):
        num_features = extractor.size

        def forward(self, images: Tensor) -> Tensor:
            return extractor.vectors(images)

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
            for metric in (fid, kid):
                metric.update(a, real=True)
                metric.update(b, real=False)
            observer.advance(len(a))
        figures = {"distance": _mean([distances[i] for i in range(n)], prompts)}
        if n > 1:
            figures |= {
                "fid": {"value": round(float(fid.compute()), 4), "n": n},
                "kid": {"value": round(float(kid.compute()[0]), 6), "n": n},
            }
    return figures


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


def _mean(values: Sequence[float], prompts: Sequence[str]) -> dict[str, Any]:
    """The mean of `values`, with its bootstrap interval over prompts."""
    groups: dict[str, list[float]] = {}
    for value, prompt in zip(values, prompts):
        groups.setdefault(prompt, []).append(value)
    low, high = mean_interval([sum(g) / len(g) for g in groups.values()])
    return {
        "value": round(sum(values) / len(values), 5),
        "ci": [round(low, 5), round(high, 5)],
        "n": len(values),
    }
