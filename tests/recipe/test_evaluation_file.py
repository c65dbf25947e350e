"""Evaluation files: they hold what a recipe can hold itself, and are read from its folder only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forgetcli import recipe
from forgetcli.bundled import recipes as bundled
from forgetcli.errors import ForgetError, RecipeError
from forgetcli.experiments.tuning.recipe_file import write_recipe
from forgetcli.experiments.tuning.results import Trial
from forgetcli.recipe import limits
from forgetcli.recipe import text as recipe_text

HEAD = """\
evaluation = "ask.toml"

[[concepts]]
concept = "van gogh"
target = "monet"

[[concepts]]
concept = "neon"
target = "watercolour"
"""
# The concepts stand in another order than in the recipe.
ASKED = """\
# What is asked for.
[[concepts]]
concept = "neon"
direct = ["a neon car"]

[[concepts]]
concept = "van gogh"
label = "van_gogh"
group = "style"
direct = ["a van gogh painting of a dog"]
indirect = ["starry night"]

[[retain]]
concept = "pixel art"
direct = ["pixel art of a car"]

[[near]]
concept = "monet"
"""
IN_ONE = """\
[[concepts]]
concept = "van gogh"
target = "monet"
label = "van_gogh"
group = "style"
direct = ["a van gogh painting of a dog"]
indirect = ["starry night"]

[[concepts]]
concept = "neon"
target = "watercolour"
direct = ["a neon car"]

[[retain]]
concept = "pixel art"
direct = ["pixel art of a car"]

