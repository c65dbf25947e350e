"""EMCID: the closed form's own optimality, the spreading over blocks, and the whole method on a
tiny real pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from concept_pictures import seen, seen_unedited
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import POSITIONS, tiny_sd
from pydantic import ValidationError
from torch import Tensor

import forgetcli
from forgetcli import methods, models, recipe
from forgetcli.checkpoint import base
from forgetcli.editing.edit import Edit
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.moments import preserve_moments
from forgetcli.errors import EditError
from forgetcli.linalg import Moment, spread_edit
from forgetcli.methods import emcid
from forgetcli.methods.emcid import edit as algorithm
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent

random_problems = settings(derandomize=True, max_examples=12, deadline=None)
RECIPE = """\
method = "emcid"

[[concepts]]
concept = "van gogh"
target = "monet"

[prompts]
templates = ["{}", "a painting by {}", "{} by night"]

[preserve]
prior = "none"
prompts = ["a picture of a cat", "a house", "a sketch of a dog", "a painting by monet"]

[edit]
sites = [1, 2]

[refine]
steps = 4
batch = 2
latent_steps = 2
"""


def from_text(**changes: str | float) -> recipe.Recipe:
    return recipe.parse(
        RECIPE, overrides=[f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    )


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# the closed form


@dataclass(frozen=True)
class Problem:
    """K₁ (d, n), R (m, n), preserved keys (d, p) and λ."""

    keys: Tensor
    residual: Tensor
    preserved: Tensor
    lam: float

    @property
    def moment(self) -> Tensor:
        return self.preserved @ self.preserved.T / self.preserved.shape[1]

    def objective(self, delta: Tensor) -> Tensor:
        """From its words, not its formula: squared error at the keys, and λ times the mean squared
        change at the preserved ones.
        """
        error = (delta @ self.keys - self.residual).pow(2).sum()
        return error + self.lam * (delta @ self.preserved).pow(2).sum(0).mean()

    def gradient(self, delta: Tensor) -> Tensor:
        at = delta.clone().requires_grad_()
        (found,) = torch.autograd.grad(self.objective(at), at)
        return found


@st.composite
def problems(draw) -> Problem:
    d, n, generator = (
        draw(st.integers(3, 20)),
        draw(st.integers(1, 25)),
        torch.Generator().manual_seed(draw(st.integers(0, 2**31))),
    )

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Problem(normal(d, n), normal(4, n), normal(d, 3 * d), 10 ** draw(st.floats(-3, 3)))


@random_problems
@given(problems())
def test_the_gradient_is_zero_at_the_solution_and_nowhere_near_it(problem: Problem):
    delta = spread_edit(problem.keys, problem.residual, problem.moment, problem.lam).delta
    scale = problem.gradient(torch.zeros_like(delta)).norm()
    assert problem.gradient(delta).norm() < 1e-10 * scale
    for perturbed in (
        1.01 * delta,
        spread_edit(problem.keys, problem.residual, problem.moment, 1.1 * problem.lam).delta,
    ):
        assert problem.gradient(perturbed).norm() > 1e-6 * scale
        assert problem.objective(perturbed) > problem.objective(delta)


@random_problems
@given(problems(), st.integers(1, 5))
def test_a_site_takes_an_equal_share_of_the_residual(problem: Problem, left: int):
    whole = spread_edit(problem.keys, problem.residual, problem.moment, problem.lam)
    share = spread_edit(problem.keys, problem.residual, problem.moment, problem.lam, left)
    assert relative(left * share.delta, whole.delta) < 1e-12
    assert share.rcond == whole.rcond and 0 < whole.rcond <= 1


def test_copies_of_a_key_are_root_m_times_it():
    generator = torch.Generator().manual_seed(0)
    keys, values, C0 = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((6, 3), (4, 3), (6, 30))
    )
    C0, times = C0 @ C0.T / 30, torch.tensor([1, 4, 2])
    every = spread_edit(
        keys.repeat_interleave(times, 1), values.repeat_interleave(times, 1), C0, 0.5
    )
    merged = spread_edit(keys * times.double().sqrt(), values * times.double().sqrt(), C0, 0.5)
    assert relative(merged.delta, every.delta) < 1e-12
    assert relative(spread_edit(keys, values, C0, 0.5).delta, every.delta) > 1e-3


def test_systems_that_cannot_be_solved_are_refused():
    keys, residual, C0 = torch.ones(4, 1).double(), torch.ones(2, 1).double(), torch.eye(4).double()
    assert spread_edit(keys, residual, C0, 1.0).delta.shape == (2, 4)
    for code, arguments in {
        "edit.lambda": (keys, residual, C0, 0.0),
        "edit.singular": (keys, residual, 0 * C0, 1.0),
        "edit.keys-not-finite": (keys, residual * torch.nan, C0, 1.0),
        "edit.moment-not-symmetric": (keys, residual, C0 + torch.ones(4, 4).triu(1), 1.0),
    }.items():
        with pytest.raises(EditError) as caught:
            spread_edit(*arguments)
        assert caught.value.code == code


# spreading over the blocks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("emcid") / "sd", torch.float32)
    return models.load(base.resolve(folder), device="cpu")


@dataclass(frozen=True)
class Posed:
    """All that the second stage needs, with values of our own."""

    sites: list
    pairs: object
    values: Tensor
    moments: dict[str, Moment]
    settings: emcid.EditSettings

    def wanted(self) -> Tensor:
        return self.values[:, self.pairs.movable]

    def solve(self, model) -> dict:
        deltas, _ = algorithm.spread(
            model, self.sites, self.pairs, self.values, self.moments, self.settings, Silent()
        )
        return {
            (site.component, site.parameter): site.module.weight.detach().double()
            + deltas[site.name]
            for site in self.sites
        }

    def outputs(self, model) -> Tensor:
        """Of the last site's block at the movable tokens, (m, n)."""
        return self.pairs.concepts.merge(
            algorithm.block_outputs(model, self.sites[-1], self.pairs.concepts.ids)
        )[:, self.pairs.movable]


