"""The closed form against references of 50 digits, its theorems on random problems, and every
refusal.
"""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forgetcli.errors import EditError
from forgetcli.linalg import Moment, Projector, edit_operator, null_projector

DIGITS = 50
THRESHOLD = 1e-4
random_problems = settings(derandomize=True, max_examples=12, deadline=None)


@dataclass(frozen=True)
class Problem:
    """K₀ (d, n₀) whose singular values fall from 1 to 1e-5, K₁ (d, n), R (m, n) and λ."""

    preserved: Tensor
    keys: Tensor
    residual: Tensor
    lam: float

    @property
    def moment(self) -> Tensor:
        return self.preserved @ self.preserved.T

    @property
    def projector(self) -> Projector:
        return null_projector(self.moment, THRESHOLD, min_rank=1)

    @property
    def dim(self) -> int:
        return len(self.preserved)


def problem(dim: int, tokens: int, lam: float, seed: int) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    left, right = torch.linalg.qr(draw(dim, dim))[0], torch.linalg.qr(draw(2 * dim, dim))[0]
    preserved = left * torch.logspace(0, -5, dim, dtype=torch.float64) @ right.T  # (d, 2d)
    return Problem(preserved, draw(dim, tokens), draw(3, tokens), lam)


@st.composite
def problems(draw, max_dim: int = 24) -> Problem:
    return problem(
        draw(st.integers(4, max_dim)),
        draw(st.integers(1, 30)),
        10 ** draw(st.floats(-3, 2)),
        draw(st.integers(0, 2**31)),
    )


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# references: mpmath, 50 digits; floats enter it exactly


def exact(matrix: Tensor) -> mpmath.matrix:
    return mpmath.matrix(matrix.tolist())


def as_tensor(matrix: mpmath.matrix) -> Tensor:
    return torch.tensor([[float(x) for x in row] for row in matrix.tolist()], dtype=torch.float64)


def exact_projector(preserved: Tensor, rank: int) -> tuple[mpmath.matrix, list]:
    """P onto the `rank` smallest eigenvectors of K₀K₀ᵀ, and all eigenvalues, ascending."""
    keys = exact(preserved)
    eigenvalues, vectors = mpmath.eigsy(keys * keys.T)
    order = sorted(range(len(eigenvalues)), key=lambda i: eigenvalues[i])
    projector = mpmath.zeros(keys.rows)
    for i in order[:rank]:
        projector += vectors[:, i] * vectors[:, i].T
    return projector, [eigenvalues[i] for i in order]


def exact_operator(keys: Tensor, projector: mpmath.matrix, lam: float) -> mpmath.matrix:
    """K₁ᵀP (K₁K₁ᵀP + λI)⁻¹, the paper's own form, d×d and not symmetric."""
    K = exact(keys)
    return K.T * projector * (K * K.T * projector + mpmath.mpf(lam) * mpmath.eye(K.rows)) ** -1


@pytest.mark.parametrize("seed", range(3))
def test_projector_is_that_of_50_digits(seed: int):
    posed = problem(dim=8, tokens=3, lam=1.0, seed=seed)
    with mpmath.workdps(DIGITS):
        _, eigenvalues = exact_projector(posed.preserved, 0)
        mean = sum(eigenvalues) / len(eigenvalues)
        rank = sum(value < mpmath.mpf(THRESHOLD) * mean for value in eigenvalues)
        wanted = as_tensor(exact_projector(posed.preserved, rank)[0])
        neighbour = as_tensor(exact_projector(posed.preserved, rank + 1)[0])
    found = posed.projector
    assert found.rank == rank > 1
    assert relative(found.matrix(), wanted) < 1e-10
    assert relative(found.matrix(), neighbour) > 0.1  # one direction more is another projector
    assert found.eig_below == pytest.approx(float(eigenvalues[rank - 1] / mean), rel=1e-8)
    assert found.eig_above == pytest.approx(float(eigenvalues[rank] / mean), rel=1e-8)
    assert found.eig_below < THRESHOLD <= found.eig_above
    assert energy_inside(posed) == pytest.approx(float(sum(eigenvalues[:rank])), rel=1e-8)