[[near]]
concept = "monet"
"""


def written(folder: Path, head: str = HEAD, asked: str | bytes = ASKED) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ask.toml").write_bytes(asked if isinstance(asked, bytes) else asked.encode())
    path = folder / "r.toml"
    path.write_text(head, encoding="utf-8")
    return path


def faults_of(path: Path) -> list[ForgetError]:
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    return caught.value.problems


def test_a_recipe_with_a_file_is_the_recipe_that_has_the_tables_itself(tmp_path: Path):
    apart, in_one = recipe.load(written(tmp_path)), recipe.parse(IN_ONE)
    assert apart.concepts == in_one.concepts
    assert (apart.retain, apart.near) == (in_one.retain, in_one.near)
    without = recipe.parse(HEAD.split("\n", 1)[1])
    assert without.concepts != in_one.concepts and not without.retain


def test_keys_of_the_recipe_override_those_of_the_file(tmp_path: Path):
    head = HEAD.replace('target = "monet"', 'target = "monet"\ndirect = ["mine"]\ngroup = "art"')
    head += '[[retain]]\nconcept = "a dog"\ndirect = ["a dog"]\n'
    loaded = recipe.load(written(tmp_path, head))
    concept = loaded.concepts[0]
    assert (concept.direct, concept.group) == (("mine",), "art")
    assert (concept.indirect, concept.label) == (("starry night",), "van_gogh")
    assert [kept.concept for kept in loaded.retain] == ["a dog"]
    assert [near.concept for near in loaded.near] == ["monet"]
    overridden = recipe.load(written(tmp_path), ["concepts.1.direct=['x']"])
    assert overridden.concepts[1].direct == ("x",)


@pytest.mark.parametrize(
    "asked", [ASKED, "\ufeff" + ASKED.replace("\n", "\r\n"), ASKED.replace("starry", '\\"å\u2028')]
)
def test_the_record_repeats_it_without_the_file(tmp_path: Path, asked: str):
    loaded = recipe.load(written(tmp_path / "here", asked=asked), ["seed=9"])
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere/recipe.toml"
    copy.write_bytes(loaded.raw)
    again = recipe.load(copy)
    assert (again.concepts, again.retain, again.near, again.seed) == (
        loaded.concepts,
        loaded.retain,
        loaded.near,
        9,
    )
    assert again.raw == loaded.raw
    # A file of that name in the new place is not read.
    (tmp_path / "elsewhere/ask.toml").write_text("")
    assert recipe.load(copy).retain == loaded.retain


def test_a_file_for_evaluation_and_one_for_preserve_may_have_one_name(tmp_path: Path):
    path = written(tmp_path, HEAD + '[preserve]\nfiles = ["ask.toml"]\n', '[[retain]]\nconcept="x"')
    loaded = recipe.load(path)
    assert loaded.file_prompts == ("[[retain]]", 'concept="x"')
    again = recipe.parse(loaded.raw)
    assert again.file_prompts == loaded.file_prompts and again.retain == loaded.retain


def test_the_digest_changes_with_the_file(tmp_path: Path):
    before = recipe.load(written(tmp_path)).sha256
    assert recipe.load(written(tmp_path)).sha256 == before
    after = recipe.load(written(tmp_path, asked=ASKED.replace("starry", "cloudy"))).sha256
    assert after != before


def test_the_recipe_in_full_needs_no_file(tmp_path: Path):
    loaded = recipe.load(written(tmp_path))
    full = recipe.parse(recipe_text.to_toml(loaded))
    assert full.concepts == loaded.concepts and full.retain == loaded.retain
    assert full.evaluation is None and loaded.evaluation == "ask.toml"


def test_warnings_name_the_line_in_the_file(tmp_path: Path):
    asked = ASKED.replace('"starry night"', '"van gogh"').replace('"pixel art"', '"zebra crossing"')
    loaded = recipe.load(written(tmp_path, asked=asked))
    (warning,) = [w for w in loaded.warnings if "is also edited" in w]
    assert warning.startswith(f"{tmp_path / 'ask.toml'}:11: the evaluation prompt 'van gogh'")
    (unnamed,) = loaded.unjudged
    assert unnamed.startswith(f"{tmp_path / 'ask.toml'}:14: ") and "zebra crossing" in unnamed


@pytest.mark.parametrize(
    ("asked", "code", "line", "says", "hint"),
    [
        (ASKED.replace("label", "lable"), "unknown-key", 8, "no key 'lable'", "'label'"),
        (ASKED.replace("label", "target"), "unknown-key", 8, "no key 'target'", ""),
        ('[[concepts]]\nconcept = "noen"', "value", 2, "does not forget 'noen'", "mean 'neon'"),
        (ASKED + '[[concepts]]\nconcept = "Neon"', "value", 20, "'Neon' has two tables", "one"),
        ("[[retain]]\ndirect = []", "missing", 1, "[[retain]] needs the key 'concept'", ""),
        ("[edit]\nlam = 1.0", "unknown-key", 1, "there is no table [edit]", "concepts"),
        ("retain = 1", "type", 1, "retain must be a list, not the number 1", ""),
        ("a = ", "toml", 1, "not TOML", "quotes"),
        (b"# x\n# \xff", "toml", 2, "not UTF-8 text", "UTF-8"),
        ("schema_version = 2", "value", 1, "schema_version must be 1", ""),
    ],
)
def test_what_is_wrong_in_it_has_its_line(
    tmp_path: Path, asked: str | bytes, code: str, line: int, says: str, hint: str
):
    (fault,) = faults_of(written(tmp_path, asked=asked))
    assert fault.code == f"recipe.{code}"
    assert fault.message.startswith(f"{tmp_path / 'ask.toml'}:{line}: ") and says in fault.message
    assert hint in fault.hint


def test_faults_of_both_files_are_reported_together(tmp_path: Path):
    head = HEAD.replace('target = "watercolour"', 'target = "Neon"')
    found = faults_of(written(tmp_path, head, ASKED.replace("label", "lable")))
    assert len(found) == 2 and {fault.message.split(":")[0] for fault in found} == {
        str(tmp_path / "ask.toml"),
        str(tmp_path / "r.toml"),
    }


@pytest.mark.parametrize("asked", ["a = " + "[" * 10_000, "a.b = " * 50_000, '"' * 100_001])
def test_hostile_text_is_refused(tmp_path: Path, asked: str):
    found = faults_of(written(tmp_path, asked=asked))
    assert found and all(fault.code.startswith("recipe.") for fault in found)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path):
    path = written(tmp_path)
    with (tmp_path / "ask.toml").open("r+b") as stream:
        stream.truncate(limits.LARGEST_FILE + 1)
    (fault,) = faults_of(path)
    assert fault.code == "recipe.not-found" and fault.message.startswith(f"{path}:1: ")
    assert "larger than" in fault.message


def test_a_prompt_that_is_too_long_is_refused(tmp_path: Path):
    asked = f'[[retain]]\nconcept = "x"\ndirect = ["{"a" * (limits.LONGEST_TEXT + 1)}"]'
    (fault,) = faults_of(written(tmp_path, asked=asked))
    assert fault.code == "recipe.too-long" and "ask.toml:3: " in fault.message


@pytest.mark.parametrize("name", ["nothing.toml", "folder", "pipe", "zero"])
def test_a_file_that_is_not_there_or_is_no_file(tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (fault,) = faults_of(written(tmp_path, HEAD.replace("ask.toml", name)))
    if name == "zero":
        assert fault.code == "file.outside"
    else:
        assert fault.code == "recipe.not-found" and name in fault.message
        assert "beside the recipe" in fault.hint
    assert fault.message.startswith(f"{tmp_path / 'r.toml'}:1: ")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.toml", "up/secret.toml", "out.toml"])
def test_files_outside_the_recipes_folder_are_refused(tmp_path: Path, name: str):
    (tmp_path / "secret.toml").write_text('[[retain]]\nconcept = "a password"\n')
    path = written(tmp_path / "recipes", HEAD.replace("ask.toml", name))
    (tmp_path / "recipes/up").symlink_to(tmp_path)
    (tmp_path / "recipes/out.toml").symlink_to(tmp_path / "secret.toml")
    (fault,) = faults_of(path)
    assert fault.code == "file.outside" and "beside the recipe" in fault.hint
    assert "password" not in fault.message


@pytest.mark.parametrize("name", sorted(bundled.bundled()))
def test_bundled_recipes_are_short_and_have_their_evaluation_beside_them(name: str):
    path = bundled.bundled()[name]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    loaded = recipe.load(name)
    assert loaded.evaluation and (path.parent / loaded.evaluation).is_file()
    assert all(kept.direct and kept.indirect for kept in loaded.retain)


def test_a_tuned_recipe_keeps_the_evaluation_without_its_file(tmp_path: Path):
    loaded = recipe.load(written(tmp_path / "here"), method="uce")
    tuned = tmp_path / "tuned.toml"
    write_recipe(tuned, loaded, Trial(0, {"edit.lam": 0.5}, "complete"))
    again = recipe.load(tuned, method="uce")
    assert again.parameters["edit"]["lam"] == 0.5
    assert (again.concepts, again.retain) == (loaded.concepts, loaded.retain)
