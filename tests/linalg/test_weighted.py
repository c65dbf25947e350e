"""The smaller functions of `linalg`: the ridge map, moments, weak directions, centroids, drift, low
rank.
"""

from __future__ import annotations

import pytest
import torch

from forgetcli.errors import EditError
from forgetcli.linalg import (
    Moment,
    Projector,
    augmented,
    constrained_map,
    drift,
    most_moved,
    null_projector,
    ridge_map,
    ridge_map_of_moment,
    whitened,
)
from forgetcli.linalg.factor import cholesky, reciprocal_condition
from forgetcli.linalg.low_rank import low_rank, rank_for
from forgetcli.linalg.moment import ROWS_PER_BLOCK, symmetrised
from forgetcli.linalg.preserve_set import centroids, weak_directions
from forgetcli.linalg.speed import complement


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


def test_a_ridge_map_of_a_moment_is_that_of_its_columns() -> None:
    concepts, targets, preserve = normal(6, 3), normal(6, 3, seed=1), normal(6, 4, seed=2)
    found = ridge_map_of_moment(concepts, targets, preserve @ preserve.T, 0.7).matrix
    assert torch.allclose(found, ridge_map(concepts, targets, preserve, 0.7).matrix)


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


def test_columns_that_are_not_finite_are_refused() -> None:
    for damaged in range(3):
        columns = [normal(3, 2), normal(3, 2, seed=1), normal(3, 4, seed=2)]
        assert ridge_map(*columns, 0.5).matrix.isfinite().all()
        columns[damaged][0, 0] = torch.nan
        with pytest.raises(EditError) as error:
            ridge_map(*columns, 0.5)
        assert error.value.code == "edit.keys-not-finite"


def test_the_constraint_of_a_constrained_map_is_exact_by_default() -> None:
    C, C_star, K2 = normal(6, 3), normal(6, 3, seed=1), normal(6, 2, seed=2)
    free = Projector.identity(6)
    found = constrained_map(C, C_star, free, K2, 0.5).matrix
    assert (found @ K2).norm() < 1e-12 < 0.1 < found.norm()
    assert torch.equal(found, constrained_map(C, C_star, free, K2, 0.5, 0.0).matrix)


def test_columns_that_move_as_much_as_the_mean_are_not_among_the_most_moved() -> None:
    columns = torch.tensor([[1.0, 2.0, 3.0], [7.0, 8.0, 9.0]]).double()
    delta = torch.tensor([[1.0, 0.0]]).double()
    assert most_moved(columns, delta).tolist() == [[3.0], [9.0]]


def test_copies_are_columns_with_noise_along_the_weak_directions() -> None:
    columns, weight = normal(5, 3), normal(4, 5, seed=1)
    copies = augmented(columns, weight, 2, 3, torch.Generator().manual_seed(4))
    noise = normal(3, 6, seed=4)
    assert torch.allclose(copies, columns.repeat(1, 2) + weak_directions(weight, 3) @ noise)


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


def test_centroids_begin_evenly_spaced_and_end_where_nothing_moves(monkeypatch) -> None:
    line = torch.arange(10).double()[None]
    # The middles of thirds, ⌊(2i + 1) · 10 / 6⌋.
    assert centroids(line, 3, rounds=0).tolist() == [[1, 5, 8]]
    columns = normal(2, 40)
    found = centroids(columns, 4)
    nearest = (columns[:, :, None] - found[:, None]).square().sum(0).argmin(1)
    for i in range(4):
        assert torch.allclose(columns[:, nearest == i].mean(1), found[:, i])
    assert not torch.allclose(centroids(columns, 4, rounds=1), found)  # it takes several rounds
    alike = torch.ones(2, 5).double()
    assert torch.equal(centroids(alike, 2), alike[:, :2])  # no column is nearest to the second
    rounds = []
    cdist = torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda *both: rounds.append(both) or cdist(*both))
    monkeypatch.setattr(torch, "equal", lambda *both: False)
    centroids(columns, 4)
    assert len(rounds) == 100  # and no more, if rounding keeps them moving


def test_drift_is_the_relative_change_of_the_outputs_for_keys_and_their_moment() -> None:
    delta, weight = normal(3, 5), normal(3, 5, seed=1)
    keys, counts = normal(5, 4, seed=2), torch.tensor([1, 3, 1, 2])
    repeated = keys.repeat_interleave(counts, 1)
    expected = ((delta @ repeated).square().sum() / (weight @ repeated).square().sum()) ** 0.5
    assert drift(delta, weight, repeated) == pytest.approx(float(expected), rel=1e-12)
    moment = Moment.of(keys, counts)
    assert drift(delta, weight, moment) == pytest.approx(float(expected), rel=1e-12)
    assert drift(delta, weight, keys) != pytest.approx(float(expected), rel=1e-3)
    assert drift(0 * delta, weight, keys) == drift(0 * delta, weight, moment) == 0.0
    # No output at all: nothing is divided by zero, and a change of it is out of all proportion.
    assert drift(0 * delta, 0 * weight, keys) == 0.0
    assert drift(delta, 0 * weight, keys) == float((delta @ keys).norm() / 1e-300)