def energy_inside(posed: Problem) -> float:
    """‖P K₀‖_F²."""
    return float((posed.projector.basis.T @ posed.preserved).norm() ** 2)


@pytest.mark.parametrize("tokens", [2, 15], ids=["n×n", "r×r"])
def test_both_forms_of_the_solve_are_the_papers_by_push_through(tokens: int):
    posed = problem(dim=8, tokens=tokens, lam=0.3, seed=1)
    assert (tokens > posed.projector.rank) == (tokens == 15)  # so each form is really taken
    with mpmath.workdps(DIGITS):
        projector = exact_projector(posed.preserved, posed.projector.rank)[0]
        wanted = as_tensor(exact_operator(posed.keys, projector, posed.lam))
        unprojected = as_tensor(exact_operator(posed.keys, mpmath.eye(posed.dim), posed.lam))
    found = edit_operator(posed.keys, posed.projector, posed.lam)
    assert relative(found.matrix, wanted) < 1e-9
    assert relative(found.matrix, unprojected) > 0.1
    assert relative(edit_operator(posed.keys, posed.projector, 2 * posed.lam).matrix, wanted) > 1e-3
    assert relative(found.delta(posed.residual), posed.residual @ wanted) < 1e-9


@random_problems
@given(problems())
def test_n_by_n_r_by_r_and_d_by_d_forms_agree(posed: Problem):
    K, P, U, lam = posed.keys, posed.projector.matrix(), posed.projector.basis, posed.lam
    B = U.T @ K
    tokens_form = (
        torch.linalg.solve(B.T @ B + lam * torch.eye(K.shape[1], dtype=K.dtype), B.T) @ U.T
    )
    rank_form = torch.linalg.solve(B @ B.T + lam * torch.eye(len(B), dtype=K.dtype), B).T @ U.T
    paper = torch.linalg.solve((K @ K.T @ P + lam * torch.eye(posed.dim, dtype=K.dtype)).T, P @ K).T
    found = edit_operator(K, posed.projector, lam).matrix
    for form in (tokens_form, rank_form, paper):
        assert relative(found, form) < 1e-8
    swapped = torch.linalg.solve(
        (P @ K @ K.T + lam * torch.eye(posed.dim, dtype=K.dtype)).T, P @ K
    ).T
    if posed.projector.rank < posed.dim - 1:
        assert relative(found, swapped) > 1e-6  # P K₁K₁ᵀ is not K₁K₁ᵀ P


@pytest.mark.parametrize("tokens", [3, 15], ids=["n×n", "r×r"])
def test_the_smaller_system_is_factorised_and_rcond_is_its_own(tokens: int):
    posed = problem(dim=10, tokens=tokens, lam=0.3, seed=2)
    B = posed.projector.basis.T @ posed.keys  # (r, n)
    grams = sorted((B.T @ B, B @ B.T), key=len)
    assert len(grams[0]) < len(grams[1])
    systems = [gram + posed.lam * torch.eye(len(gram), dtype=torch.float64) for gram in grams]
    rconds = [1 / float(torch.linalg.cond(system)) for system in systems]
    found = edit_operator(posed.keys, posed.projector, posed.lam)
    assert found.matrix.shape == (tokens, 10)
    assert found.rcond == pytest.approx(rconds[0], rel=1e-9)
    assert found.rcond != pytest.approx(rconds[1], rel=1e-2)  # the larger one is singular but for λ
    assert found.rcond < edit_operator(posed.keys, posed.projector, 100 * posed.lam).rcond < 1


# theorems


