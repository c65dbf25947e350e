"""HiRM on a tiny real pipeline: its loss against a finite difference and the printed formula, which
weights are trained, and that the model is left alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from concept_pictures import erase
from pipelines import POSITIONS, tiny_sd, tiny_sdxl
from pydantic import ValidationError
from torch import Tensor

import forgetcli
from forgetcli import export, methods, models, recipe
from forgetcli.checkpoint import base as checkpoint
from forgetcli.editing.edit import Edit
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.pairs import Pairs
from forgetcli.editing.task import Task
from forgetcli.errors import EditError
from forgetcli.methods import hirm
from forgetcli.methods.hirm.edit import Misdirection, Reader
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent
from forgetcli.storage.safetensors import read_header

RECIPE = """\
method = "hirm"

[[concepts]]
concept = "van gogh"
target = "monet"

[prompts]
templates = ["{}", "a painting by {}"]

[train]
steps = 4
lr = 0.001
"""
PAIRS = (("van gogh", "monet"), ("a painting by van gogh", "a painting by monet"))
ATTENTION = {f"self_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
MLP = {f"mlp.{name}.weight" for name in ("fc1", "fc2")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("hirm") / "sd", torch.float32)


@pytest.fixture(scope="module")
def model(folder: Path):
    return models.load(checkpoint.resolve(folder), device="cpu")


def from_text(*overrides: str) -> recipe.Recipe:
    return recipe.parse(RECIPE, overrides=overrides)


def edit(model, *overrides: str, observer=None) -> Edit:
    read = from_text(*overrides)
    return methods.load_edit("hirm")(
        model,
        task_of(read, model.base, MomentCache()),
        hirm.Parameters.model_validate(read.parameters),
        observer or Silent(),
    )


def posed(model, **settings) -> Misdirection:
    """The training of PAIRS, not begun."""
    read = hirm.TrainSettings.model_validate(settings)
    pairs = Pairs.of(model.tokenizer, PAIRS, read.positions)
    reader = Reader(model, model.encoders[0], read.weights)
    return Misdirection(reader, pairs, read, seed=3)


def last_block(model, prompt: str) -> Tensor:
    """What the last block puts out, by transformers alone: (length, d)."""
    ids = model.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        return model.text_encoder(ids, output_hidden_states=True).hidden_states[-1][0]


# the loss


@pytest.mark.parametrize("positions", ["all", "from-concept"])
@pytest.mark.parametrize("coefficient", [1.0, 0.5])
def test_the_loss_is_the_printed_one(model, positions: str, coefficient: float) -> None:
    """1/T Σ ‖h − c·s‖², over all positions or from the first one on that differs."""
    training = posed(model, positions=positions, coefficient=coefficient)
    wanted, others, count = 0.0, 0.0, 0
    for (concept, target), start in zip(PAIRS, (1, 4), strict=True):
        h, s = last_block(model, concept), last_block(model, target)
        first = 0 if positions == "all" else start
        wanted += float((h - coefficient * s)[first:].square().sum())
        others += float((h - 2 * coefficient * s)[first:].square().sum())
        count += POSITIONS - first
    found = float(training.loss(torch.tensor([0, 1])).detach())
    assert found == pytest.approx(wanted / count, rel=1e-5)
    assert found != pytest.approx(others / count, rel=1e-2)


def test_random_directions_are_unit_vectors_of_the_seed(model) -> None:
    goals = posed(model, direction="random", coefficient=500.0).goals
    assert goals.shape == (1, POSITIONS, len(last_block(model, "dog").T))
    assert goals.norm(dim=-1) == pytest.approx(500.0)
    cosines = goals[0] @ goals[0].T / 500.0**2
    assert float((cosines - torch.eye(POSITIONS)).abs().max()) < 0.9  # each position has its own
    assert torch.equal(goals, posed(model, direction="random", coefficient=500.0).goals)


def test_the_gradient_is_that_of_a_finite_difference(model) -> None:
    training, rows = posed(model), torch.tensor([0, 1])
    generator = torch.Generator().manual_seed(0)
    changes = training.student.changes
    steps = {
        name: torch.randn(change.shape, generator=generator) for name, change in changes.items()
    }
    slopes = torch.autograd.grad(training.loss(rows), list(changes.values()))
    wanted = sum(float((slope * step).sum()) for slope, step in zip(slopes, steps.values()))

    def at(distance: float) -> float:
        with torch.no_grad():
            for name, change in changes.items():
                change.copy_(distance * steps[name])
            return float(training.loss(rows))

    width = 1e-3
    found = (at(width) - at(-width)) / (2 * width)
    assert found == pytest.approx(wanted, rel=2e-2)
    assert abs((at(width) - at(0.0)) / width) > 0.1 * abs(wanted)
    assert found != pytest.approx(-wanted, rel=0.5)


def test_the_first_step_is_that_of_adam_by_hand(model) -> None:
    """Adam's first step is −lr · g / (|g| + 1e-8) for every number, whatever its size."""
    training = posed(model)
    names = list(training.student.changes)
    slopes = torch.autograd.grad(training.loss(torch.arange(2)), training.student.changes.values())
    result = edit(model, "train.steps=1", "train.lr=0.01")
    for name, slope in zip(names, slopes, strict=True):
        before = model.text_encoder.get_parameter(name).double()
        change = result.weights["text_encoder", name] - before
        expected = -0.01 * slope / (slope.abs() + 1e-8)
        clear = slope.abs() > 1e-5
        assert torch.allclose(change.float()[clear], expected[clear], rtol=2e-2)
    assert result.losses[0] == pytest.approx(
        float(training.loss(torch.arange(2)).detach()), rel=1e-5
    )