def posed(model, **changes: str | float) -> Posed:
    read = from_text(**changes)
    chosen = emcid.Parameters.model_validate(read.parameters).edit
    sites = model.pick_sites(chosen.sites)
    pairs = algorithm.subject_pairs(model.tokenizer, read.edit_pairs(), chosen.positions)
    start = pairs.concepts.merge(algorithm.block_outputs(model, sites[-1], pairs.concepts.ids))
    noise = torch.randn(
        start.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    moments = preserve_moments(
        model, sites, read.preserve_prompts(), MomentCache(), Silent()
    ).by_site
    return Posed(sites, pairs, start + 0.3 * start.std() * noise, moments, chosen)


def lacking(setup: Posed, model, weights: dict) -> float:
    """What is left of the wanted change, relative to it."""
    before = setup.outputs(model)
    with model.weights(weights):
        after = setup.outputs(model)
    return float((after - setup.wanted()).norm() / (before - setup.wanted()).norm())


@pytest.mark.parametrize("blocks", ["[2]", "[1, 2]", "[0, 1, 2]"])
def test_the_last_block_puts_out_the_values_for_a_small_lambda(model, blocks: str):
    setup = posed(model, edit__sites=blocks, edit__lam=1e-7)
    weights = setup.solve(model)
    assert len(weights) == len(setup.sites)
    assert lacking(setup, model, weights) < 1e-3
    gentle = posed(model, edit__sites=blocks, edit__lam=1e4)
    assert lacking(gentle, model, gentle.solve(model)) > 0.5  # and a large λ holds it back
    if len(setup.sites) > 1:
        last = setup.sites[-1]
        weights.pop((last.component, last.parameter))
        assert (
            0.1 < lacking(setup, model, weights) < 1.0
        )  # the blocks before it have gone part of the way


def test_preserved_outputs_move_the_less_the_larger_lambda(model):
    """λC₀ is what protects them: with λ → 0 the same change costs them far more."""
    drifts, left = [], []
    for lam in (1e-6, 0.1, 10.0, 1e3):
        setup = posed(model, edit__lam=lam, edit__sites="[2]", edit__ridge=1e-4)
        weights = setup.solve(model)
        keys = model.keys(
            setup.sites, tokenise(model.tokenizer, from_text().preserve_prompts()).ids
        )[setup.sites[0].name]
        (weight,), W = weights.values(), setup.sites[0].module.weight.detach().double()
        drifts.append(float((keys @ (weight - W).T).norm() / (keys @ W.T).norm()))
        left.append(lacking(setup, model, weights))
    assert drifts == sorted(drifts, reverse=True) and drifts[0] > 2 * drifts[-1]
    assert left == sorted(left)  # and what it costs: less of the wanted change


def test_the_reports_drift_is_that_of_the_preserve_prompts(model):
    setup = posed(model)
    read = from_text()
    deltas, reports = algorithm.spread(
        model, setup.sites, setup.pairs, setup.values, setup.moments, setup.settings, Silent()
    )
    keys = model.keys(setup.sites, tokenise(model.tokenizer, read.preserve_prompts()).ids)
    for site, report in zip(setup.sites, reports, strict=True):
        K0, W = keys[site.name].flatten(0, 1).T, site.module.weight.detach().double()
        assert report.preserve_drift == pytest.approx(
            float((deltas[site.name] @ K0).norm() / (W @ K0).norm()), rel=1e-4
        )
        assert report.delta_rel == pytest.approx(float(deltas[site.name].norm() / W.norm()))


def test_a_later_block_is_solved_with_the_earlier_ones_edited(
    model, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    monkeypatch.setattr(
        "forgetcli.methods.emcid.edit.spread_edit",
        lambda *args: asked.append(args) or spread_edit(*args),
    )
    setup = posed(model, edit__lam=1e-4)
    weights = setup.solve(model)
    first, second = setup.sites
    ids, pick = setup.pairs.concepts, setup.pairs.movable
    root = ids.counts[pick].double().sqrt()

    def keys() -> Tensor:
        return ids.merge(model.keys([second], ids.ids)[second.name])[:, pick] * root

    unedited = keys()
    with model.weights(
        {(first.component, first.parameter): weights[first.component, first.parameter]}
    ):
        edited, residual = keys(), (setup.wanted() - setup.outputs(model)) * root
    assert [args[4] for args in asked] == [2, 1]
    assert relative(asked[1][0], edited) < 1e-6 and relative(asked[1][0], unedited) > 1e-4
    assert relative(asked[1][1], residual) < 1e-6


# which tokens


@pytest.mark.parametrize("positions", ["last", "from-last"])
def test_the_subjects_last_token_is_edited_and_padding_only_on_demand(model, positions: str):
    pairs = algorithm.subject_pairs(model.tokenizer, from_text().edit_pairs(), positions)
    rows = {prompt: row for row, prompt in enumerate(pairs.concepts.prompts)}
    gogh = {"van gogh": 2, "a painting by van gogh": 5, "van gogh by night": 2}
    assert set(rows) == set(gogh)
    for prompt, end in gogh.items():
        found = pairs.movable[pairs.concepts.owner[rows[prompt]]].nonzero().flatten().tolist()
        assert found == ([end] if positions == "last" else list(range(end, POSITIONS)))
    # "van gogh" and "van gogh by night" share the token: it is one column, counted twice
    assert pairs.movable.sum() == 2 if positions == "last" else pairs.movable.sum() > 2
    assert sorted(pairs.concepts.counts[pairs.movable].tolist())[-1] == 2


# the whole method


def edit(model, **changes: str | float) -> Edit:
    read = from_text(**changes)
    return methods.load_edit("emcid")(
        model,
        task_of(read, model.base, MomentCache()),
        emcid.Parameters.model_validate(read.parameters),
        Silent(),
    )


def test_values_are_found_only_for_the_subject_and_within_the_ball(model):
    read = from_text(refine__lr=5.0, refine__clamp=0.2, refine__steps=6)
    parameters = emcid.Parameters.model_validate(read.parameters)
    (site,) = model.pick_sites([2])
    pairs = algorithm.subject_pairs(model.tokenizer, read.edit_pairs(), "last")
    values, losses = algorithm.find_values(model, site, pairs, parameters.refine, 0, Silent())
    start = pairs.concepts.merge(algorithm.block_outputs(model, site, pairs.concepts.ids))
    moved = (values - start).norm(dim=0) / start.norm(dim=0)
    assert len(losses) == 6
    assert (moved[~pairs.movable] == 0).all() and (moved[pairs.movable] > 0.15).all()
    assert (moved < 0.2 + 1e-5).all()
    free, _ = algorithm.find_values(
        model, site, pairs, parameters.refine.model_copy(update={"clamp": 100.0}), 0, Silent()
    )
    assert ((free - start).norm(dim=0) / start.norm(dim=0)).max() > 0.3


def test_text_alignment_brings_the_summary_to_the_targets(model):
    """With the alignment loss alone; without it the summary comes less near."""
    read = from_text(refine__lr=0.3, refine__steps=20)
    chosen = emcid.Parameters.model_validate(read.parameters).refine
    (site,) = model.pick_sites([2])
    pairs = algorithm.subject_pairs(model.tokenizer, read.edit_pairs(), "last")
    start = pairs.concepts.merge(algorithm.block_outputs(model, site, pairs.concepts.ids))
    ends = [
        (ids == model.tokenizer.eos_token_id).int().argmax(1)
        for ids in (pairs.concepts.ids, pairs.targets.ids)
    ]
    rows = range(len(pairs.concepts.ids))

    @torch.no_grad()
    def distance(values: Tensor) -> float:
        owner, shift = pairs.concepts.owner, (values - start).float()
        handle = site.module.register_forward_hook(lambda _, args, out: out + shift.T[owner])
        found = model.encode(pairs.concepts.ids).hidden[rows, ends[0]]
        handle.remove()
        return float((found - model.encode(pairs.targets.ids).hidden[rows, ends[1]]).norm())

    aligned, _ = algorithm.find_values(
        model, site, pairs, chosen.model_copy(update={"align": 100.0}), 0, Silent()
    )
    without, _ = algorithm.find_values(
        model, site, pairs, chosen.model_copy(update={"align": 0.0}), 0, Silent()
    )
    assert distance(aligned) < 0.9 * distance(start)
    assert distance(aligned) < 0.95 * distance(without)


def test_the_same_seed_gives_the_same_bytes(model):
    first, again, other = edit(model, seed=3), edit(model, seed=3), edit(model, seed=4)
    assert first.cache == {"hits": 0, "misses": 2} and again.cache == {"hits": 2, "misses": 0}
    assert set(first.weights) == {
        ("text_encoder", site.parameter) for site in model.pick_sites([1, 2])
    }
    assert (
        first.losses == again.losses != other.losses
        and first.sites == again.sites
        and first.moments == again.moments
    )
    for key, weight in first.weights.items():
        assert (
            weight.dtype == torch.float64
            and weight.numpy().tobytes() == again.weights[key].numpy().tobytes()
        )
        assert not torch.equal(weight, other.weights[key])


def test_the_model_is_left_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.text_encoder.state_dict().items()}
    result = edit(model, edit__positions="from-last")
    after = model.text_encoder.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(
        not torch.equal(weight.float(), before[name])
        for (_, name), weight in result.weights.items()
    )
    assert not any(
        module._forward_hooks or module._forward_pre_hooks
        for module in model.text_encoder.modules()
    )
    assert not any(
        parameter.requires_grad
        for parameter in (*model.text_encoder.parameters(), *model.unet.parameters())
    )


def test_without_sites_it_is_the_four_blocks_before_the_last(model):
    assert [site.name for site in edit(model, edit__sites="[]").sites] == [
        site.name for site in model.pick_sites([0, 1, 2])
    ]
    blocks = emcid.Parameters().edit.blocks
    assert sorted(range(12))[:-1][-blocks:] == [7, 8, 9, 10]  # Stable Diffusion 1.4


def test_a_loss_that_is_no_number_stops_it(model):
    with pytest.raises(EditError) as caught:
        edit(model, refine__decay=1e39, refine__steps=3, refine__clamp=1e9)
    assert caught.value.code == "edit.diverged"


def test_settings_that_cannot_be_are_refused():
    for tables in (
        {"edit": {"lam": 0}},
        {"edit": {"positions": "all"}},
        {"refine": {"timesteps": [5, 5]}},
        {"refine": {"clamp": 0}},
    ):
        with pytest.raises(ValidationError):
            emcid.Parameters.model_validate(tables)
    assert emcid.Parameters.model_validate({"edit": {"sites": [3, 4]}}).edit.sites == (3, 4)


# the embedded model

DOG = """\
method = "emcid"

[[concepts]]
concept = "a dog"
target = "a cat"

[prompts]
templates = ["{}", "{} in neon style", "a picture of {}"]

[preserve]
prior_words = 200
prompts = ["a cat", "a rabbit", "a bird", "a car", "a fish in claude monet style", "van gogh", "pop art", "watercolour",
           "a turtle in neon style", "an apple", "a picture of a boat"]

[refine]
steps = 10
batch = 6
lr = 0.3
latent_steps = 5
"""  # noqa: E501


def test_the_embedded_model_draws_no_more_dogs(tmp_path: Path):
    forgetcli.apply(recipe.parse(DOG), output=tmp_path / "edited", strict=False, device="cpu")
    after = seen(base.resolve(tmp_path / "edited"), tmp_path / "after")
    assert seen_unedited().dogs >= 7 / 8 and after.dogs <= 1 / 8
