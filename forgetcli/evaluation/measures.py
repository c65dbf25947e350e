"""The image quality of an edited model, as a result: what `quality.measure` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """One measured value.

    Attributes:
        count: the number of images.
        interval: 95 %, bootstrap over prompts. None for a measure of a whole set of images.
    """

    value: float
    count: int
    interval: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The stable keys: value, ci (where there is one) and n."""
        interval = {} if self.interval is None else {"ci": list(self.interval)}
        return {"value": self.value, **interval, "n": self.count}


@dataclass(frozen=True)
class ModelQuality:
    """The quality of one model's images on the retained concepts, where it was measured.

    Attributes:
        distance: mean perceptual distance to the unedited model's images. Edited models only, like
            the next two.
        fid: Fréchet distance to the unedited model's images.
        kid: kernel distance to the unedited model's images.
        clip_score: mean agreement of image and prompt.
    """

    distance: Measure | None = None
    fid: Measure | None = None
    kid: Measure | None = None
    clip_score: Measure | None = None

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of the measures that were made."""
        return _described(
            distance=self.distance, fid=self.fid, kid=self.kid, clip_score=self.clip_score
        )


@dataclass(frozen=True)
class Quality:
    """The quality of an edited model's images beside the unedited model's, on the retained
    concepts.

    Attributes:
        extractor: identity of the feature extractor. None without one.
        baseline: of the unedited model's images.
        edited: of the edited model's images.
    """

    extractor: Mapping[str, Any] | None = None
    baseline: ModelQuality = ModelQuality()
    edited: ModelQuality = ModelQuality()

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of `quality` in ``eval --json``; empty if nothing was measured."""
        edited = self.edited
        result: dict[str, Any] = {} if self.extractor is None else {"extractor": self.extractor}
        result |= _described(distance=edited.distance, fid=edited.fid, kid=edited.kid)
        sides = _described(baseline=self.baseline.clip_score, edited=edited.clip_score)
        return result | ({"clip_score": sides} if sides else {})


def _described(**measures: Measure | None) -> dict[str, Any]:
    return {name: measure.as_dict() for name, measure in measures.items() if measure is not None}
