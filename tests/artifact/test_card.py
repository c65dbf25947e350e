"""Claims: every edit has a card that the hub can read; whatever a recipe holds, it is text there;
scores come from an evaluation of this model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from pipelines import tiny_sd
from tiny_runs import RECIPE

from forgetcli import recipe as recipes
from forgetcli.artifact import card, integrity, markdown
from forgetcli.artifact import manifest as manifests
from forgetcli.checkpoint import base
from forgetcli.errors import ModelError, OutputError
from forgetcli.pipeline.apply import apply
from forgetcli.storage.files import walk_files

NASTY = "<script>alert(1)</script> ![x](http://evil.example/p.png) | `a` **b** www.evil.example [c](d)\u202e\u2028---\u0085 license: cc0"  # noqa: E501
BASE_CARD = "---\nlicense: creativeml-openrail-m\nlicense_link: LICENSE\ntags: [a]\nmodel: {x: 1}\n---\n# The base's own words\n"  # noqa: E501


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tiny_sd(tmp_path_factory.mktemp("carded") / "sd")
    (folder / "README.md").write_text(BASE_CARD)
    return folder


@pytest.fixture(scope="module")
def applied(original, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("applied")
    (place / "art.toml").write_text(RECIPE)
    apply(
        place / "art.toml", model=str(original), output=place / "edited", device="cpu", strict=False
    )
    return place / "edited"


@pytest.fixture
def edited(applied, tmp_path) -> Path:
    import shutil

    return Path(shutil.copytree(applied, tmp_path / "edited"))


def front_matter(text: str) -> dict:
    before, front, _ = text.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(front)


def test_an_edit_has_a_card_that_says_what_was_done(applied, original):
    text = (applied / "README.md").read_text()
    front = front_matter(text)
    assert front == {
        "pipeline_tag": "text-to-image",
        "library_name": "diffusers",
        "license": "creativeml-openrail-m",
        "license_link": "LICENSE",
        "tags": ["text-to-image", "concept-erasure", "unlearning", "forget"],
    }
    assert (
        "| van gogh | monet |" in text
        and "2 of the base's tensors" in text
        and "Not evaluated yet" in text
    )
    assert manifests.load(applied).recipe_sha256 in text and "mlp\\.fc2" in text
    assert (
        "The base's own words" not in text and str(original.parent) not in text
    )  # nor where it lay on this disk
    verdict = integrity.verify(applied)
    assert verdict.ok, verdict.problems
    assert "README.md" in manifests.load(applied).written


def test_the_hub_reads_the_front_matter(applied):
    from huggingface_hub import ModelCard

    read = ModelCard.load(applied / "README.md")
    assert (read.data.license, read.data.pipeline_tag, read.data.library_name) == (
        "creativeml-openrail-m",
        "text-to-image",
        "diffusers",
    )


def test_a_model_of_the_hub_is_named_as_the_base_and_the_embedded_one_brings_its_attribution():
    recipe = recipes.parse(RECIPE)
    fields = {"sites": [], "check": {}}
    assert (
        front_matter(card.render(recipe, card.History("org/name", None), carried={}, **fields))[
            "base_model"
        ]
        == "org/name"
    )
    demo = card.render(
        recipe, card.History("demo", None), carried=card.carried(Path("none"), "demo"), **fields
    )
    assert (
        front_matter(demo)["license"] == "mit"
        and "Twemoji" in demo
        and "base_model" not in front_matter(demo)
    )


def test_text_of_a_recipe_stays_text():
    recipe = recipes.parse(
        f"[[concepts]]\nconcept = {json.dumps(NASTY)}\ntarget = 'x'\naliases = ['a|b', '# c']\n"
    )
    text = card.render(
        recipe,
        card.History("org/name", NASTY, 1, recipe.concepts),
        carried={"license": NASTY},
        sites=[{"name": NASTY, "delta_rel": 1.0, "preserve_drift": None}],
        check={"moved": 0.5, "preserve_drift": 0.1},
        scores={
            "judge": NASTY,
            "n_images": 2,
            "rows": [("unedited", {"forget": 0.5, "forget_ci": [0.1, 0.9]})],
        },
    )
    shown = text.split("---\n", 2)[2]
    assert "<" not in shown.replace("<pypi", "") and "alert\\(1\\)" in shown
    assert (
        "](http" not in shown.replace("](https://pypi.org", "")
        and "www.evil" not in shown
        and "**b**" not in shown
    )
    assert not set("\u202e\u2028\u0085") & set(text)
    assert front_matter(text)["license"] == card._plain(NASTY)
    (row,) = [line for line in shown.splitlines() if "a\\|b" in line]
    assert row.replace("\\|", "").count("|") == 4  # its own table's bars only
    raw = text.replace("\\", "")  # control: without the backslashes it would be markup
    assert "](http://evil" in raw and "**b**" in raw


def test_markdown_shows_the_text_when_it_is_rendered():
    markdown_it = pytest.importorskip("markdown_it")
    shown = markdown_it.MarkdownIt("commonmark").renderInline(markdown.escaped(NASTY))
    assert (
        "<script" not in shown
        and "<a " not in shown
        and "<img" not in shown
        and "<strong>" not in shown
    )
    assert "**b** www.evil.example [c](d)" in shown


def test_scores_of_this_model_get_into_the_card_and_the_manifest_follows(edited, tmp_path):
    digest = base.resolve(edited).digest
    side = {
        "forget": 0.9,
        "forget_ci": [0.8, 0.97],
        "forget_direct": 1.0,
        "forget_indirect": None,
        "retain": 0.5,
        "h": 0.6429,
        "h_ci": [0.5, 0.7],
    }
    results = {
        "judge": {"name": "demo"},
        "n_images": 40,
        "baseline": {**side, "forget": 0.0},
        "models": [{"digest": digest, "edited": side}],
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    weights = edited / "unet" / "diffusion_pytorch_model.safetensors"
    (edited / "forget.signature.json").write_text("{}")
    inode = weights.stat().st_ino
    assert card.rewrite(edited, tmp_path / "results.json") == edited / "README.md"
    text = (edited / "README.md").read_text()
    assert (
        "| this model | 0.900 (0.80–0.97) | 1.000 | – | 0.500 | 0.643 (0.50–0.70) |" in text
        and "40 pictures" in text
    )
    assert (
        front_matter(text)["license"] == "creativeml-openrail-m"
    )  # of the card before, which had it from the base
    assert integrity.verify(edited).ok and not (edited / "forget.signature.json").exists()
    assert (
        base.resolve(edited).digest == digest
    )  # so the pictures and scores there are still this model's
    assert weights.stat().st_ino == inode  # gigabytes are not copied for it
    card.rewrite(edited)
    assert "Not evaluated yet" in (edited / "README.md").read_text() and integrity.verify(edited).ok


def scored(edited: Path, **changes: object) -> str:
    """An evaluation of this model with some of its values replaced."""
    side = {"forget": 0.9, "forget_ci": [0.8, 1.0], "retain": 0.5, "retain_ci": [0.4, 0.6], "h": 1}
    values = {
        "judge": {"name": "demo"},
        "n_images": 4,
        "baseline": side,
        "models": [{"digest": base.resolve(edited).digest, "edited": {**side, **changes}}],
    }
    return json.dumps({**values, **{key: changes[key] for key in values.keys() & changes}})


def test_scores_of_another_model_are_refused_and_the_folder_stays(edited, tmp_path):
    before = {path: (edited / path).read_bytes() for path in walk_files(edited)}
    for content in (
        '{"judge": {"name": "demo"}, "n_images": 1, "baseline": {}, "models": [{"digest": "0", "edited": {}}]}',  # noqa: E501
        "{}",
        "[",
        "null",
        scored(edited, h="0.5"),
        scored(edited, forget_ci=[0.5, "x"]),
        scored(edited, retain_ci=[0.5]),
        scored(edited, forget=[]),
        scored(edited, n_images=float("inf")),
        scored(edited, baseline=[]),
        scored(edited, judge="demo"),
    ):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(OutputError) as error:
            card.rewrite(edited, tmp_path / "results.json")
        assert error.value.code == "card.results", content
    (tmp_path / "results.json").unlink()
    os.mkfifo(tmp_path / "results.json")  # opening it would wait for a writer
    with pytest.raises(OutputError):
        card.rewrite(edited, tmp_path / "results.json")
    assert {path: (edited / path).read_bytes() for path in walk_files(edited)} == before
    with pytest.raises(ModelError):
        card.rewrite(tmp_path)


def test_a_rewritten_card_hides_no_other_change(edited):
    path = edited / "unet" / "config.json"
    path.write_text(path.read_text() + " ")
    card.rewrite(edited)
    assert next(p.file for p in integrity.verify(edited).problems) == "unet/config.json"


def test_the_command(forget, edited):
    done = forget("card", edited, "-q")
    assert (done.code, done.stdout) == (0, f"{edited / 'README.md'}{os.linesep}"), done.stderr