def test_the_representation_moves_to_the_targets(model) -> None:
    result = edit(model, "train.steps=120", "train.lr=0.003")
    before = [last_block(model, concept) for concept, _ in PAIRS]
    goals = [last_block(model, target) for _, target in PAIRS]
    with model.weights(result.weights):
        after = [last_block(model, concept) for concept, _ in PAIRS]
    for b, a, goal in zip(before, after, goals, strict=True):
        assert float((a - goal).norm()) < 0.6 * float((b - goal).norm())
    assert result.losses[-1] < 0.3 * result.losses[0]
    # What both prompts begin with has the target's representation as its goal: it is held.
    random = edit(model, "train.steps=120", "train.lr=0.003", "train.direction=random")
    moved = []
    for done in (result, random):
        with model.weights(done.weights):
            moved.append(float((last_block(model, "dog")[0] - goals[0][0]).norm()))
    assert moved[0] < 0.5 * moved[1]


# what is trained


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [("block", ATTENTION | MLP), ("attention", ATTENTION), ("mlp", MLP)],
)
def test_these_weights_change_and_no_other(model, weights: str, wanted: set[str]) -> None:
    result = edit(model, f"train.weights={weights}")
    block = model.sites[0].parameter.removesuffix("mlp.fc2.weight")
    assert set(result.weights) == {("text_encoder", block + name) for name in wanted}
    for (_, name), W in result.weights.items():
        assert W.dtype == torch.float64
        assert not torch.equal(W.float(), model.text_encoder.get_parameter(name))
    assert all(site.delta_rel > 0 for site in result.sites)


def test_every_clip_encoder_is_trained_at_what_the_denoiser_reads(tmp_path: Path) -> None:
    model = models.load(checkpoint.resolve(tiny_sdxl(tmp_path / "sdxl")), device="cpu")
    parameters = hirm.Parameters.model_validate({"train": {"steps": 2}})
    result = methods.load_edit("hirm")(model, Task(PAIRS), parameters, Silent())
    assert {component for component, _ in result.weights} == {"text_encoder", "text_encoder_2"}
    assert {site.name.split(".")[0] for site in result.sites} == {"text_encoder", "text_encoder_2"}
    for encoder in model.encoders:
        reader = Reader(model, encoder, "block")
        blocks = len(model.sites_of(encoder))
        assert reader.last is reader.network.get_submodule(
            reader.names[0].partition("layers.")[0] + f"layers.{blocks - 1}"
        )
    assert len(result.losses) == 2


# what must hold


class Interrupting(Silent):
    """Ctrl-C at the second step."""

    def __init__(self) -> None:
        self.steps = 0

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.steps += "loss" in figures
        if self.steps == 2:
            raise KeyboardInterrupt


