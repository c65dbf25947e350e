"""STEREO on a tiny real pipeline: what the stages ask for, that the second starts from the unedited
weights, and that the model is left alone. Budgets of a few steps: whether it withstands an attack
is measured in docs/robustness.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pipelines import tiny_sd
from pydantic import ValidationError
from torch import Tensor

from forgetcli import methods, models
from forgetcli.checkpoint import base as checkpoint
from forgetcli.editing import finetuning
from forgetcli.editing.edit import Edit
from forgetcli.editing.finetuning import encoded
from forgetcli.editing.task import Task
from forgetcli.errors import EditError
from forgetcli.methods import stereo
from forgetcli.methods.stereo import stages
from forgetcli.methods.stereo.subjects import Composition, NoisedImages, Subjects
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Silent

DOG = (("a dog", "a cat"), ("a picture of a dog", "a picture of a cat"))
HOUSE = (("a house", "a night"),)
SMALL = {
    "train": {"batch": 2},
    "search": {"steps": 3, "budget": 3, "budget_batch": 2, "images": 2, "lr": 0.01},
    "erase": {"steps": 3, "lr": 0.001},
    "sample": {"steps": 3},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("stereo") / "sd", torch.float32)
    return models.load(checkpoint.resolve(folder), device="cpu")


def parameters(**tables: dict) -> stereo.Parameters:
    return stereo.Parameters.model_validate(
        {name: {**SMALL[name], **tables.get(name, {})} for name in SMALL}
    )


def edit(model, *, seed=0, observer=None, concepts=(DOG,), **tables: dict) -> Edit:
    task = Task(sum(concepts, ()), preserve=("", "a cat"), seed=seed, concepts=concepts)
    return methods.load_edit("stereo")(model, task, parameters(**tables), observer or Silent())


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@torch.no_grad()
def predict(model, noisy: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
    return model.denoise(noisy, t, model.encode(tokenise(model.tokenizer, prompts).ids))


@pytest.fixture(scope="module")
def noisy(model) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, *model.latent_shape, generator=generator)
    return x, torch.tensor([900, 500, 100])


# what is asked for


def composition(model, attract: float, repel: float) -> Composition:
    """Two concepts; "house" and "gogh" stand for words that were found."""
    subjects = Subjects.of(model, (DOG, HOUSE), "target")
    negatives = tuple(
        encoded(model, list(prompts)) for prompts in (("a dog", "sketch"), ("a house", "gogh"))
    )
    return Composition(
        model,
        subjects.contexts,
        subjects.anchors,
        model.unconditional(),
        repel,
        attract,
        negatives,
        subjects.owner,
    )


@pytest.mark.parametrize(("attract", "repel"), [(1.0, 3.0), (0.5, 1.0), (1.0, 0.0)])
def test_the_composition_is_that_of_the_published_code(model, noisy, attract, repel) -> None:
    """ε(∅) + (s − 1)(ε(anchor) − ε(∅)) + mean over k of (−s − 1)(ε(c_k) − ε(∅)) with a scale s of
    2: weights of 1 and −3. Each row has the words of its own concept.
    """
    x, t = noisy
    found = composition(model, attract, repel).wanted(x, t, torch.tensor([0, 2, 1]))
    empty = predict(model, x, t, [""] * 3)
    anchor = predict(model, x, t, ["a cat", "a night", "a picture of a cat"])
    named = predict(model, x, t, ["a dog", "a house", "a dog"])
    word = predict(model, x, t, ["sketch", "gogh", "sketch"])
    mean = (named + word) / 2
    wanted = empty + attract * (anchor - empty) - repel * (mean - empty)
    assert relative(found, wanted) < 1e-5
    swapped = predict(model, x, t, ["gogh", "sketch", "gogh"])
    other = wanted - repel * (swapped - word) / 2
    assert repel == 0 or relative(found, other) > 1e-4


def test_anchors_are_targets_or_concepts(model) -> None:
    for anchor, prompts in (
        ("target", ["a cat", "a picture of a cat", "a night"]),
        ("concept", ["a dog", "a picture of a dog", "a house"]),
    ):
        found = Subjects.of(model, (DOG, HOUSE), anchor)
        assert torch.equal(found.anchors.hidden, encoded(model, prompts).hidden)
        assert found.owner.tolist() == [0, 0, 1]


def test_words_take_the_place_of_their_own_concept(model) -> None:
    subjects = Subjects.of(model, (DOG, HOUSE), "target")
    words = [encoded(model, ["sketch", "a sketch"]), encoded(model, ["gogh", "a gogh"])]
    named = subjects.named(words)
    wanted = encoded(model, ["sketch", "a sketch", "gogh"])
    assert torch.equal(named.contexts.hidden, wanted.hidden)
    assert torch.equal(named.anchors.hidden, subjects.anchors.hidden)
    both = Subjects.cat([subjects, named])
    assert both.owner.tolist() == [0, 0, 1, 0, 0, 1] and len(both.anchors.hidden) == 6


def test_images_are_those_of_the_rows_concept(model) -> None:
    """Latents of 0 and of 100: noise does not hide which they were, except at the last times."""
    shape = (2, *model.latent_shape)
    images = NoisedImages(
        model, [torch.zeros(shape), torch.full(shape, 100.0)], torch.tensor([0, 0, 1])
    )
    teacher = composition(model, 1.0, 1.0)
    rows, generator = torch.tensor([0, 1, 2] * 8), torch.Generator().manual_seed(0)
    x, t, wanted = images.sample(rows, teacher, generator)
    means = x.mean((1, 2, 3))
    assert len(t.unique()) > 12
    early = t < 600
    assert (means[early & (rows == 2)] > 20).all() and (means[rows < 2].abs() < 2).all()
    assert relative(wanted, teacher.wanted(x, t, rows)) < 1e-5


# the stages


def test_rounds_go_on_from_one_another_and_the_last_stage_does_not(
    model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each teacher is the denoiser at its stage's start: unedited, after round 1, unedited."""
    name = finetuning.trainable(model.unet, "esd-x")[0]
    before = model.unet.get_parameter(name).clone()
    seen: list[Tensor] = []

    def noted(teacher):
        def make(*arguments):
            seen.append(model.unet.get_parameter(name).clone())
            return teacher(*arguments)

        return make

    monkeypatch.setattr(stages, "Teacher", noted(stages.Teacher))
    monkeypatch.setattr(stages, "Composition", noted(stages.Composition))
    result = edit(model)
    first, second, last = seen
    assert torch.equal(first, before) and torch.equal(last, before)
    assert relative(second, before) > 1e-3
    assert torch.equal(model.unet.get_parameter(name), before)
    # Three steps of Adam at 0.001, far less than those of the search at 0.01.
    change = (result.weights["unet", name] - before.double()).abs().max()
    assert 0 < float(change) < 0.0031


