"""The coordinates of the joint descent: what they cost, what they can reach, and that a descent in
them ends where the closed form does.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_linalg import problem, relative

from forgetcli.errors import EditError
from forgetcli.linalg import coordinates, edit_operator, whitened

DIM = 24


def posed(tokens: int):
    """A problem, its operator with a ridge, its coordinates, and what is minimised there: ‖ΔK₁ −
    R‖² + ‖Δ‖²_M.
    """
    made = problem(DIM, tokens, 0.3, seed=tokens)
    words = torch.randn(
        DIM, 2 * DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    operator = edit_operator(made.keys, made.projector, made.lam, words @ words.T)
    return made, operator, coordinates(operator, torch.ones(tokens, dtype=torch.float64))


@pytest.mark.parametrize("tokens", [3, 40])  # fewer keys than null directions, and more
def test_coordinates_are_changes_of_the_operator_and_their_squares_the_cost(tokens: int):
    made, operator, space = posed(tokens)
    basis = made.projector.basis
    assert len(space.changes) == min(tokens, made.projector.rank)
    Z = torch.randn(
        5, len(space.changes), generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    delta = Z @ space.changes
    assert relative(delta, space.residual(Z) @ operator.matrix) < 1e-8
    Y = delta @ basis
    assert relative(delta, Y @ basis.T) < 1e-12  # inside the null space
    assert float(((Y @ operator.metric) * Y).sum()) == pytest.approx(float(Z.pow(2).sum()))
    assert float((Y * Y).sum()) != pytest.approx(
        float(Z.pow(2).sum()), rel=0.1
    )  # in another metric they cost something else


@pytest.mark.parametrize("tokens", [3, 40])
def test_the_least_of_misfit_and_cost_is_the_closed_form(tokens: int):
    """min over Z of ‖Z E K₁ − R‖² + ‖Z‖² is a ridge regression; its change is R A, so nothing is
    lost by the coordinates.
    """
    made, operator, space = posed(tokens)

    def least(changes):
        reached = changes @ made.keys  # (k, n)
        system = reached @ reached.T + torch.eye(len(reached), dtype=torch.float64)
        return torch.linalg.solve(system, reached @ made.residual.T).T @ changes

    assert relative(least(space.changes), operator.delta(made.residual)) < 1e-8
    plain = whitened(
        operator.matrix,
        made.projector.basis,
        made.lam * torch.eye(made.projector.rank, dtype=torch.float64),
    )
    assert (
        relative(least(plain.changes), operator.delta(made.residual)) > 1e-2
    )  # without the ridge in the metric it is not


@pytest.mark.parametrize("frozen", [0, 5])
def test_keys_that_span_the_null_space_have_the_coordinates_of_the_decomposition(frozen: int):
    """Without singular values: the same changes, in the same metric, from the same residuals."""
    made, operator, _ = posed(40)
    weights = torch.linspace(1, 3, 40, dtype=torch.float64)
    weights[:frozen] = 0
    unit = 7.0
    space = coordinates(operator, weights, unit)
    other = whitened(
        weights[:, None] * operator.matrix, made.projector.basis, operator.metric / unit
    )
    assert not torch.allclose(space.changes, other.changes)  # another basis of the same changes
    Z = torch.randn(
        5, len(space.changes), generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    delta = Z @ space.changes
    same = torch.linalg.lstsq(other.changes.T, delta.T).solution.T
    assert relative(same @ other.changes, delta) < 1e-10
    assert float(same.norm()) == pytest.approx(float(Z.norm()))
    assert relative(space.residual(Z), other.residual(same)) < 1e-8
    assert (space.residual(Z)[:, :frozen] == 0).all()
    dependent = operator.keys.clone()
    dependent[-1] = dependent[0]  # 40 keys in a smaller space
    fewer = coordinates(replace(operator, keys=dependent), weights, unit)
    assert len(fewer.changes) == len(space.changes) - 1


def test_rows_of_zeros_ask_for_nothing_and_zeros_alone_are_refused():
    _, operator, _ = posed(6)
    movable = torch.tensor([0, 1, 1, 0, 1, 1], dtype=torch.float64)
    some = coordinates(operator, movable)
    Z = torch.ones(1, len(some.changes), dtype=torch.float64)
    assert len(some.changes) == 4 and torch.equal(some.residual(Z)[0] != 0, movable.bool())
    with pytest.raises(EditError) as caught:
        coordinates(operator, movable * 0)
    assert caught.value.code == "edit.nothing-to-change"