def test_the_model_is_left_as_it_was(model) -> None:
    before = {name: tensor.clone() for name, tensor in model.text_encoder.state_dict().items()}
    hooks = [len(layer._forward_hooks) for layer in model.text_encoder.modules()]
    with pytest.raises(KeyboardInterrupt):
        edit(model, observer=Interrupting())
    first, again, other = edit(model), edit(model), edit(model, "train.direction=random", "seed=1")
    assert all(torch.equal(W, again.weights[key]) for key, W in first.weights.items())
    assert any(not torch.equal(W, other.weights[key]) for key, W in first.weights.items())
    after = model.text_encoder.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert hooks == [len(layer._forward_hooks) for layer in model.text_encoder.modules()]


def test_a_loss_that_is_no_number_stops_it(model) -> None:
    with pytest.raises(EditError) as caught:
        edit(model, "train.lr=1e30", "train.steps=8")
    assert caught.value.code == "edit.diverged" and "lr" in caught.value.hint


def test_a_model_without_clip_is_refused(model) -> None:
    class Without:
        encoders = ()
        base = model.base

    with pytest.raises(EditError) as caught:
        methods.load_edit("hirm")(Without(), Task(PAIRS), hirm.Parameters(), Silent())
    assert caught.value.code == "edit.no-such-encoder" and "dp" in caught.value.hint


def test_the_presets_are_the_published_values() -> None:
    def train(name: str) -> hirm.TrainSettings:
        return hirm.Parameters.model_validate({"train": {"preset": name}}).train

    semantic, random = train("authors"), train("authors-random")
    assert (semantic.direction, semantic.coefficient, semantic.steps) == ("semantic", 1.0, 15)
    assert (random.direction, random.coefficient, random.steps) == ("random", 500.0, 25)
    assert semantic.lr == random.lr == 5e-5 != train("default").lr
    assert semantic.positions == random.positions == "all"
    own = {"train": {"preset": "authors-random", "steps": 40}}
    assert hirm.Parameters.model_validate(own).train.steps == 40
    for bad in ({"lr": 0}, {"coefficient": 0}, {"direction": "up"}, {"weights": "all"}, {"eta": 1}):
        with pytest.raises(ValidationError):
            hirm.Parameters.model_validate({"train": bad})


def test_an_edited_folder_is_patched_and_exports_as_a_lora(folder: Path, tmp_path: Path) -> None:
    """diffusers, with the LoRA on the base model, has the edited model's weights."""
    pytest.importorskip("peft")
    from diffusers import StableDiffusionPipeline

    edited = tmp_path / "edited"
    forgetcli.apply(from_text(), model=str(folder), output=edited, strict=False, device="cpu")
    changed = set()
    for path in sorted(folder.rglob("*.safetensors")):
        name = str(path.relative_to(folder))
        old, new = path.read_bytes(), (edited / name).read_bytes()
        for entry in read_header(folder, name).values():
            if old[entry.start : entry.end] != new[entry.start : entry.end]:
                changed.add(entry.key)
    prefix = "text_model.encoder.layers.0."
    assert changed == {prefix + name for name in ATTENTION | MLP}
    report = json.loads((edited / "forget.report.json").read_text())
    assert len(report["sites"]) == 6 and len(report["losses"]) == 4

    file = tmp_path / "lora.safetensors"
    export.export(edited, "lora", output=file, options={"error": 1e-5})
    old, new = (
        StableDiffusionPipeline.from_pretrained(path).text_encoder.state_dict()
        for path in (folder, edited)
    )
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.load_lora_weights(file)
    pipe.fuse_lora(components=["text_encoder"])
    merged = {
        name.replace(".base_layer", ""): value
        for name, value in pipe.text_encoder.state_dict().items()
        if "lora_" not in name
    }
    moved = [name for name in new if not torch.equal(new[name], old[name])]
    assert len(moved) == 6
    for name in moved:
        size = float((new[name] - old[name]).norm())
        assert float((merged[name] - new[name]).norm()) < 1e-3 * size


def test_the_embedded_model_forgets(tmp_path: Path) -> None:
    found = erase(tmp_path, "hirm", "train.steps=20", "train.lr=0.001")
    assert found.before.dogs >= 0.75 and found.before.others >= 0.75  # the control
    assert found.after.dogs <= 0.25
    assert found.after.others >= found.before.others - 0.25