@random_problems
@given(problems())
def test_projector_is_orthogonal_and_leaves_what_is_inside(posed: Problem):
    found = posed.projector
    P = found.matrix()
    assert (P @ P - P).norm() < 1e-12
    assert (P - P.T).norm() < 1e-13
    assert float(P.trace()) == pytest.approx(found.rank)
    assert relative(found(posed.keys), P @ posed.keys) < 1e-12
    inside = float(torch.linalg.eigvalsh(posed.moment)[: found.rank].sum())
    assert energy_inside(posed) == pytest.approx(inside, rel=1e-6)
    oblique = P + 0.1 * torch.outer(found.basis[:, 0], torch.ones(posed.dim, dtype=torch.float64))
    assert (oblique @ oblique - oblique).norm() > 1e-3  # the same checks see a matrix that is none
    assert (oblique - oblique.T).norm() > 1e-3


@random_problems
@given(problems())
def test_edit_moves_preserved_outputs_no_further_than_its_bound(posed: Problem):
    delta = edit_operator(posed.keys, posed.projector, posed.lam).delta(posed.residual)
    bound = float(torch.linalg.matrix_norm(delta, 2)) * energy_inside(posed) ** 0.5
    assert float((delta @ posed.preserved).norm()) <= bound * (1 + 1e-6)

    free = edit_operator(posed.keys, Projector.identity(posed.dim), posed.lam).delta(posed.residual)
    bound = float(torch.linalg.matrix_norm(free, 2)) * energy_inside(posed) ** 0.5
    assert float((free @ posed.preserved).norm()) > 3 * bound  # without P they do move


def test_exact_null_space_is_not_moved_at_all():
    posed = problem(dim=12, tokens=4, lam=0.1, seed=3)
    preserved = posed.preserved[:, :5]  # rank 5 of 12
    projector = null_projector(preserved @ preserved.T, 1e-12, min_rank=1)
    assert projector.rank == 7
    moved = edit_operator(posed.keys, projector, posed.lam).delta(posed.residual) @ preserved
    assert float(moved.norm() / preserved.norm()) < 1e-12
    free = (
        edit_operator(posed.keys, Projector.identity(12), posed.lam).delta(posed.residual)
        @ preserved
    )
    assert float(free.norm() / preserved.norm()) > 1e-2


@random_problems
@given(problems())
def test_gradient_is_zero_at_the_solution_and_not_nearby(posed: Problem):
    P = posed.projector.matrix()
    solution = edit_operator(posed.keys, posed.projector, posed.lam).delta(posed.residual)

    def objective(delta: Tensor) -> Tensor:
        return ((delta @ P @ posed.keys - posed.residual) ** 2).sum() + posed.lam * (
            (delta @ P) ** 2
        ).sum()

    def gradient(delta: Tensor) -> float:
        delta = delta.clone().requires_grad_()
        return float(torch.autograd.grad(objective(delta), delta)[0].norm())

    start = gradient(torch.zeros_like(solution))
    assert gradient(solution) < 1e-9 * start
    step = 1e-3 * torch.ones_like(solution) @ P
    assert gradient(solution + step) > 1e-6 * start
    assert objective(solution + step) > objective(solution) < objective(solution - step)
    assert relative(solution @ P, solution) < 1e-12  # Δ = ΔP


@random_problems
@given(problems(), st.integers(2, 6))
def test_merging_repeated_tokens_is_exact(posed: Problem, copies: int):
    """m copies of k with the values v₁…v_m are one column √m·k with the value √m·mean(v)."""
    generator = torch.Generator().manual_seed(copies)
    values = torch.randn(len(posed.residual), copies, generator=generator, dtype=torch.float64)
    repeated = torch.cat([posed.keys, posed.keys[:, :1].expand(-1, copies - 1)], 1)
    wanted = edit_operator(repeated, posed.projector, posed.lam).delta(
        torch.cat([values[:, :1], posed.residual[:, 1:], values[:, 1:]], 1)
    )

    def merged(weight: float) -> Tensor:
        keys, residual = posed.keys.clone(), posed.residual.clone()
        keys[:, 0] *= weight
        residual[:, 0] = weight * values.mean(1)
        return edit_operator(keys, posed.projector, posed.lam).delta(residual)

    assert relative(merged(copies**0.5), wanted) < 1e-9
    assert relative(merged(1.0), wanted) > 1e-6  # dropping repetitions is another problem


