"""CLIP's published vocabulary: what recipes, the prior and the drafting of recipes make of it.

The embedded model and the tiny pipelines have small vocabularies of their own. Real models have
this one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_vocabulary import END, POSITIONS, START, TOKENS, needed, read_with, write_tokenizer
from pipelines import tiny_sd, tiny_sdxl
from processes import ROOT

from forgetcli import models, recipe
from forgetcli.checkpoint import base
from forgetcli.editing.alignment import pieces, subject_ends
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.models import vocabulary
from forgetcli.models.tokens import cut_prompts, tokenise
from forgetcli.pipeline.apply import apply
from forgetcli.pipeline.drafting.draft import draft
from forgetcli.pipeline.drafting.options import Options
from forgetcli.pipeline.drafting.text import recipe_text
from forgetcli.pipeline.task import task_of

pytestmark = needed

RECIPES = [ROOT / "recipes/safety.toml", *sorted((ROOT / "recipes").glob("sd*/*.toml"))]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return read_with(tiny_sd(tmp_path_factory.mktemp("sd") / "sd"))


@pytest.fixture(scope="module")
def model(sd: Path):
    return models.load(base.resolve(sd), device="cpu")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory):
    folder = read_with(tiny_sdxl(tmp_path_factory.mktemp("sdxl") / "sdxl"))
    return models.load(base.resolve(folder), device="cpu")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("a photo of a dog", [320, 1125, 539, 320, 1929]),
        ("Hello world!", [3306, 1002, 256]),
        ("", []),
    ],
)
def test_ids_are_the_published_ones(tokenizer, text: str, ids: list[int]) -> None:
    assert len(tokenizer) == TOKENS
    assert (tokenizer.bos_token, tokenizer.eos_token) == (START, END)
    assert tokenizer(text).input_ids == [49406, *ids, 49407]


def test_each_encoder_pads_as_published(sdxl) -> None:
    """SDXL's second text encoder pads with "!", the token 0."""
    (ids,) = tokenise(sdxl.tokenizer, ["a cat"]).ids.tolist()
    assert len(ids) == 2 * POSITIONS
    assert ids[:POSITIONS] == [49406, 320, 2368, *[49407] * (POSITIONS - 3)]
    assert ids[POSITIONS:] == [49406, 320, 2368, 49407, *[0] * (POSITIONS - 4)]


# the prior


def test_the_prior_is_of_words_and_not_of_endings(tokenizer) -> None:
    words = vocabulary.words(tokenizer)
    assert len(words) == vocabulary.COUNT
    assert {"house", "dog", "train", "red", "woman", "running", "forest"} <= set(words)
    endings = {"ing", "ers", "tion", "ght", "ated", "ations"}
    assert endings & set(words) == set()
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words)
    # The control: by frequency alone, most of these endings are among the first.
    ranked = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    marked = [token.removesuffix("</w>") for token, _ in ranked if token.endswith("</w>")]
    frequent = [entry for entry in marked if len(entry) > 2 and entry.isalpha()][: len(words)]
    assert endings <= set(frequent)


def test_words_in_pieces_are_known_as_such(tokenizer) -> None:
    whole = ("van gogh", "pikachu", "taylor swift", "R2D2", "a T-shirt", "Levi's", "st_john")
    assert [text for text in whole if not vocabulary.is_in_vocabulary(tokenizer, text)] == []
    broken = ("greg rutkowski", "nudity", "clergyman", "o'keeffe's barn")
    assert [text for text in broken if vocabulary.is_in_vocabulary(tokenizer, text)] == []


# recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_prompt_of_a_recipe_is_cut_off(model, sdxl, path: Path) -> None:
    read = recipe.load(path)
    tokenizer = (sdxl if path.parent.name == "sdxl" else model).tokenizer
    prompts = [prompt for pair in read.edit_pairs() for prompt in pair] + read.preserve_prompts()
    for each in (*read.concepts, *read.retain):
        prompts += [*each.direct, *each.indirect]
    assert len(prompts) > 100
    assert cut_prompts(tokenizer, prompts) == []
    assert cut_prompts(tokenizer, ["cat " * POSITIONS])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_last_token_of_a_subject_is_the_concepts_last_one(tokenizer, path: Path) -> None:
    """Against the text: the concept ends where the template's part before it and the concept end.

    A word that the concept and its target end with is not the subject's: "golf ball" turns into
    "tennis ball".
    """
    read = recipe.load(path)
    for concept in read.concepts:
        words = [word for word in concept.words if word.split()[-1] != concept.target.split()[-1]]
        for word in words:
            for template in read.prompts.templates:
                before = template.partition("{}")[0]
                left, right = (
                    pieces(tokenizer, tokenizer(template.replace("{}", text)).input_ids)
                    for text in (word, concept.target)
                )
                expected = tuple(
                    len(tokenizer.tokenize(before + text)) for text in (word, concept.target)
                )
                assert subject_ends(left, right) == expected, (word, template)


@pytest.mark.parametrize(
    ("template", "concept", "target"),
    [
        ("{} at night", "a jailhouse", "a schoolhouse"),
        ("a picture by {}", "van eyck", "van dyck"),
        ("a person {}", "frowning", "donning"),
    ],
)
def test_pieces_of_different_words_are_not_shared(
    tokenizer, template: str, concept: str, target: str
) -> None:
    """The subject ends with its last word, though both prompts have that word's last piece."""
    left, right = (
        tokenizer(template.replace("{}", text)).input_ids[:-1] for text in (concept, target)
    )
    end = len(tokenizer.tokenize(template.partition("{}")[0] + concept))
    assert subject_ends(pieces(tokenizer, left), pieces(tokenizer, right))[0] == end
    assert subject_ends(left, right)[0] < end  # the control: by their ids alone


# drafting


@pytest.mark.parametrize(
    ("concept", "alias", "ambiguous"),
    [
        ("Grant Wood", "", "Wood"),
        ("Daniel Chester French", "", "French"),
        ("David Smith", "David Roland Smith", "Smith"),
        ("Claude Monet", "Monet", ""),
        ("pablo picasso", "Picasso", ""),
        ("van gogh", "Vincent van Gogh", ""),
    ],
)
def test_a_surname_that_says_something_else_is_no_alias(
    model, concept: str, alias: str, ambiguous: str
) -> None:
    (drafted,) = draft(model, [concept], Options(kind="style", target="anime")).concepts
    assert not alias or alias in drafted.aliases
    assert not ambiguous or ambiguous not in drafted.aliases
    assert ambiguous not in drafted.near


def test_a_word_is_not_a_person_of_that_name(model) -> None:
    (king,) = draft(model, ["king"], Options(target="dog")).concepts
    assert king.kind.name == "person"
    assert not [text for text in king.indirect if "tennis" in text]


@pytest.mark.parametrize(
    "concept", ["van gogh", "greg rutkowski", "nudity", "a gun", "a clergyman", "juggling", "R2D2"]
)
def test_drafts_are_recipes_for_this_vocabulary(model, concept: str) -> None:
    text = recipe_text(draft(model, [concept]), model="model")
    read = recipe.parse(text)
    prompts = [prompt for pair in read.edit_pairs() for prompt in pair] + read.preserve_prompts()
    assert cut_prompts(model.tokenizer, prompts) == []
    shared = task_of(read, model.base, MomentCache(), tokenizer=model.tokenizer).shared
    # With the embedded model's tokenizer it is 257.
    assert 2000 < sum(map(len, shared)) < 2937


def test_a_draft_is_applied(model, sd: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(draft(model, ["van gogh"]), model=str(sd), method="uce"))
    done = apply(path, output=tmp_path / "edited", device="cpu", strict=False)
    assert done.sites
    assert (tmp_path / "edited/unet").is_dir()
