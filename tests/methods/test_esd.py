"""ESD on a tiny real pipeline: the teacher's formula, which parameters are trained, and that the
model is left alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from concept_pictures import seen, seen_unedited
from pipelines import tiny_sd
from pydantic import ValidationError
from torch import Tensor

import forgetcli
from forgetcli import methods, models, recipe
from forgetcli.checkpoint import base as checkpoint
from forgetcli.editing import finetuning
from forgetcli.editing.edit import Edit
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.errors import EditError
from forgetcli.methods import esd
from forgetcli.models.tokens import tokenise
from forgetcli.models.trajectories import noisy_bank
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent
from forgetcli.storage.safetensors import read_header

RECIPE = """\
method = "esd"

[[concepts]]
concept = "van gogh"
target = "monet"

[prompts]
templates = ["{}", "a painting by {}"]

[train]
eta = 0.0
steps = 3
batch = 2
lr = 0.001

[sample]
steps = 3
"""
PAIRS = [("van gogh", "monet"), ("a painting by van gogh", "a painting by monet")]
METHODS = ("esd-x", "esd-x-strict", "esd-u")


def from_text(**changes: str | float) -> recipe.Recipe:
    return recipe.parse(
        RECIPE, overrides=[f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("esd") / "sd", torch.float32)


@pytest.fixture(scope="module")
def model(folder: Path):
    return models.load(checkpoint.resolve(folder), device="cpu")


def edit(model, observer=None, **changes: str | float) -> Edit:
    read = from_text(**changes)
    return methods.load_edit("esd")(
        model,
        task_of(read, model.base, MomentCache()),
        esd.Parameters.model_validate(read.parameters),
        observer or Silent(),
    )


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.fixture(scope="module")
def pictures(model) -> tuple[Tensor, Tensor]:
    """x_t of both concept prompts, that no training saw, and their t."""
    generator = torch.Generator().manual_seed(99)
    bank = noisy_bank(
        model,
        [c for c, _ in PAIRS] * 4,
        steps=4,
        guidance=3.0,
        generator=generator,
        observer=Silent(),
    )
    return bank.sample(torch.arange(8), (0, 1000), generator)


@torch.no_grad()
def predict(model, pictures: tuple[Tensor, Tensor], prompts: list[str]) -> Tensor:
    return model.denoise(*pictures, model.encode(tokenise(model.tokenizer, prompts).ids)).double()


# what is asked for


@pytest.mark.parametrize("erase_from", ["target", "concept"])
@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_the_teacher_is_the_anchor_less_eta_times_the_guidance(
    model, pictures, erase_from: str, eta: float
):
    rows = torch.tensor([0, 1] * 4)
    found = finetuning.Teacher.of(model, PAIRS, erase_from, eta).wanted(*pictures, rows).double()
    concept, target = (predict(model, pictures, [PAIRS[row][k] for row in rows]) for k in (0, 1))
    empty = predict(model, pictures, [""] * 8)
    anchor = target if erase_from == "target" else concept
    assert relative(found, anchor - eta * (concept - empty)) < 1e-5
    assert relative(found, anchor - (eta + 0.2) * (concept - empty)) > 1e-4


def test_the_papers_equation_is_the_concept_as_its_own_anchor_with_eta_one_more(model, pictures):
    rows = torch.tensor([0, 1] * 4)
    concept, empty = (
        predict(model, pictures, [PAIRS[row][0] for row in rows]),
        predict(model, pictures, [""] * 8),
    )
    paper = empty - 1.0 * (concept - empty)
    assert (
        relative(
            finetuning.Teacher.of(model, PAIRS, "concept", 2.0).wanted(*pictures, rows).double(),
            paper,
        )
        < 1e-5
    )
    assert (
        relative(
            finetuning.Teacher.of(model, PAIRS, "concept", 1.0).wanted(*pictures, rows).double(),
            paper,
        )
        > 1e-4
    )


def test_the_prediction_for_the_concept_moves_to_the_targets(model, pictures):
    result = edit(model, train__steps=40, train__lr=4e-4, train__batch=4)
    rows = [0, 1] * 4
    concepts, targets = [PAIRS[row][0] for row in rows], [PAIRS[row][1] for row in rows]
    wanted, before = predict(model, pictures, targets), predict(model, pictures, concepts)
    with model.weights(result.weights):
        after = predict(model, pictures, concepts)
    assert relative(after, wanted) < 0.5 * relative(before, wanted)
    assert sum(result.losses[-10:]) < 0.25 * sum(result.losses[:10])
    with model.weights(
        {
            key: 2 * model.unet.get_parameter(key[1]).double() - W
            for key, W in result.weights.items()
        }
    ):
        opposite = predict(
            model, pictures, concepts
        )  # the same change the other way: it was no accident
    assert relative(opposite, wanted) > relative(before, wanted)


def test_what_the_base_models_pictures_are_asked_is_what_the_teacher_says(model):
    """Answers are kept, and each stays its own picture's."""
    settings = esd.Parameters.model_validate(from_text().parameters).sample
    teacher = finetuning.Teacher.of(model, PAIRS, "target", 1.0)
    generator = torch.Generator().manual_seed(0)
    base = finetuning.BaseImages.of(model, [c for c, _ in PAIRS], settings, generator, Silent())
    rows = torch.tensor([0, 1, 1, 0, 1])
    for _ in range(4):  # of 6 pictures: most are drawn again
        noisy, t, wanted = base.sample(rows, teacher, generator)
        assert relative(wanted, teacher.wanted(noisy, t, rows)) < 1e-5
        assert relative(wanted, teacher.wanted(noisy, t, 1 - rows)) > 1e-4
    assert base.known.float().mean() > 0.8