def test_a_moment_of_more_rows_than_a_block_is_that_of_one_product() -> None:
    keys = normal(2 * ROWS_PER_BLOCK + 3, 2)
    counts = torch.tensor([2, 1])
    moment = Moment.of(keys, counts).matrix
    assert torch.allclose(moment, keys * counts @ keys.T, rtol=1e-12, atol=1e-12)
    corner = moment[:ROWS_PER_BLOCK, ROWS_PER_BLOCK:]  # mirrored, not computed twice
    assert torch.equal(corner, moment[ROWS_PER_BLOCK:, :ROWS_PER_BLOCK].T)
    assert torch.equal(symmetrised(moment), symmetrised(moment).T)


def test_the_edge_of_what_counts_as_rounding() -> None:
    """A moment of nearly no energy, nearly dependent columns, and a direction that hardly moves."""
    for skew, refused in ((1.2e-309, True), (0.8e-309, False)):  # 1e-9 of 1e-300
        moment = torch.tensor([[0, skew], [0, 0]], dtype=torch.float64)
        if refused:
            with pytest.raises(EditError, match="symmetric"):
                symmetrised(moment)
        else:
            assert torch.equal(symmetrised(moment), (moment + moment.T) / 2)
    symmetrised(torch.tensor([[1, 1e-9], [0, 1]], dtype=torch.float64))
    for angle, free in ((2.4e-12, 1), (1.6e-12, 2)):  # singular values in the ratio angle / 2
        columns = torch.tensor([[1, 1], [0, angle], [0, 0]], dtype=torch.float64)
        assert complement(columns).shape == (3, free)
    eye = torch.eye(2, dtype=torch.float64)
    for size, rank in ((1.2e-7, 2), (0.8e-7, 1)):
        A = torch.diag(singular(3, 3 * size))
        space = whitened(A, eye, eye)
        assert space.changes.shape == (rank, 2)
        Z = torch.eye(rank, dtype=torch.float64)
        assert torch.allclose(space.residual(Z) @ A, space.changes)  # Z E = Z T A
    # A projector's threshold is not reached by an eigenvalue that equals it: 1 = 1 × mean.
    moment = torch.diag(singular(1, 0, 2, 1))
    assert null_projector(moment, 1.0, 0).rank == 1 and null_projector(moment, 1.01, 0).rank == 3
    null_projector(torch.diag(singular(-4e-10, 1, 2, 4)), 1.0, 0)


def singular(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_rank_is_the_smallest_within_the_error_and_above_rounding() -> None:
    # ‖Δ‖² = 25: rank 1 leaves 9, which is exactly 0.6² of it.
    assert [rank_for(singular(4, 3), error) for error in (0.7, 0.6, 0.59, 0)] == [1, 1, 2, 2]
    # Nothing below n · ε · σ₁, the rounding of a singular value decomposition, counts.
    eps = torch.finfo(torch.float64).eps
    assert [rank_for(singular(1, 1, size * eps), 0) for size in (2.9, 3.1, 4.5)] == [2, 3, 3]
    assert rank_for(singular(), 0) == rank_for(singular(0, 0), 0) == 0


def test_both_factors_of_a_low_rank_matrix_have_the_roots_of_its_singular_values() -> None:
    left, right = (torch.linalg.qr(normal(n, 3, seed=n)).Q for n in (6, 4))
    sizes = singular(9, 4, 1)
    delta = left * sizes @ right.T
    found = low_rank(delta, 0)
    assert found.rank == 3 and found.singular.shape == (4,)
    assert torch.allclose(found.up @ found.down, delta)
    for norms in (found.up.norm(dim=0), found.down.norm(dim=1)):
        assert torch.allclose(norms, sizes.sqrt())
    # Without 1: √(1/98) = 0.101 of ‖Δ‖; without 4 and 1: √(17/98) = 0.416.
    assert [low_rank(delta, error).rank for error in (0.1, 0.11, 0.41, 0.42)] == [3, 2, 2, 1]
    assert [low_rank(delta, 0.11, most).rank for most in (1, 2, 3)] == [1, 2, 2]
    assert torch.allclose(
        low_rank(delta, 0, 1).up @ low_rank(delta, 0, 1).down,
        9 * torch.outer(left[:, 0], right[:, 0]),
    )


def test_factors_and_condition_of_a_system() -> None:
    root = normal(4, 4).tril() + 4 * torch.eye(4, dtype=torch.float64)
    assert torch.allclose(cholesky(root @ root.T, "hint"), root)
    assert reciprocal_condition(torch.diag(singular(2, 8, 4))) == pytest.approx(0.25)
    for bad in (torch.diag(singular(1, -1)), torch.diag(singular(1, float("inf")))):
        with pytest.raises(EditError, match="the system") as error:
            cholesky(bad, "the hint", what="the system")
        assert (error.value.code, error.value.hint) == ("edit.singular", "the hint")
