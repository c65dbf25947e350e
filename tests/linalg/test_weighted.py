"""The smaller functions of `linalg`: the ridge map, moments, weak directions, centroids."""

from __future__ import annotations

import pytest
import torch

from forgetcli.errors import EditError
from forgetcli.linalg import Moment, ridge_map
from forgetcli.linalg.preserve_set import centroids, weak_directions


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weights", [{}, {"erase": 0.5, "keep": 3.0}])
def test_the_ridge_map_is_where_the_gradient_vanishes(weights: dict[str, float]) -> None:
    concepts, targets, preserve = normal(6, 3), normal(6, 3, seed=1), normal(6, 4, seed=2)
    change = ridge_map(concepts, targets, preserve, 0.7, **weights).matrix.requires_grad_()
    weight = normal(5, 6, seed=3)
    edited = weight + weight @ change
    erased = (edited @ concepts - weight @ targets).square().sum()
    kept = (edited @ preserve - weight @ preserve).square().sum()
    loss = weights.get("erase", 1.0) * erased + weights.get("keep", 1.0) * kept
    loss = loss + 0.7 * (edited - weight).square().sum()
    (gradient,) = torch.autograd.grad(loss, change)
    assert gradient.norm() < 1e-9 * loss.item()
    assert change.norm() > 0.1


@pytest.mark.parametrize("lam", [0.0, -1.0, float("inf"), float("nan")])
def test_a_ridge_that_is_not_positive_and_finite_is_refused(lam: float) -> None:
    with pytest.raises(EditError) as error:
        ridge_map(normal(3, 1), normal(3, 1, seed=1), normal(3, 2), lam)
    assert error.value.code == "edit.lambda"
    assert ridge_map(normal(3, 1), normal(3, 1, seed=1), normal(3, 2), 0.5).rcond > 0


def test_a_moment_of_repeated_prompts_is_the_sum() -> None:
    moment = Moment.of(normal(4, 5), torch.tensor([1, 2, 3, 1, 1]))
    twice, summed = moment.times(2), moment + moment
    assert twice.tokens == summed.tokens == 16
    assert torch.equal(twice.matrix, summed.matrix)


def test_weak_directions_are_those_of_the_smallest_singular_values() -> None:
    left, right = (torch.linalg.qr(normal(4, 4, seed=seed)).Q for seed in (0, 1))
    weight = left @ torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0]).double()) @ right.T
    found = weak_directions(weight, 2)
    assert found.shape == (4, 2)
    assert torch.allclose(found.T @ right[:, 2:] @ right[:, 2:].T @ found, torch.eye(2).double())


def test_centroids_are_the_means_of_what_lies_near_them() -> None:
    groups = [normal(3, 4, seed=n) * 0.01 + 10 * n for n in range(3)]
    columns = torch.cat(groups, 1)
    found = centroids(columns, 3)
    assert torch.allclose(found, torch.stack([group.mean(1) for group in groups], 1))
    assert torch.equal(centroids(columns, 12), columns)
    assert torch.equal(centroids(columns[:, :2], 3), columns[:, :2])