def test_the_edited_models_pictures_are_its_own(model):
    """Run to the same step from the same noise, a changed student comes out elsewhere; an unchanged
    one is the base model.
    """
    settings = esd.Parameters.model_validate(from_text(sample__steps=6).parameters).sample
    teacher, rows = finetuning.Teacher.of(model, PAIRS, "target", 0.0), torch.tensor([0, 1])

    def drawn(change: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        student = finetuning.Student(model, finetuning.trainable(model.unet, "esd-x"))
        for tensor in student.changes.values():
            tensor.data += change
        return finetuning.FreshImages(student.predict, settings).sample(
            rows, teacher, torch.Generator().manual_seed(seed)
        )

    plain = [drawn(0.0, seed) for seed in range(8)]
    assert len({int(t[0]) for _, t, _ in plain}) > 2  # left at a random time
    late = min(range(8), key=lambda seed: int(plain[seed][1][0]))
    x, t, wanted = plain[late]
    assert relative(wanted, teacher.wanted(x, t, rows)) == 0
    moved, again, _ = drawn(0.05, late)
    assert torch.equal(again, t) and relative(moved, x) > 1e-3
    assert torch.equal(drawn(0.0, late)[0], x)


# what is trained


def test_the_trained_parameters_are_the_published_set(model):
    """Spelt out for this network: all that is linear or a convolution, on this or that side of the
    cross-attention.
    """
    parameters = dict(model.unet.named_parameters())
    cross = {name for name in parameters if ".attn2." in name}
    norms = {
        name
        for name in parameters
        if "norm" in name.split(".")[-2] or name.startswith("conv_norm_out")
    }
    found = {method: finetuning.trainable(model.unet, method) for method in METHODS}
    assert set(found["esd-x"]) == cross and not cross & norms
    assert set(found["esd-x-strict"]) == {
        name for name in cross if name.endswith((".to_k.weight", ".to_v.weight"))
    }
    assert set(found["esd-u"]) == set(parameters) - cross - norms
    assert {"time_embedding.linear_1.weight", "conv_in.bias", "conv_out.weight"} <= set(
        found["esd-u"]
    )
    assert all(len(names) == len(set(names)) > 0 for names in found.values())


@pytest.mark.parametrize("method", METHODS)
def test_every_trained_parameter_changes_and_no_other(model, method: str):
    result = edit(model, train__train_method=method, train__eta=1)
    names = finetuning.trainable(model.unet, method)
    assert list(result.weights) == [("unet", name) for name in names]
    assert [site.name for site in result.sites] == [name.removesuffix(".weight") for name in names]
    own = dict(model.unet.named_parameters())
    for (_, name), weight in result.weights.items():
        assert weight.dtype == torch.float64 and weight.shape == own[name].shape
        assert not torch.equal(weight.float(), own[name])
    for site, name in zip(result.sites, names, strict=True):
        W, change = own[name].double(), result.weights["unet", name] - own[name].double()
        if W.norm() > 0:
            assert site.delta_rel == pytest.approx(float(change.norm() / W.norm()))


def test_strict_leaves_everything_else_byte_identical(folder: Path, tmp_path: Path):
    read = from_text(train__train_method="esd-x-strict", train__lr=0.01)
    forgetcli.apply(read, model=str(folder), output=tmp_path / "edited", strict=False, device="cpu")
    file = "unet/diffusion_pytorch_model.safetensors"
    header = read_header(folder, file)
    base, edited = (folder / file).read_bytes(), (tmp_path / "edited" / file).read_bytes()
    assert len(base) == len(edited)
    changed = {
        site.key
        for site in header.values()
        if base[site.start : site.end] != edited[site.start : site.end]
    }
    assert changed and all(
        key.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")) for key in changed
    )
    for site in header.values():
        if site.key in changed:
            edited = edited[: site.start] + base[site.start : site.end] + edited[site.end :]
    assert edited == base
    for path in folder.rglob("*.safetensors"):
        if path.name != Path(file).name or path.parent.name != "unet":
            assert (
                path.read_bytes() == (tmp_path / "edited" / path.relative_to(folder)).read_bytes()
            )
    report = json.loads((tmp_path / "edited" / "forget.report.json").read_text())
    assert len(report["losses"]) == 3 and len(report["sites"]) == len(changed)


# what must hold


@pytest.mark.parametrize("sampler", ["base", "edited"])
def test_the_same_seed_gives_the_same_bytes(model, sampler: str):
    first, again, other = (edit(model, sample__model=sampler, seed=seed) for seed in (3, 3, 4))
    assert first.losses == again.losses != other.losses and len(first.losses) == 3
    for key, weight in first.weights.items():
        assert weight.numpy().tobytes() == again.weights[key].numpy().tobytes()
    assert any(not torch.equal(weight, other.weights[key]) for key, weight in first.weights.items())


class Interrupting(Silent):
    """Ctrl-C at the second step."""

    def __init__(self) -> None:
        self.steps = 0

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.steps += "loss" in figures
        if self.steps == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_model_is_left_as_it_was(model, interrupted: bool):
    before = {name: (id(p), p.clone()) for name, p in model.unet.named_parameters()}
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            edit(model, Interrupting(), train__train_method="esd-u", sample__model="edited")
    else:
        edit(model, train__train_method="esd-u", sample__model="edited")
    after = dict(model.unet.named_parameters())
    assert list(after) == list(before)
    for name, parameter in after.items():
        assert id(parameter) == before[name][0] and torch.equal(parameter, before[name][1])
        assert not parameter.requires_grad and parameter.grad is None
    assert not model.unet.training


def test_an_interruption_within_a_prediction_restores_the_weights(model):
    student = finetuning.Student(model, finetuning.trainable(model.unet, "esd-x"))
    for change in student.changes.values():
        change.data += 1
    weight = model.unet.get_parameter(next(iter(student.changes)))
    seen = []

    def interrupt(module, _):
        seen.append(next(iter(module.parameters())).clone())
        raise KeyboardInterrupt

    name = next(iter(student.changes)).rpartition(".")[0]
    handle = model.unet.get_submodule(name).register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            student.predict(
                torch.zeros(1, *model.latent_shape),
                torch.tensor([500]),
                model.encode(tokenise(model.tokenizer, [""]).ids),
            )
    finally:
        handle.remove()
    assert torch.equal(model.unet.get_parameter(next(iter(student.changes))), weight)
    assert torch.allclose(seen[0], weight + 1)  # the changed one was in place when it happened


def test_a_loss_that_is_no_number_stops_it(model):
    with pytest.raises(EditError) as caught:
        edit(model, train__lr=1e30, train__steps=8)
    assert caught.value.code == "edit.diverged" and "lr" in caught.value.hint
    assert all(torch.isfinite(p).all() for p in model.unet.parameters())


def test_settings_that_cannot_be_are_refused():
    for table in (
        {"lr": 0},
        {"eta": -1},
        {"train_method": "esd-y"},
        {"erase_from": "nothing"},
        {"step": 1},
    ):
        with pytest.raises(ValidationError):
            esd.Parameters.model_validate({"train": table})
    assert (
        esd.Parameters.model_validate(
            {"train": {"eta": 0}, "sample": {"model": "edited"}}
        ).sample.model
        == "edited"
    )
    with pytest.raises(ValidationError):
        esd.Parameters.model_validate({"sample": {"guidance": 0.5}})


# the embedded model

DOG = """\
method = "esd"

[[concepts]]
concept = "a dog"
target = "a cat"

[prompts]
templates = ["{}", "{} in neon style"]

[train]
steps = 12
batch = 4
lr = 0.001

[sample]
steps = 5
"""


def test_the_embedded_model_draws_no_more_dogs(tmp_path: Path):
    forgetcli.apply(recipe.parse(DOG), output=tmp_path / "edited", strict=False, device="cpu")
    after = seen(checkpoint.resolve(tmp_path / "edited"), tmp_path / "after")
    assert seen_unedited().dogs >= 7 / 8 and after.dogs <= 1 / 8