# keys of earlier edits, held


def earlier_keys(posed: Problem, tokens: int = 4) -> Tensor:
    """K_p (d, n_p) of the same size as K₁."""
    return torch.randn(
        posed.dim, tokens, generator=torch.Generator().manual_seed(99), dtype=torch.float64
    )


@pytest.mark.parametrize("tokens", [2, 15], ids=["few", "many"])
def test_the_solve_with_held_keys_is_the_papers_in_50_digits(tokens: int):
    posed = problem(dim=8, tokens=tokens, lam=0.3, seed=4)
    Kp = earlier_keys(posed)
    with mpmath.workdps(DIGITS):
        P, K, held = (
            exact_projector(posed.preserved, posed.projector.rank)[0],
            exact(posed.keys),
            exact(Kp),
        )
        wanted = as_tensor(
            K.T
            * P
            * (K * K.T * P + held * held.T * P + mpmath.mpf(posed.lam) * mpmath.eye(K.rows)) ** -1
        )
    found = edit_operator(posed.keys, posed.projector, posed.lam, Kp @ Kp.T)
    assert relative(found.matrix, wanted) < 1e-9
    assert relative(edit_operator(posed.keys, posed.projector, posed.lam).matrix, wanted) > 1e-2
    B, Bp = posed.projector.basis.T @ posed.keys, posed.projector.basis.T @ Kp
    system = B @ B.T + Bp @ Bp.T + posed.lam * torch.eye(len(B), dtype=torch.float64)
    assert found.rcond == pytest.approx(1 / float(torch.linalg.cond(system)), rel=1e-9)
    nothing = edit_operator(posed.keys, posed.projector, posed.lam, torch.zeros_like(posed.moment))
    assert (
        relative(nothing.matrix, edit_operator(posed.keys, posed.projector, posed.lam).matrix)
        < 1e-9
    )


@random_problems
@given(problems())
def test_gradient_with_held_keys_is_zero_at_the_solution_and_not_without_them(posed: Problem):
    P, Kp = posed.projector.matrix(), earlier_keys(posed)

    def gradient(delta: Tensor) -> float:
        delta = delta.clone().requires_grad_()
        objective = (
            ((delta @ P @ posed.keys - posed.residual) ** 2).sum()
            + ((delta @ P @ Kp) ** 2).sum()
            + posed.lam * ((delta @ P) ** 2).sum()
        )
        return float(torch.autograd.grad(objective, delta)[0].norm())

    solution = edit_operator(posed.keys, posed.projector, posed.lam, Kp @ Kp.T).delta(
        posed.residual
    )
    free = edit_operator(posed.keys, posed.projector, posed.lam).delta(posed.residual)
    start = gradient(torch.zeros_like(solution))
    assert gradient(solution) < 1e-8 * start
    assert gradient(free) > 1e-6 * start  # the solution that does not know of them is none
    assert relative(solution @ P, solution) < 1e-12  # Δ = ΔP still
    assert float((solution @ Kp).norm()) < float((free @ Kp).norm())


def test_held_keys_are_held_the_more_the_oftener_they_occur():
    posed = problem(dim=12, tokens=3, lam=1e-3, seed=6)
    Kp = earlier_keys(posed, tokens=2)
    R, moved = posed.residual, []
    for count in (0, 1, 100, 10_000):
        delta = edit_operator(
            posed.keys, Projector.identity(12), posed.lam, count * Kp @ Kp.T
        ).delta(R)
        moved.append(float((delta @ Kp).norm() / R.norm()))
    assert moved[0] > 0.3 and moved == sorted(moved, reverse=True)
    assert moved[-1] < 1e-5
    assert relative(delta @ posed.keys, R) < 0.05  # there is room for both


