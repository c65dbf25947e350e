"""Claims: `[preserve] prior` says which prompts are held besides; an empty target is the empty
prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Run
from recipe_example import EXAMPLE

from forgetcli import recipe
from forgetcli.errors import RecipeError
from forgetcli.recipe import text

CAPTIONS = EXAMPLE.replace(
    "[preserve]\n", '[preserve]\nprior = "captions"\ncaptions = ["said.txt"]\n'
)


def test_captions_are_recorded_with_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "said.txt").write_text("a boat\n\n# aside\na boat at sea\n")
    read = recipe.parse(CAPTIONS, tmp_path / "art.toml")
    assert read.prior_captions == ("a boat", "a boat at sea")
    assert "a boat" not in read.preserve_prompts()
    (tmp_path / "said.txt").unlink()
    assert recipe.parse(read.raw).prior_captions == read.prior_captions
    with pytest.raises(RecipeError, match=r"said\.txt"):
        recipe.parse(CAPTIONS, tmp_path / "art.toml")


def test_a_caption_may_name_what_is_edited(tmp_path: Path) -> None:
    """It is no promise, as a preserve prompt is."""
    (tmp_path / "said.txt").write_text("van gogh\n")
    assert recipe.parse(CAPTIONS, tmp_path / "art.toml").prior_captions == ("van gogh",)
    with pytest.raises(RecipeError, match="is preserved here"):
        recipe.parse(EXAMPLE.replace('"a cat"]', '"a cat", "van gogh"]'))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('prior = "captions"', "no file of captions is named"),
        ('captions = ["said.txt"]', "the prior is 'words'"),
        ('prior = "none"\ncaptions = ["said.txt"]', "the prior is 'none'"),
        ('prior = "everything"', "none, words or captions|'none', 'words' or 'captions'"),
        ("prior_words = 0", "prior_words"),
    ],
)
def test_bad_priors_are_one_clear_line(
    forget: Callable[..., Run], tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "said.txt").write_text("a boat\n")
    (tmp_path / "art.toml").write_text(EXAMPLE.replace("[preserve]\n", f"[preserve]\n{line}\n"))
    refused = forget("recipe", "validate", "art.toml")
    assert refused.code == 2
    assert refused.stdout == ""
    assert any(part in refused.stderr for part in message.split("|"))
    assert "Traceback" not in refused.stderr


def test_recipes_that_weigh_the_vocabulary_for_nullspace_are_read() -> None:
    read = recipe.parse(f'method = "uce"\n{EXAMPLE}'.replace("[refine]\nsteps = 6\n", "") + WEIGHED)
    assert read.methods["nullspace"]["edit"] == {"prior": 0.0}
    assert read.preserve.prior == "words"
    assert recipe.parse(EXAMPLE + "[edit]\nprior = 3.0\n").parameters["edit"] == {"prior": 3.0}


WEIGHED = "[methods.nullspace.edit]\nprior = 0.0\n"


def test_an_empty_target_is_the_empty_prompt() -> None:
    nothing = EXAMPLE.replace('target = "monet"', 'target = ""')
    read = recipe.parse(nothing)
    assert {target for _, target in read.edit_pairs()} == {""}
    prompts = [prompt for prompt, _ in read.edit_pairs()]
    assert prompts == [prompt for prompt, _ in recipe.parse(EXAMPLE).edit_pairs()]
    again = recipe.parse(text.to_toml(read))
    assert again.edit_pairs() == read.edit_pairs()


def test_two_concepts_may_both_turn_into_nothing() -> None:
    second = '[[concepts]]\nconcept = "house"\ntarget = ""\n\n[prompts]'
    both = EXAMPLE.replace('target = "monet"', 'target = ""').replace("[prompts]", second)
    assert len(recipe.parse(both).concepts) == 2
