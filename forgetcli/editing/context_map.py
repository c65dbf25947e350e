"""The half of the edit in the cross-attention: one map T of contexts for all key and value layers,
Δ = W T. Several sets of requests count alike.

    T minimises Σ_s w_s mean_s ‖(I + T)c − c*‖² + tr(T K Tᵀ) + λ‖T‖²

over sets s of requested changes c → c*, with K the second moment of the contexts that must stay.
The sum weighs sets and not columns: the few contexts of an adversarial round can count as much as
the recipe's own prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from forgetcli.editing.alignment import Positions
from forgetcli.editing.context_columns import PairColumns, prompt_columns
from forgetcli.editing.context_sources import ContextSource
from forgetcli.linalg import RidgeMap, ridge_map_of_moment

BATCH = 64  # prompts whose columns are in memory at a time


@dataclass(frozen=True)
class ContextProblem:
    """The ridge regression of the map.

    Attributes:
        requests: the sets of requested changes.
        weights: w of each set.
        kept: K, float64, shape (d, d).
        lam: λ, relative to the mean eigenvalue of K.
    """

    requests: tuple[PairColumns, ...]
    weights: tuple[float, ...]
    kept: Tensor
    lam: float

    def with_request(self, columns: PairColumns, weight: float = 1.0) -> ContextProblem:
        """The problem with one more set."""
        return replace(self, requests=(*self.requests, columns), weights=(*self.weights, weight))

    @property
    def pairs(self) -> PairColumns:
        """All sets in one, scaled so that ‖(I + T)C − C*‖² is the sum of their weighted means."""
        scales = [
            (weight / part.concepts.shape[1]) ** 0.5
            for part, weight in zip(self.requests, self.weights)
        ]
        return PairColumns(
            torch.cat([part.concepts * scale for part, scale in zip(self.requests, scales)], 1),
            torch.cat([part.targets * scale for part, scale in zip(self.requests, scales)], 1),
        )

    def solve(self) -> RidgeMap:
        """T and the system's condition.

        Raises:
            EditError: a context is not finite, or the system cannot be factorised.
        """
        pairs = self.pairs
        lam = self.lam * float(self.kept.diagonal().mean())
        return ridge_map_of_moment(pairs.concepts, pairs.targets, self.kept, lam)


def mean_moment(
    source: ContextSource,
    prompts: Sequence[str],
    positions: Positions,
    pairs: PairColumns | None = None,
) -> Tensor:
    """Mean of c cᵀ over the prompts' contexts, float64, shape (d, d).

    Args:
        positions, pairs: see `prompt_columns`. A column counts once in every batch of prompts.
    """
    total, count = torch.zeros(()), 0
    for start in range(0, len(prompts), BATCH):
        columns = prompt_columns(source, prompts[start : start + BATCH], positions, pairs)
        total = total + columns @ columns.T
        count += columns.shape[1]
    return total / max(count, 1)
