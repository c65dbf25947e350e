"""What an edit did to the pictures it should not have touched: perceptual distance, FID, KID, CLIP
score.

All on the prompts of the concepts that stay, the unedited model's picture against the edited one's
at the same seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.evaluation import features
from forgetcli.evaluation.intervals import mean_interval

if TYPE_CHECKING:
    from torch import Tensor

    from forgetcli.evaluation.run import Run
    from forgetcli.progress import Observer

load = features.load
BATCH = 64


def measure(baseline: Run, edited: Run, extractor, judge, observer: Observer) -> dict:
    """The measures of one edited model; those without an extractor, or without a judge that scores
    text, are left out.

    Returns: each measure with `value`, `n` pictures, and where there is one `ci` (95 %, bootstrap
    over prompts):
        `distance` and its `ci`; `fid`, `kid` between the two sets; `clip_score` {baseline, edited}.
        FID is biased upwards for
        fewer pictures than features, so it compares only at equal `n`; KID is not (Bińkowski et
        al., arXiv 1801.01401), but takes
        the two sets for independent: pictures at equal seeds resemble one another, so an edit that
            changes nothing gives
        less than 0.
    """
    pairs = [
        (a, b)
        for a, b in zip(baseline.answers, edited.answers)
        if b.question.label not in edited.subject.forgets
    ]
    prompts = [b.question.prompt for _, b in pairs]
    before, after = [a.path for a, _ in pairs], [b.path for _, b in pairs]
    measured: dict = {}
    if not pairs:
        return measured
    if extractor is not None:
        observer.stage("quality", len(pairs))
        measured = {
            "extractor": extractor.identity(),
            **compare(before, after, prompts, extractor, observer),
        }
    if hasattr(judge, "clip_score"):
        measured["clip_score"] = {
            name: _mean(judge.clip_score(_opened(paths), prompts), prompts)
            for name, paths in (("baseline", before), ("edited", after))
        }
    return measured


def compare(
    before: Sequence[Path],
    after: Sequence[Path],
    prompts: Sequence[str],
    extractor,
    observer: Observer,
) -> dict:
    """Distance of each pair, FID and KID between the two sets."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Vectors(torch.nn.Module):
        num_features = extractor.size

        def forward(self, pictures: Tensor) -> Tensor:
            return extractor.vectors(pictures)

    n, distances = len(before), {}
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # that KID keeps all features: a few thousand vectors
        torch.manual_seed(0)  # KID's subsets, where there are more than 1000 pictures
        alone = {"sync_on_compute": False}  # of several processes, only the first one measures
        fid = FrechetInceptionDistance(feature=Vectors(), **alone)
        kid = KernelInceptionDistance(
            feature=Vectors(), subsets=1 if n <= 1000 else 100, subset_size=min(n, 1000), **alone
        )
        for part in _batches(before):
            a, b = (pictures_of([paths[i] for i in part]) for paths in (before, after))
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
    """Indices of at most `BATCH` pictures of one size."""
    from PIL import Image

    by_size: dict[tuple[int, int], list[int]] = {}
    for i, path in enumerate(paths):
        with Image.open(path) as picture:
            by_size.setdefault(picture.size, []).append(i)
    for indices in by_size.values():
        yield from (indices[k : k + BATCH] for k in range(0, len(indices), BATCH))


def pictures_of(paths: Sequence[Path]) -> Tensor:
    """uint8, shape (n, 3, h, w)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack([np.asarray(p) for p in _opened(paths)])).permute(0, 3, 1, 2)


def _opened(paths: Sequence[Path]) -> list:
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in paths]


def _mean(values: Sequence[float], prompts: Sequence[str]) -> dict:
    groups: dict[str, list[float]] = {}
    for value, prompt in zip(values, prompts):
        groups.setdefault(prompt, []).append(value)
    low, high = mean_interval([sum(g) / len(g) for g in groups.values()])
    return {
        "value": round(sum(values) / len(values), 5),
        "ci": [round(low, 5), round(high, 5)],
        "n": len(values),
    }
