"""`forget erase` as a command: it drew the concept before and does not after; what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import Strike, tree
from forked import Forks
from PIL import Image

from forgetcli import recipe
from forgetcli.cli import erase as command
from forgetcli.evaluation import judges


@pytest.fixture(scope="module")
def forget(forked: Forks) -> Forks:
    return forked


@pytest.fixture(scope="module")
def erased(forget: Forks, tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("erased")
    return place, forget(place, "erase", "penguin", "--images", "5", "--json", "-q")


def test_the_concept_was_drawn_before_and_is_not_after_and_others_stay(erased):
    place, run = erased
    assert run.code == 0, run.stderr
    judge = judges.load("demo")
    shown = run.json["images"]
    (concept,) = recipe.load(place / run.json["recipe"]).concepts
    asking = (*concept.direct, *concept.indirect)  # the definition does not say "penguin"
    penguins = [image for image in shown if image["prompt"] in asking]
    others = [image for image in shown if image["prompt"] not in asking]
    assert len(penguins) > 2 and others

    def sees(images: list[dict], side: str, label: str) -> list[bool]:
        opened = [Image.open(place / image[side]) for image in images]
        return [verdict.seen for verdict in judge.see(opened, [label] * len(opened))]

    assert all(sees(penguins, "base", "penguin"))
    assert not any(sees(penguins, "path", "penguin"))
    for image in others:
        before, after = (
            judge.see([Image.open(place / image[side])], ["penguin"])[0].judged
            for side in ("base", "path")
        )
        assert before == after


def test_it_leaves_a_recipe_that_repeats_the_edit_and_a_sheet(erased, forget, tmp_path):
    place, run = erased
    drafted = place / run.json["recipe"]
    read = recipe.load(drafted)
    assert read.concepts[0].concept == "a penguin" and read.preserve.sets
    assert drafted.read_text().startswith("# Drafted by `forget erase`")
    assert (place / run.json["sheet"]).is_file()
    again = forget(tmp_path, "apply", drafted, "-o", "again", "--json")
    assert again.code == 0, again.stderr
    assert again.json["cache"]["hits"] > 0 == again.json["cache"]["misses"]
    weights = "text_encoder/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (place / "edited" / weights).read_bytes()
    verified = forget(place, "verify", "edited", "--json")
    assert verified.code == 0, verified.stderr


def test_the_sets_are_in_the_provenance(erased, forget):
    place, _ = erased
    text = (place / "edited" / "forget.provenance.json").read_text()
    sets = {s["name"]: s["sha256"] for s in forget(place, "recipe", "sets", "--json").json["sets"]}
    for name, digest in sets.items():
        assert re.search(rf'"{digest}"\s*}},\s*"name": "set/{name}"', text), name


def test_every_choice_is_told_with_the_option_that_changes_it(erased):
    _, run = erased
    told = {choice["key"]: choice for choice in run.json["choices"]}
    assert {c["option"] for c in told.values()} == {
        "--kind", "--alias", "--to", "--near", "--template", "--sets",
    }  # fmt: skip
    assert all(choice["value"] and choice["why"] for choice in told.values())


def test_people_read_whether_it_is_forgotten_and_the_rest_kept(erased):
    _, run = erased
    told = [part for part in command._as_text(run.json) if isinstance(part, str)]
    assert told[0].startswith("forgotten: moved ") and told[0].count(": pass") == 2
    assert "drift" not in told[1]


def test_a_dry_run_prints_the_recipe_and_writes_nothing(forget, tmp_path):
    run = forget(tmp_path, "erase", "penguin", "--to", "a lamp", "--sets", "", "--dry-run")
    assert run.code == 0, run.stderr
    read = recipe.parse(run.stdout)
    assert read.concepts[0].target == "a lamp" and read.preserve.sets == ()
    assert not list(tmp_path.iterdir())


def test_a_robust_edit_is_of_both_halves_and_fine_tuned(forget, tmp_path):
    run = forget(tmp_path, "erase", "penguin", "--robust", "--dry-run", "--json")
    assert run.code == 0, run.stderr
    read = recipe.parse(run.json["recipe"]).parameters
    assert read["edit"]["layers"] == "both" and read["robust"]["finetune"] == 600
    assert [each["option"] for each in run.json["choices"]][-1] == "--robust"
    plain = forget(tmp_path, "erase", "penguin", "--dry-run").stdout
    assert "layers" not in recipe.parse(plain).parameters.get("edit", {})  # text encoder alone


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("",), "erase.concept", "no word"),
        (("!?",), "erase.concept", "no word"),
        (("dog", "--kind", "beast"), "erase.kind", "'beast'.*\n.*object"),
        (("dog", "--kind", "stile"), "erase.kind", "did you mean 'style'"),
        (("dog", "--to", "dog"), "erase.target", "'dog'.*\n.*--to"),
        (("dog", "--to", "a puppy"), "erase.target", "'a puppy'.*\n.*--to"),
        (("dog", "--sets", "sceens"), "erase.set", "did you mean 'scenes'"),
        (("dog", "--template", "a dog"), "erase.template", r"\{\}"),
        (("dog", "--method", "nulspace"), "recipe.unknown-method", "did you mean 'nullspace'"),
        (("the " + "very " * 18 + "long dog",), "edit.prompt-too-long", "tokens long"),
        (("hat", "--attribute-of", "a hat"), "erase.attribute", "'hat' means 'hat'"),
        (("hat", "--attribute-of", ""), "erase.concept", "no word"),
        (("hat", "dog", "--attribute-of", "cowboy"), "erase.attribute", "one .*, not for 2"),
        (("dog", "--robust", "--method", "uce"), "erase.robust", "the method is 'uce'"),
        (("hat", "--attribute-of", "cowboy", "--robust"), "erase.robust", "from 'cowboy'"),
        (("dog", "--model", "absent"), "model.not-found", "absent"),
    ],
)
def test_what_cannot_be_is_one_line_with_a_hint(forget, tmp_path, arguments, code, says):
    run = forget(tmp_path, "erase", *arguments)
    assert (run.code, run.stdout) == (2, ""), run.stderr
    error, hint = run.stderr.splitlines()[-2:]
    assert error.startswith(f"error[{code}]: ") and hint.startswith("hint: "), run.stderr
    assert re.search(says, f"{error}\n{hint}"), run.stderr
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_refused_and_ctrl_c_leaves_it(erased, forget, tmp_path):
    place, _ = erased
    before = tree(place / "edited")
    run = forget(place, "erase", "dog")
    assert run.code == 2 and "error[output.exists]" in run.stderr and "--force" in run.stderr
    struck = forget(
        place,
        "erase",
        "dog",
        "--force",
        strike=Strike("forgetcli.editing.closed_form:null_space"),
    )
    assert struck.code == 130, struck.stderr
    assert tree(place / "edited") == before
    assert Path(place / "edited-images" / "before_after.png").is_file()