@pytest.mark.parametrize(
    "bad",
    [
        torch.eye(12, dtype=torch.float64) * float("nan"),
        torch.eye(12),
        torch.ones(3, 3, dtype=torch.float64).triu(),
    ],
)
def test_damaged_moments_of_held_keys_are_refused(bad: Tensor):
    posed = problem(dim=12, tokens=3, lam=0.1, seed=6)
    with pytest.raises(EditError) as caught:
        edit_operator(posed.keys, posed.projector, posed.lam, bad)
    assert caught.value.code.startswith("edit.moment")
    assert (
        edit_operator(
            posed.keys, posed.projector, posed.lam, torch.eye(12, dtype=torch.float64)
        ).rcond
        > 0
    )


# moments


@random_problems
@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 2**31))
def test_moments_are_additive_and_count_repetitions(dim: int, tokens: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(dim, tokens, generator=generator, dtype=torch.float64)
    counts = torch.randint(2, 6, (tokens,), generator=generator)
    repeated = keys.repeat_interleave(counts, 1)
    found = Moment.of(keys, counts)
    assert relative(found.matrix, repeated @ repeated.T) < 1e-12
    assert relative(keys @ keys.T, repeated @ repeated.T) > 1e-3  # uncounted, it is another moment
    assert found.tokens == int(counts.sum())
    assert float(found.matrix.trace()) == pytest.approx(float(repeated.norm() ** 2))
    other = Moment.of(2 * keys, counts)
    both = Moment.of(torch.cat([keys, 2 * keys], 1), counts.repeat(2))
    assert relative((found + other).matrix, both.matrix) < 1e-12
    assert (found + other).tokens == both.tokens == 2 * found.tokens


def test_keys_of_half_precision_are_summed_in_float64():
    keys = torch.full((2, 4), 1.0009765625, dtype=torch.float16)  # its square needs 21 bits
    assert float(Moment.of(keys, torch.ones(4)).matrix[0, 0]) == 4 * 1.0009765625**2
    assert float((keys @ keys.T)[0, 0]) != 4 * 1.0009765625**2


def encoder_like_keys(dim: int = 384, tokens: int = 4000) -> Tensor:
    """Keys (d, n) as text encoders have them: one direction that all share holds nearly all energy,
    the others fall
    over eight decades of it."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    spread = basis * torch.logspace(0, -4, dim, dtype=torch.float64)
    own = spread @ torch.randn(dim, tokens, generator=generator, dtype=torch.float64)
    return (own + 100 * basis[:, :1]).float()


def test_float32_gives_another_null_dimension_at_the_reference_threshold():
    """Why everything here is float64: mean/90000 lies below what float32 resolves beside the
    largest eigenvalue.
    """
    keys, threshold = encoder_like_keys(), 1 / 90000
    squared = torch.linalg.svdvals(keys.double()) ** 2  # the reference: K₀K₀ᵀ is never formed
    true_rank = int((squared < threshold * squared.mean()).sum())

    moment = Moment.of(keys, torch.ones(keys.shape[1]))
    assert null_projector(moment.matrix, threshold, min_rank=1).rank == true_rank

    single = torch.zeros(len(keys), len(keys))
    for part in keys.split(4, 1):  # streamed, as prompts come
        single += part @ part.T
    eigenvalues = torch.linalg.eigvalsh(single)
    assert abs(int((eigenvalues < threshold * eigenvalues.mean()).sum()) - true_rank) >= 5
    assert eigenvalues[0] < -threshold * eigenvalues.mean()  # wrong by more than the cut itself
    decomposed = torch.linalg.eigvalsh(
        moment.matrix.float()
    )  # summed in float64, decomposed in float32
    assert decomposed[0] < -threshold * decomposed.mean()


# limits and refusals


@pytest.mark.parametrize(("min_rank", "rank"), [(1, 3), (3, 3), (5, 5), (99, 6)])
def test_minimum_rank_takes_the_smallest_directions_first(min_rank: int, rank: int):
    moment = torch.diag(torch.tensor([1e-9, 4.0, 1e-7, 3.0, 1e-8, 2.0], dtype=torch.float64))
    found = null_projector(moment, THRESHOLD, min_rank)
    assert found.rank == rank
    order = [0, 4, 2, 5, 3, 1]
    wanted = torch.zeros(6, dtype=torch.float64)
    wanted[order[:rank]] = 1
    assert torch.allclose(found.matrix(), torch.diag(wanted))
    assert (found.eig_above == float("inf")) == (rank == 6)


def test_identity_protects_nothing():
    columns = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(Projector.identity(5)(columns), columns)
    assert Projector.identity(5).rank == 5


def eye(dim: int = 4) -> Tensor:
    return torch.eye(dim, dtype=torch.float64)


def skewed(by: float) -> Tensor:
    matrix = torch.ones(4, 4, dtype=torch.float64)
    matrix[0, 1] += by
    return matrix


def with_eigenvalue(value: float) -> Tensor:
    return torch.diag(torch.tensor([value, 1.0, 2.0, 4.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("code", "bad", "good"),
    [
        ("edit.moment-shape", torch.ones(3, 4, dtype=torch.float64), eye()),
        ("edit.moment-shape", torch.ones(3, dtype=torch.float64), eye()),
        ("edit.moment-dtype", eye().float(), eye()),
        ("edit.moment-not-finite", eye() * float("nan"), eye()),
        ("edit.moment-not-finite", with_eigenvalue(float("inf")), eye()),
        ("edit.moment-not-symmetric", skewed(1.2e-9), skewed(0.8e-9)),
        ("edit.moment-indefinite", with_eigenvalue(-4.8e-10), with_eigenvalue(-3.2e-10)),
        ("edit.moment-zero", torch.zeros(4, 4, dtype=torch.float64), eye() * 1e-200),
    ],
)
def test_moments_that_cannot_be_are_refused(code: str, bad: Tensor, good: Tensor):
    with pytest.raises(EditError) as caught:
        null_projector(bad, THRESHOLD, min_rank=1)
    assert caught.value.code == code
    assert (
        null_projector(good, THRESHOLD, min_rank=1).eig_below >= 0
    )  # rounding-size faults are not


def test_no_direction_below_the_threshold_is_refused_unless_some_are_asked_for():
    with pytest.raises(EditError) as caught:
        null_projector(eye(), THRESHOLD, min_rank=0)
    assert caught.value.code == "edit.no-null-space"
    assert null_projector(eye(), THRESHOLD, min_rank=1).rank == 1


@pytest.mark.parametrize(
    ("code", "keys", "lam"),
    [
        ("edit.lambda", eye(), 0.0),
        ("edit.lambda", eye(), -1.0),
        ("edit.lambda", eye(), float("nan")),
        ("edit.keys-not-finite", eye() * float("inf"), 1.0),
        ("edit.keys-not-finite", eye() * float("nan"), 1.0),
        (
            "edit.singular",
            torch.ones(4, 3, dtype=torch.float64),
            1e-300,
        ),  # equal keys, and λ lost in rounding
    ],
)
def test_systems_that_cannot_be_solved_are_refused(code: str, keys: Tensor, lam: float):
    with pytest.raises(EditError) as caught:
        edit_operator(keys, Projector.identity(4), lam)
    assert caught.value.code == code
    assert (
        edit_operator(torch.ones(4, 3, dtype=torch.float64), Projector.identity(4), 1.0).rcond > 0
    )
