"""`[methods.NAME]`: one recipe, used with several methods; what was used is in the record."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_example import EXAMPLE

from forgetcli import methods, recipe
from forgetcli.errors import RecipeError
from forgetcli.recipe import json_schema
from forgetcli.recipe import text as recipe_text

TABLES = "\n[methods.uce.edit]\nlam = 2.0\n"
WITH = EXAMPLE + TABLES


def problems_of(text: str, **arguments) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        recipe.parse(text, Path("r.toml"), **arguments)
    return [f"{problem.code} {problem.message}" for problem in caught.value.problems]


def test_each_method_gets_its_own_parameters():
    own, other = recipe.parse(WITH), recipe.parse(WITH, method="uce")
    assert (own.method, own.parameters) == ("nullspace", {"refine": {"steps": 6}})
    assert (other.method, other.parameters) == ("uce", {"edit": {"lam": 2.0}})
    assert (
        recipe.parse(WITH, method="none").parameters == {}
    )  # not the recipe's own: [refine] is nullspace's
    assert (
        recipe.parse(EXAMPLE, method="uce").parameters == {}
    )  # control: the table made the difference
    assert recipe.parse(WITH, method="nullspace").parameters == own.parameters
    assert (
        other.edit_pairs() == own.edit_pairs()
        and other.preserve_prompts() == own.preserve_prompts()
    )


@pytest.mark.parametrize(
    ("tables", "code", "below", "says"),
    [
        ("[methods.ucee.edit]\nlam = 1.0", "unknown-method", 0, "there is no method 'ucee'"),
        ("[methods.uce.edit]\nlamb = 1.0", "unknown-key", 1, "'lamb'"),
        ("[methods.uce.edit]\nlam = -1.0", "value", 1, "lam must be more than 0"),
        ('[methods.uce.edit]\nlam = "1"', "type", 1, 'lam must be a number, not the string "1"'),
        ("[methods.none]\nlam = 1.0", "unknown-key", 1, "'lam'"),
        ("[methods]\nuce = 1", "type", 1, "must be a table"),
    ],
)
def test_faults_in_other_methods_tables_have_their_line(
    tables: str, code: str, below: int, says: str
):
    text = f"{EXAMPLE}\n{tables}\n"
    line = text[: text.index(tables)].count("\n") + 1 + below
    told = problems_of(text)
    assert (
        len(told) == 1 and told[0].startswith(f"recipe.{code} r.toml:{line}: ") and says in told[0]
    ), told
    recipe.parse(WITH)  # control: such tables can be right


def test_faults_are_told_whatever_method_is_used():
    broken = WITH.replace("lam = 2.0", "lam = -2.0")
    assert (
        problems_of(broken)
        == problems_of(broken, method="none")
        == problems_of(broken, method="uce")
        != []
    )


def test_an_unknown_method_is_refused_with_a_name_that_is_near():
    with pytest.raises(RecipeError) as caught:
        recipe.parse(WITH, method="ucee")
    assert (
        caught.value.code == "recipe.unknown-method"
        and "--method" in caught.value.message
        and "'uce'" in caught.value.hint
    )


@pytest.mark.parametrize("overrides", [[], ["methods.uce.edit.lam=3.0"]])
def test_the_record_repeats_the_use(overrides: list[str]):
    used = recipe.parse(WITH, overrides=overrides, method="uce")
    again = recipe.parse(used.raw)  # without being told the method
    assert (again.method, again.parameters, again.raw, again.sha256) == (
        used.method,
        used.parameters,
        used.raw,
        used.sha256,
    )
    assert again.parameters["edit"]["lam"] == (3.0 if overrides else 2.0)
    assert used.raw.startswith(WITH.encode()) and used.sha256 != recipe.parse(WITH).sha256
    assert recipe.parse(used.raw, method="none").method == "none"  # a later use wins


def test_prompt_files_are_in_the_record_too(tmp_path: Path):
    (tmp_path / "keep.txt").write_text("a tree\n")
    (tmp_path / "r.toml").write_text(WITH.replace("[preserve]", '[preserve]\nfiles = ["keep.txt"]'))
    used = recipe.load(tmp_path / "r.toml", method="uce")
    again = recipe.parse(used.raw, Path("elsewhere/r.toml"))
    assert again.method == "uce" and "a tree" in again.preserve_prompts() and again.raw == used.raw


def test_show_prints_every_methods_parameters(forget, tmp_path: Path):
    (tmp_path / "with.toml").write_text(WITH)
    (tmp_path / "without.toml").write_text(EXAMPLE)
    shown = forget("recipe", "show", "with.toml").stdout
    assert (
        "[methods.uce.edit]\n" in shown and "\nlam = 2.0\nerase = 1.0\n" in shown
    )  # with the defaults of what it leaves out
    assert "[methods" not in forget("recipe", "show", "without.toml").stdout
    data = forget("recipe", "show", "with.toml", "--method", "uce", "--json").json["recipe"]
    assert (data["method"], data["edit"]["lam"], data["methods"]["uce"]["edit"]["lam"]) == (
        "uce",
        2.0,
        2.0,
    ) and "refine" not in data


@pytest.mark.parametrize("method", [None, "uce", "none"])
def test_what_show_prints_is_read_the_same_way(method: str | None):
    used = recipe.parse(WITH, method=method)
    again = recipe.parse(recipe_text.to_toml(used))
    assert (
        recipe_text.effective(again) == recipe_text.effective(used) and again.method == used.method
    )


def test_the_schema_describes_every_methods_tables():
    described = json_schema.build()["properties"]["methods"]
    assert described["additionalProperties"] is False and set(described["properties"]) == set(
        methods.names()
    )
    for name in methods.names():
        assert set(described["properties"][name]["properties"]) == set(
            methods.get(name).Parameters.model_fields
        )
    assert described["properties"]["uce"]["additionalProperties"] is False