def test_each_round_erases_what_the_last_one_found(model, monkeypatch: pytest.MonkeyPatch) -> None:
    erased: list[Tensor] = []
    found: list[Tensor] = []
    made, learned = stages.Teacher, stages.encoded

    def teacher(model, concepts, *rest):
        erased.append(concepts.hidden)
        return made(model, concepts, *rest)

    def contexts(model, prompts):
        result = learned(model, prompts)
        if len(prompts) == 4:  # a word in the prompts of the inversion
            found.append(result.hidden)
        return result

    monkeypatch.setattr(stages, "Teacher", teacher)
    monkeypatch.setattr(stages, "encoded", contexts)
    result = edit(model)
    own = learned(model, [concept for concept, _ in DOG]).hidden
    assert len(erased) == len(found) == 2
    assert torch.equal(erased[0], own) and torch.equal(erased[1], found[0][:2])
    assert not torch.equal(found[0], found[1])
    assert len(result.losses) == 2 * 3 + 3
    assert [(attack["round"], attack["concept"]) for attack in result.attacks] == [
        (1, "a dog"),
        (2, "a dog"),
    ]
    assert result.attacks[0]["drift"] > 0


def test_every_concept_is_attacked(model) -> None:
    result = edit(model, concepts=(DOG, HOUSE), search={"rounds": 1})
    assert [attack["concept"] for attack in result.attacks] == ["a dog", "a house"]


@pytest.mark.parametrize("train_method", ["esd-x-strict", "esd-u"])
def test_the_trained_layers_change_and_no_other(model, train_method: str) -> None:
    result = edit(model, train={"train_method": train_method}, search={"rounds": 1})
    names = finetuning.trainable(model.unet, train_method)
    assert list(result.weights) == [("unet", name) for name in names]
    assert all(site.delta_rel > 0 for site in result.sites)


def test_runs_of_the_model_as_trained_so_far(model) -> None:
    """The published images; an empty target is the empty prompt."""
    concepts = ((("a dog", ""),),)
    result = edit(model, concepts=concepts, sample={"model": "edited"}, search={"rounds": 1})
    plain = edit(model, concepts=concepts, search={"rounds": 1})
    assert result.losses != plain.losses and len(result.losses) == 6


# what must hold


class Interrupting(Silent):
    """Ctrl-C in the midst of an inversion."""

    def __init__(self) -> None:
        self.inverting = False

    def stage(self, name: str, total: int | None = None) -> None:
        self.inverting = name == "inversion"

    def advance(self, steps: int = 1, **figures: float) -> None:
        if self.inverting:
            raise KeyboardInterrupt


def test_the_model_is_left_as_it_was_and_the_seed_decides(model) -> None:
    networks = (model.unet, model.text_encoder)
    before = [{name: p.clone() for name, p in net.state_dict().items()} for net in networks]
    with pytest.raises(KeyboardInterrupt):
        edit(model, observer=Interrupting())
    once = {"search": {"rounds": 1}}
    first, again, other = (edit(model, seed=seed, **once) for seed in (0, 0, 1))
    assert first.losses == again.losses != other.losses
    assert all(torch.equal(W, again.weights[key]) for key, W in first.weights.items())
    for net, held in zip(networks, before, strict=True):
        after = net.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in held.items())


def test_a_loss_that_is_no_number_stops_it(model) -> None:
    with pytest.raises(EditError) as caught:
        edit(model, search={"lr": 1e30})
    assert caught.value.code == "edit.diverged" and "lr" in caught.value.hint


def test_the_preset_is_the_published_code_s(tmp_path: Path) -> None:
    read = stereo.Parameters.model_validate({"train": {"preset": "authors"}})
    assert (read.search.rounds, read.search.steps, read.erase.steps) == (4, 200, 200)
    assert (read.search.lr, read.erase.lr, read.search.budget) == (5e-6, 2e-5, 3000)
    assert (read.search.eta, read.erase.attract, read.erase.repel) == (1.0, 1.0, 3.0)
    assert (read.sample.model, read.sample.steps, read.sample.guidance) == ("edited", 50, 3.0)
    assert read.train.batch == read.search.budget_batch == 1
    tables = {"train": {"preset": "authors"}, "search": {"rounds": 2}}
    assert stereo.Parameters.model_validate(tables).search.rounds == 2
    for table in ({"search": {"rounds": 0}}, {"erase": {"repel": -1}}, {"train": {"steps": 3}}):
        with pytest.raises(ValidationError):
            stereo.Parameters.model_validate(table)
