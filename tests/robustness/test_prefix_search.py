"""Relaxed tokens: the forward pass is that of real tokens, the gradient that of the relaxation."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from forgetcli.robustness.prefix_search import Nearest, Simplex, projected_to_simplex


def nearest_by_search(row: np.ndarray) -> np.ndarray:
    """The projection by trying every support: on it, the entries lose the same amount."""
    candidates = []
    for size in range(1, len(row) + 1):
        for support in itertools.combinations(range(len(row)), size):
            point = np.zeros_like(row)
            chosen = list(support)
            point[chosen] = row[chosen] - (row[chosen].sum() - 1) / size
            if (point >= 0).all():
                candidates.append(point)
    return min(candidates, key=lambda point: ((point - row) ** 2).sum())


def test_projection_to_the_simplex() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1.5, (20, 5))
    ours = projected_to_simplex(torch.from_numpy(rows)).numpy()
    assert np.allclose(ours, [nearest_by_search(row) for row in rows], atol=1e-12)
    # The negative control: dividing by the sum is no projection.
    scaled = np.clip(rows, 0, None) / np.clip(rows, 0, None).sum(1, keepdims=True)
    assert not np.allclose(ours, scaled, atol=1e-3)


def test_vectors_are_embeddings_and_gradients_pass() -> None:
    table = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    allowed = torch.arange(100, 109)
    for kind in (Nearest, Simplex):
        relaxed = kind(table, allowed, 3, torch.Generator().manual_seed(2))
        vectors = relaxed.vectors()
        assert torch.allclose(vectors, table[relaxed.tokens()])
        (gradient,) = torch.autograd.grad(vectors.sum(), [relaxed.parameter])
        assert gradient.abs().sum() > 0


def test_descent_finds_the_tokens_of_a_known_point() -> None:
    """Both relaxations find which tokens give the wanted embeddings."""
    table = torch.randn(12, 6, generator=torch.Generator().manual_seed(3))
    wanted = torch.tensor([7, 2])
    for kind, signed, rate in ((Nearest, False, 0.1), (Simplex, True, 0.05)):
        relaxed = kind(table, torch.arange(12), 2, torch.Generator().manual_seed(4))
        optimiser = torch.optim.Adam([relaxed.parameter], lr=rate)
        assert relaxed.tokens().tolist() != wanted.tolist()
        for _ in range(150):
            loss = (relaxed.vectors() - table[wanted]).pow(2).sum()
            (gradient,) = torch.autograd.grad(loss, [relaxed.parameter])
            if signed:
                with torch.no_grad():
                    relaxed.parameter.sub_(rate * gradient.sign())
            else:
                relaxed.parameter.grad = gradient
                optimiser.step()
            relaxed.project()
            if relaxed.tokens().tolist() == wanted.tolist():
                break
        assert relaxed.tokens().tolist() == wanted.tolist(), kind
