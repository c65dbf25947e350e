"""Claims: a folder that was made before a parameter existed is verified, and its edit repeated,
with what held then; an edit towards nothing is an edit like others.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pipelines import tiny_sd

from forgetcli import models, recipe
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import base
from forgetcli.editing.context_columns import pair_columns
from forgetcli.editing.context_sources import token_states
from forgetcli.methods import rece, speed, uce
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.apply import apply
from forgetcli.progress import Silent
from forgetcli.verification.parameters import as_recorded, differing
from forgetcli.verification.rebuild import rebuilt

RECIPE = """\
method = "uce"

[[concepts]]
concept = "house"
target = ""

[prompts]
templates = ["{}", "a picture of a {}"]

[preserve]
prompts = ["a picture of a cat", "a sketch of a dog"]
"""
THEN = {"edit": {"lam": 0.5, "erase": 1.0, "preserve": 1.0, "positions": "last"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a version without a prior would have written it: its recipe names no prior."""
    place = tmp_path_factory.mktemp("earlier")
    tiny_sd(place / "sd", torch.float32)
    old = recipe.parse(RECIPE, overrides=["edit.prior=0.0"])
    apply(
        old.model_copy(update={"raw": RECIPE.encode()}),
        model=str(place / "sd"),
        output=place / "edited",
        strict=False,
    )
    manifest = place / "edited" / "forget.provenance.json"
    statement = json.loads(manifest.read_text())
    external = statement["predicate"]["buildDefinition"]["externalParameters"]
    external["parameters"] = THEN
    manifest.write_text(json.dumps(statement))
    return place / "edited"


def test_the_edit_is_repeated_as_it_was_made(folder: Path) -> None:
    found = rebuilt(EditedModel(folder), Silent())
    assert not found.problems
    assert "byte for byte" in found.proved[0]


def test_with_todays_default_it_would_be_another_edit(folder: Path, tmp_path: Path) -> None:
    today = apply(
        recipe.load(folder / "recipe.toml"),
        model=str(folder.parent / "sd"),
        output=tmp_path / "now",
        strict=False,
    )
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (today.output / weights).read_bytes() != (folder / weights).read_bytes()


def test_recorded_parameters_are_completed_and_explicit_ones_are_not() -> None:
    recorded, read = as_recorded("uce", THEN, recipe.parse(RECIPE))
    assert recorded["edit"]["prior"] == read.parameters["edit"]["prior"] == 0.0
    assert not differing("uce", THEN, recipe.parse(RECIPE), strict=True)
    asked = recipe.parse(RECIPE + "\n[edit]\nprior = 2.0\n")
    assert any("edit.prior" in what for what in differing("uce", THEN, asked, strict=False))
    forged = {"edit": {**THEN["edit"], "lam": 0.7}}
    assert differing("uce", forged, recipe.parse(RECIPE), strict=True)


@pytest.mark.parametrize("method", [uce, rece, speed])
def test_what_held_before_is_a_value_that_the_parameters_have(method) -> None:
    for key, value in method.EARLIER.items():
        table, _, name = key.partition(".")
        read = method.Parameters.model_validate({table: {name: value}})
        assert getattr(getattr(read, table), name) == value


def test_the_last_token_reads_the_empty_prompts_end_token(folder: Path) -> None:
    model = models.load(base.resolve(folder.parent / "sd"), device="cpu")
    read = recipe.parse(RECIPE)
    assert read.edit_pairs() == [("house", ""), ("a picture of a house", "")]
    empty = model.encode(tokenise(model.tokenizer, [""]).ids).hidden[0].detach().double()
    last = pair_columns(token_states(model), read.edit_pairs(), "last").targets
    assert torch.equal(last, torch.stack([empty[1]] * 2, 1))
    script = pair_columns(token_states(model), read.edit_pairs(), "prompt-last").targets
    assert torch.equal(script, torch.stack([empty[0]] * 2, 1))
    onwards = pair_columns(token_states(model), read.edit_pairs()[:1], "from-last")
    house = model.encode(tokenise(model.tokenizer, ["house"]).ids).hidden[0].detach().double()
    assert torch.equal(onwards.concepts, house[1:].T)
    # The end token stands for the word and for the end token; then padding by its distance.
    assert torch.equal(onwards.targets, torch.cat([empty[1:2], empty[1:-1]]).T)


def test_the_card_says_nothing(folder: Path) -> None:
    assert "nothing" in (folder / "README.md").read_text()
