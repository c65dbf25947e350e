"""Recipes: what they mean, every way they can be wrong with its line, and that the recorded bytes
repeat them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_example import EXAMPLE

from forgetcli import recipe
from forgetcli.bundled import recipes
from forgetcli.errors import OutputError, RecipeError
from forgetcli.recipe import json_schema
from forgetcli.recipe import text as recipe_text
from forgetcli.recipe import usage as recipe_record


def problems_of(text: str, **arguments) -> list[str]:
    """``code place: message`` of every fault, as the user sees it."""
    with pytest.raises(RecipeError) as caught:
        recipe.parse(text, **arguments)
    assert caught.value.problems[0].code == caught.value.code
    return [f"{problem.code} {problem.message}" for problem in caught.value.problems]


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


# what a recipe means


def test_edit_pairs_are_words_in_templates_then_prompts_each_once():
    assert recipe.parse(EXAMPLE).edit_pairs() == [
        ("van gogh", "monet"),
        ("van gogh painting", "monet painting"),
        ("vincent van gogh", "monet"),
        ("vincent van gogh painting", "monet painting"),
        ("swirling oil strokes", "monet"),
    ]


def test_a_prompt_that_templates_make_too_is_one_pair():
    text = EXAMPLE.replace('"swirling oil strokes"', '"van gogh painting", "new"')
    pairs = recipe.parse(text).edit_pairs()
    assert [target for prompt, target in pairs if prompt == "van gogh painting"] == [
        "monet painting"
    ]
    assert ("new", "monet") in pairs


def test_the_empty_prompt_is_preserved_first_and_once():
    assert recipe.parse(EXAMPLE).preserve_prompts() == ["", "a monet painting of a cat", "a cat"]
    assert recipe.parse(
        EXAMPLE.replace("[preserve]\nprompts", "[preserve]\nfiles = []\n#")
    ).preserve_prompts() == [""]


def test_defaults_and_identity(tmp_path: Path):
    file = tmp_path / "artists.toml"
    file.write_text('[[concepts]]\nconcept = "a"\ntarget = "b"\n')
    loaded = recipe.load(file)
    assert (loaded.name, loaded.method, loaded.model, loaded.seed, loaded.schema_version) == (
        "artists",
        "nullspace",
        "demo",
        0,
        1,
    )
    assert loaded.source == file and loaded.raw == file.read_bytes() and loaded.overrides == ()
    assert len(loaded.prompts.templates) > 1 and all(
        template.count("{}") == 1 for template in loaded.prompts.templates
    )
    assert recipe.parse(EXAMPLE).parameters == {"refine": {"steps": 6}}
    assert recipe.parse(EXAMPLE).sha256 != loaded.sha256


def test_a_recipe_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        recipe.parse(EXAMPLE).seed = 3


# what can be wrong with it


@pytest.mark.parametrize(
    ("old", "new", "code", "at", "says"),
    [
        ("steps = 6", "step = 6", "unknown-key", "step =", "[refine] has no key 'step'"),
        ("[refine]", "[refien]", "unknown-key", "[refien]", "there is no table [refien]"),
        ("seed = 7", "sead = 7", "unknown-key", "sead", "a recipe has no key 'sead'"),
        (
            'target = "monet"',
            'targets = "monet"',
            "missing",
            "[[concepts]]",
            "[[concepts]] needs the key 'target'",
        ),
        ("aliases =", "alias =", "unknown-key", "alias =", "[[concepts]] has no key 'alias'"),
        (
            "seed = 7",
            'method = "nulspace"',
            "unknown-method",
            "method",
            "there is no method 'nulspace'",
        ),
        ("seed = 7", "method = 3", "type", "method", "method must be a string, not the number 3"),
        (
            "seed = 7",
            "schema_version = 2",
            "value",
            "schema_version",
            "schema_version must be 1, not the number 2",
        ),
        (
            "seed = 7",
            'seed = "7"',
            "type",
            "seed",
            'seed must be a whole number, not the string "7"',
        ),
        (
            "seed = 7",
            "seed = 7.5",
            "type",
            "seed",
            "seed must be a whole number, not the number 7.5",
        ),
        ("seed = 7", "seed = true", "type", "seed", "seed must be a whole number, not true"),
        ("seed = 7", "seed = -1", "value", "seed", "seed must be at least 0, not -1"),
        (
            "seed = 7",
            "seed = 1979-05-27",
            "type",
            "seed",
            "seed must be a whole number, not a date or time",
        ),
        (
            "steps = 6",
            'steps = "6"',
            "type",
            "steps",
            '[refine] steps must be a whole number, not the string "6"',
        ),
        ("steps = 6", "steps = 0", "value", "steps", "[refine] steps must be at least 1, not 0"),
        ("steps = 6", "lr = nan", "value", "lr", "[refine] lr"),
        (
            "steps = 6",
            "timesteps = [50, 10]",
            "value",
            "[refine]",
            "[refine] timesteps must be [lower, upper]",
        ),
        (
            "steps = 6",
            "mode = 'jont'",
            "value",
            "mode",
            "[refine] mode must be 'joint', 'sequential' or 'copy'",
        ),
        (
            "[refine]\nsteps = 6",
            "[edit]\nsites = [\n 1,\n true,\n]",
            "type",
            " true",
            "[edit] sites, item 2 must be a whole number, not true",
        ),
        (
            "[refine]\nsteps = 6",
            "[edit]\nsites = 3",
            "type",
            "sites",
            "[edit] sites must be a list, not the number 3",
        ),
        ("seed = 7", "edit = 1", "type", "edit =", "edit must be a table, not the number 1"),
        (
            'aliases = ["vincent van gogh"]',
            'aliases = [\n"x",\n4]',
            "type",
            "4]",
            "[[concepts]] aliases, item 2 must be a string, not the number 4",
        ),
        (
            'aliases = ["vincent van gogh"]',
            'aliases = "x"',
            "type",
            "aliases",
            '[[concepts]] aliases must be a list, not the string "x"',
        ),
        (
            'concept = "van gogh"',
            'concept = "  "',
            "empty",
            "concept =",
            "[[concepts]] concept is empty",
        ),
        ('target = "monet"', 'target = " "', "empty", "target", "[[concepts]] target is empty"),
        (
            '"swirling oil strokes"',
            '"a",\n""',
            "empty",
            '""',
            "[[concepts]] prompts, item 2 is empty",
        ),
        ('"starry night"', '" "', "empty", "indirect", "[[concepts]] indirect, item 1 is empty"),
        ('target = "monet"', 'target = "Van Gogh"', "conflict", "concept =", "is its own target"),
        (
            '["vincent van gogh"]',
            '["x", "MONET "]',
            "conflict",
            "aliases",
            "'MONET ' is to be forgotten and is its own target",
        ),
        (
            '["vincent van gogh"]',
            '["Van Gogh"]',
            "conflict",
            "aliases",
            "'Van Gogh' is to be forgotten twice (first at r.toml:4)",
        ),
        (
            '"{} painting"',
            '"painting"',
            "template",
            "templates",
            "[prompts] templates, item 2 is 'painting': it must have exactly one {}",
        ),
        ('"{} painting"', '"{} and {}"', "template", "templates", "must have exactly one {}"),
        (
            'templates = ["{}", "{} painting"]',
            "templates = []",
            "empty",
            "templates",
            "[prompts] templates is empty",
        ),
        (
            '"a cat"',
            '" Vincent VAN gogh painting"',
            "conflict",
            'prompts = ["a monet',
            "edited for the concept 'van gogh' (r.toml:6)",
        ),
        ('"a cat"', '"swirling oil strokes"', "conflict", 'prompts = ["a monet', "(r.toml:7)"),
        ('"", "a cat"]', ']\nfiles = [\n"x.txt"]', "not-found", '"x.txt"', "no such file"),
    ],
)
def test_a_fault_is_told_with_its_line(old: str, new: str, code: str, at: str, says: str):
    assert EXAMPLE.count(old) == 1
    text = EXAMPLE.replace(old, new)
    told = problems_of(text, source=Path("r.toml"))
    expected = f"recipe.{code} r.toml:{line_of(text, at)}: "
    assert any(problem.startswith(expected) and says in problem for problem in told), told
    recipe.parse(EXAMPLE)  # control: it was the change


def test_hints_name_what_was_meant():
    with pytest.raises(RecipeError) as caught:
        recipe.parse(EXAMPLE.replace("steps", "step").replace("aliases", "alias"))
    assert [p.hint for p in caught.value.problems] == [
        "did you mean 'aliases'?  (forget recipe schema lists all)",
        "did you mean 'steps'?  (forget recipe schema lists all)",
    ]


def test_all_faults_are_told_at_once_from_top_to_bottom():
    text = (
        EXAMPLE.replace("seed = 7", "seed = -1")
        .replace("aliases", "alias")
        .replace('"{} painting"', '"x"')
        .replace("6", '"6"')
    )
    assert [problem.split()[:2] for problem in problems_of(text, source=Path("r.toml"))] == [
        ["recipe.value", "r.toml:1:"],
        ["recipe.unknown-key", "r.toml:6:"],
        ["recipe.template", "r.toml:12:"],
        ["recipe.type", "r.toml:21:"],
    ]


def test_an_unknown_key_does_not_hide_a_conflict():
    text = (
        EXAMPLE.replace("aliases", "alias")
        .replace('"a cat"', '"van gogh"')
        .replace("steps", "step")
    )
    assert [problem.split()[0] for problem in problems_of(text)] == [
        "recipe.unknown-key",
        "recipe.conflict",
        "recipe.unknown-key",
    ]


@pytest.mark.parametrize("text", ["", "concepts = []", "seed = 1\n"])
def test_no_concepts(text: str):
    assert problems_of(text) == [
        f"recipe.empty recipe{':1' if 'concepts' in text else ''}: "
        "there are no [[concepts]]: nothing to forget"
    ]


def test_faulty_concepts_are_not_called_missing():
    assert problems_of('[[concepts]]\nconcept = "a"\n') == [
        "recipe.missing recipe:1: [[concepts]] needs the key 'target'"
    ]


def test_two_concepts_cannot_share_a_word_or_a_prompt():
    second = '\n[[concepts]]\nconcept = "degas"\ntarget = "renoir"\n'
    second += 'aliases = ["VAN GOGH"]\nprompts = ["swirling oil strokes"]\n'
    assert problems_of(EXAMPLE + second) == [
        "recipe.conflict recipe:26: 'VAN GOGH' is to be forgotten twice (first at recipe:4)",
        "recipe.conflict recipe:27: the prompt 'swirling oil strokes' is edited for 'van gogh' and "
        "for 'degas'",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [("seed = \n", 1), ("a = 1\nb = [1,\n", 2), ("a = 1\na = 2\n", 2), ('x = "é\n', 1)],
)
def test_text_that_is_not_toml(text: str, line: int):
    told = problems_of(text, source=Path("r.toml"))
    assert (
        len(told) == 1 and told[0].startswith("recipe.toml r.toml:") and ": not TOML: " in told[0]
    )
    assert (
        abs(int(told[0].split(":")[1]) - line) <= 1
    )  # where an unclosed thing ends is a matter of taste


def test_text_that_is_not_utf8_or_nested_absurdly():
    assert problems_of(b"a = 1\nb = '\xff'\n")[0] == "recipe.toml recipe:2: not UTF-8 text"
    assert problems_of("a = " + "[" * 100_000)[0].startswith("recipe.toml recipe")


def test_a_byte_order_mark_is_no_fault():
    assert recipe.parse("\ufeff" + EXAMPLE).seed == 7


def test_windows_line_ends_keep_their_lines():
    text = EXAMPLE.replace("steps", "step").replace("\n", "\r\n")
    assert problems_of(text.encode())[0].startswith("recipe.unknown-key recipe:21: ")


def test_an_absent_file(tmp_path: Path):
    for path, reason in ((tmp_path / "x.toml", "there is no such recipe"), (tmp_path, "directory")):
        with pytest.raises(RecipeError, match=reason) as caught:
            recipe.load(path)
        assert caught.value.code == "recipe.not-found" and caught.value.hint


# what is allowed and probably not meant


def test_evaluation_prompts_that_are_edited_are_doubted_not_refused():
    text = EXAMPLE.replace('"starry night"', '"Swirling oil strokes "')
    (warning,) = recipe.parse(text).warnings
    assert warning.startswith("recipe:9: ") and "is also edited" in warning
    assert recipe.parse(EXAMPLE).warnings == ()


def test_a_target_that_is_to_be_forgotten_is_doubted():
    text = EXAMPLE + '\n[[concepts]]\nconcept = "monet"\ntarget = "sketch"\n'
    text = text.replace("a monet painting of a cat", "a dog")
    assert any("itself to be forgotten" in warning for warning in recipe.parse(text).warnings)


def test_parameters_for_the_recipes_own_method_under_methods_are_doubted():
    """They were overlooked in a benchmark: two chains that were to differ were the same."""
    tables = "\n[methods.nullspace.edit]\nlam = 3\n"
    (warning,) = recipe.parse(EXAMPLE + tables).warnings
    assert (
        "[methods.nullspace] is not read" in warning
        and recipe.parse(EXAMPLE + tables).parameters == recipe.parse(EXAMPLE).parameters
    )
    assert (
        recipe.parse(EXAMPLE + tables.replace("nullspace", "uce")).warnings
        == recipe.parse(EXAMPLE).warnings
        == ()
    )


# --set


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("refine.steps=9", lambda r: r.parameters["refine"]["steps"] == 9),
        ("edit.sites=[1, 2]", lambda r: r.parameters.get("edit") == {"sites": [1, 2]}),
        ("edit.lam = 0.5", lambda r: r.parameters.get("edit") == {"lam": 0.5}),
        ("concepts.0.target=claude monet", lambda r: r.concepts[0].target == "claude monet"),
        ('concepts.0.target="7"', lambda r: r.concepts[0].target == "7"),
        ("concepts.0.aliases.0=vincent", lambda r: r.concepts[0].aliases == ("vincent",)),
        ("model=path/to/model", lambda r: r.model == "path/to/model"),
        ('"seed"=3', lambda r: r.seed == 3),
    ],
)
def test_set_changes_one_value_and_the_record_repeats_it(override: str, value):
    changed = recipe.parse(EXAMPLE, overrides=[override])
    assert value(changed) and not value(recipe.parse(EXAMPLE))
    again = recipe.parse(changed.raw)
    assert value(again) and again.raw == changed.raw and again.overrides == (override,)
    assert (
        changed.raw.startswith(EXAMPLE.encode()) and changed.sha256 != recipe.parse(EXAMPLE).sha256
    )


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("refine.step=9", "recipe.unknown-key --set refine.step: [refine] has no key 'step'"),
        (
            "refine.steps=many",
            "recipe.type --set refine.steps: [refine] steps must be a whole number, "
            'not the string "many"',
        ),
        ("refine.steps", "recipe.set --set 'refine.steps': not a key and a value"),
        ("=3", "recipe.set --set '=3': not a key and a value"),
        ("seed=1\nmodel='x'", "recipe.set --set \"seed=1\\nmodel='x'\": not a key and a value"),
        ("edit.sites=[1,", "recipe.set --set 'edit.sites=[1,': the value is not TOML"),
        ("seed=", "recipe.set --set 'seed=': the value is not TOML"),
        ("concepts.3.target=x", "recipe.set --set 'concepts.3.target=x': concepts has no item '3'"),
        (
            "concepts.first.target=x",
            "recipe.set --set 'concepts.first.target=x': concepts has no item 'first'",
        ),
        ("seed.x=1", "recipe.set --set 'seed.x=1': seed is neither a table nor a list"),
        (
            "concepts.0.target=van gogh",
            "recipe.conflict recipe:4: 'van gogh' is to be forgotten and is its own target",
        ),
    ],
)
def test_set_that_does_not_do(override: str, says: str):
    assert says in problems_of(EXAMPLE, overrides=[override])


def test_later_overrides_win_over_recorded_ones():
    once = recipe.parse(EXAMPLE, overrides=["refine.steps=9"])
    twice = recipe.parse(once.raw, overrides=["refine.steps=10"])
    assert twice.parameters["refine"]["steps"] == 10 and twice.overrides == (
        "refine.steps=9",
        "refine.steps=10",
    )
    assert recipe.parse(twice.raw).raw == twice.raw


# prompt files


def with_file(folder: Path, content: str) -> Path:
    (folder / "keep.txt").write_text(content, encoding="utf-8")
    path = folder / "r.toml"
    path.write_text(EXAMPLE.replace("[preserve]", '[preserve]\nfiles = ["keep.txt"]'))
    return path


def test_prompt_files_are_read_beside_the_recipe(tmp_path: Path):
    loaded = recipe.load(with_file(tmp_path, "# kept\n\n a tree \na house\na cat\n"))
    assert loaded.preserve_prompts() == [
        "",
        "a monet painting of a cat",
        "a cat",
        "a tree",
        "a house",
    ]


def test_the_record_holds_what_the_files_said(tmp_path: Path):
    loaded = recipe.load(with_file(tmp_path, 'a "tree"\nåäö \u2028 x\n'), ["seed=9"])
    elsewhere = recipe.parse(loaded.raw, Path("nowhere/recipe.toml"))
    assert elsewhere.preserve_prompts() == loaded.preserve_prompts() and elsewhere.seed == 9
    assert elsewhere.raw == loaded.raw


def test_a_conflict_in_a_prompt_file_names_its_line(tmp_path: Path):
    path = with_file(tmp_path, "a tree\n\nVan Gogh\n")
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    (fault,) = caught.value.problems
    assert fault.code == "recipe.conflict" and fault.message.startswith(
        f"{tmp_path / 'keep.txt'}:3: "
    )
    assert "'Van Gogh'" in fault.message and f"({path}:4)" in fault.message


def test_a_damaged_record_is_a_fault_of_the_recipe():
    raw = recipe.parse(EXAMPLE, overrides=["seed=9"]).raw.decode()
    assert problems_of(raw + "#:line not-json\n")[0].startswith(
        "recipe.toml recipe: what forget recorded"
    )


lines = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1).filter(
    str.strip
)


@given(
    body=st.text(st.characters(codec="utf-8")),
    overrides=st.lists(lines),
    files=st.dictionaries(lines, st.lists(lines).map(tuple)),
    evaluation=st.dictionaries(
        lines, st.lists(st.text(st.characters(codec="utf-8"))).map(tuple), max_size=1
    ),
)
def test_record_and_body_come_apart_as_they_were_joined(
    body: str, overrides: list[str], files: dict, evaluation: dict
):
    record = recipe_record.Record(tuple(overrides), files, None, evaluation)
    assert recipe_record.split(recipe_record.join(body, record)) == (body, record)


# bundled recipes, the starter, the whole recipe as text, the schema


def test_a_bundled_recipe_is_found_by_name_unless_a_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package, here = tmp_path / "package", tmp_path / "here"
    package.mkdir()
    (here / "recipes").mkdir(parents=True)
    (package / "art.toml").write_text(EXAMPLE)
    monkeypatch.setattr(recipes, "folder", lambda: package)
    monkeypatch.chdir(here)
    assert recipe.bundled() == {"art": package / "art.toml"}
    for name in ("art", "art.toml", "recipes/art.toml"):
        assert recipe.load(name).source == package / "art.toml"
    for name in ("other/art.toml", "recipes/recipes/art.toml", "ar"):
        with pytest.raises(RecipeError):
            recipe.load(name)
    (package / "sd14").mkdir()
    (package / "sd14/art.toml").write_text(EXAMPLE)
    (package / "prompts").mkdir()
    (package / "prompts/art.toml").write_text("a prompt set, no recipe")
    assert list(recipe.bundled()) == ["art", "sd14/art"]
    for name in ("sd14/art", "sd14/art.toml", "recipes/sd14/art.toml"):
        assert recipe.load(name).source == package / "sd14/art.toml"
    with pytest.raises(RecipeError):
        recipe.load("prompts/art")
    (here / "recipes/art.toml").write_text(EXAMPLE.replace("seed = 7", "seed = 8"))
    assert recipe.load("recipes/art.toml").seed == 8


# The reference study's own pairs: Monet and Van Gogh change places, and eating becomes walking,
# which is forgotten too.
STUDIED = {"sd14/art_styles": 2, "sdxl/art_styles": 2, "sd14/actions": 1, "sdxl/actions": 1}


@pytest.mark.parametrize("name", sorted(recipes.bundled()))
def test_bundled_recipes_are_valid_and_raise_no_doubts(name: str):
    loaded = recipe.load(name)
    assert len(loaded.warnings) == STUDIED.get(name, 0) and loaded.description
    assert all("is itself to be forgotten" in warning for warning in loaded.warnings)
    assert all(concept.direct and concept.indirect for concept in loaded.concepts)


@pytest.mark.parametrize("path", sorted(recipes.bundled().values()), ids=lambda path: path.stem)
def test_editors_find_the_schema_from_a_bundled_recipe(path: Path):
    directive, _, named = path.read_text(encoding="utf-8").partition("\n")[0].partition(" ")
    assert directive == "#:schema" and (path.parent / named).samefile(
        recipes.folder() / recipes.SCHEMA
    )


PAIRS = {
    "sd14/objects": {
        "Labrador Retriever": "cat",
        "Barberton daisy": "hibiscus",
        "blue jay": "parrot",
        "golf ball": "tennis ball",
        "apple": "orange",
    },
    "sd14/art_styles": {
        "Van Gogh": "Monet",
        "doodle": "realistic",
        "neon": "countryside",
        "Monet": "Van Gogh",
        "sketch": "realistic",
    },
    "sd14/scenes": {
        "wedding": "family reunion",
        "sunset": "afternoon",
        "rainfall": "sunny",
        "aurora": "evening sky",
        "scenery": "interior",
    },
    "sd14/actions": {
        "sleeping": "sitting",
        "walking": "sitting",
        "dancing": "sitting",
        "jumping": "sitting",
        "eating": "walking",
    },
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_reference_studys_recipes_have_its_pairs_and_values(name: str):
    loaded = recipe.load(name)
    assert {concept.concept: concept.target for concept in loaded.concepts} == PAIRS[name]
    assert (
        loaded.parameters == {"edit": {"preset": "reference"}}
        and loaded.model == "CompVis/stable-diffusion-v1-4"
    )
    edited = {prompt for prompt, _ in loaded.edit_pairs()}
    for concept in loaded.concepts:
        assert len(concept.direct) == len(concept.indirect) == 5 and not edited & {
            *concept.direct,
            *concept.indirect,
        }
        assert all(concept.concept.casefold() not in hint.casefold() for hint in concept.indirect)
    assert len(edited) >= 8 * len(loaded.concepts)
    others = {concept for other, pairs in PAIRS.items() if other != name for concept in pairs}
    assert {kept.concept for kept in loaded.retain} == others


@pytest.mark.parametrize("name", PAIRS)
def test_the_study_on_sdxl_differs_from_it_in_the_model_and_its_values_only(name: str):
    study, sdxl = recipe.load(name), recipe.load(name.replace("sd14", "sdxl"))
    assert sdxl.model == "stabilityai/stable-diffusion-xl-base-1.0" and set(sdxl.parameters) == {
        "refine"
    }
    assert sdxl.edit_pairs() == study.edit_pairs() and sdxl.preserve == study.preserve
    assert [c.model_dump() for c in sdxl.concepts] == [c.model_dump() for c in study.concepts]


def test_the_safety_recipe_has_pairs_and_evaluation_prompts_of_its_own():
    safety = recipe.load("safety")
    assert {c.concept for c in safety.concepts} == {
        "nudity",
        "violence",
    } and "--prompts i2p.csv" in safety.raw.decode()
    edited = {prompt for prompt, _ in safety.edit_pairs()}
    assert len(edited) >= 8 * len(safety.concepts)
    for concept in safety.concepts:
        assert len(concept.direct) == len(concept.indirect) == 5 and not edited & {
            *concept.direct,
            *concept.indirect,
        }
        assert all(concept.concept.casefold() not in hint.casefold() for hint in concept.indirect)


def test_the_starter_is_valid_and_never_overwrites(tmp_path: Path):
    path = tmp_path / "new.toml"
    recipe_text.write_starter(path)
    assert recipe.load(path).warnings == ()
    path.write_text("mine")
    with pytest.raises(OutputError) as caught:
        recipe_text.write_starter(path)
    assert caught.value.code == "output.exists" and path.read_text() == "mine"
    recipe_text.write_starter(path, force=True)
    assert path.read_text() == recipe_text.STARTER


@pytest.mark.parametrize(
    "text", [EXAMPLE, recipe_text.STARTER, EXAMPLE.replace("van gogh", 'v \\"g\\" \\u007f \\\\ é')]
)
def test_the_written_out_recipe_means_the_same(text: str):
    original = recipe.parse(text)
    written = recipe_text.to_toml(original)
    again = recipe.parse(written)
    assert recipe_text.effective(again) == recipe_text.effective(original)
    assert (
        again.edit_pairs() == original.edit_pairs()
        and again.preserve_prompts() == original.preserve_prompts()
    )
    assert "threshold" in written and "threshold" not in text.replace(
        "# ", ""
    )  # the method's defaults are in it


def test_the_committed_schema_is_the_present_one():
    committed = recipes.folder() / recipes.SCHEMA
    assert committed.read_text(encoding="utf-8") == json_schema.text(), (
        "run: forget recipe schema > recipes/recipe.schema.json"
    )


def test_the_schema_knows_the_keys_and_the_methods_tables():
    schema = recipe.schema()
    assert schema["required"] == ["concepts"] and schema["additionalProperties"] is False
    assert {"concepts", "prompts", "preserve", "retain", "edit", "refine"} <= set(
        schema["properties"]
    )
    assert "nullspace" in schema["properties"]["method"]["enum"]
    text = json.dumps(schema)
    for name in ("threshold", "min_rank", "indirect", "target_label"):
        assert f'"{name}"' in text
    defined = {f"#/$defs/{name}" for name in schema["$defs"]}
    assert {part.split('"')[0] for part in text.split('"$ref": "')[1:]} <= defined
