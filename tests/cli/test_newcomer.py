"""What a newcomer does wrong in the first hour: one line that says what is wrong, at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image
from processes import python
from recipe_example import EXAMPLE

import forgetcli
from forgetcli import recipe
from forgetcli.artifact import known_models
from forgetcli.bundled.demo import label_of
from forgetcli.cli import errors, progress
from forgetcli.errors import ForgetError
from forgetcli.generation.images import ImageRequest
from forgetcli.models.tokens import cut_prompts

HEAVY = ("torch", "transformers", "diffusers", "numpy")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "x", "--model", "nope"), "there is no model 'nope'"),
        (("compare", "art_styles", "--model", "nope"), "there is no model 'nope'"),
        (("inspect", "nope"), "there is no model 'nope'"),
        (("eval", "nowhere"), "there is no folder nowhere"),
        (("attack", "nowhere"), "there is no folder nowhere"),
        (("revert", "nowhere", "--all"), "there is no folder nowhere"),
    ],
)
def test_a_missing_model_is_told_before_libraries_load(arguments: tuple, says: str, tmp_path: Path):
    script = (
        f"import sys; sys.argv = ['forget', *{arguments!r}]\n"
        "from forgetcli.cli import main\n"
        "code = main()\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = python(script, cwd=tmp_path)
    error, hint, loaded = done.stderr.splitlines()
    assert done.returncode == 2 and error == f"error[model.not-found]: {says}"
    assert hint.startswith("hint: ") and loaded == "[]" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["log", "card", "verify"])
def test_a_missing_folder_is_said_to_be_missing(command: str, forget):
    run = forget(command, "nowhere")
    assert run.code == 2 and "error[model.not-found]: there is no folder nowhere\n" in run.stderr


def test_a_folder_of_somebody_else_is_not_said_to_be_missing(forget, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    assert "error[model.not-edited]: photos was not made" in forget("log", "photos").stderr


@pytest.mark.parametrize("guidance", [math.nan, math.inf, -math.inf])
def test_a_guidance_that_is_no_number_is_refused_in_python_too(guidance: float):
    with pytest.raises(ForgetError, match="not a finite number"):
        ImageRequest("a dog", 0, guidance=guidance)
    assert ImageRequest("a dog", 0, guidance=1.0).settings["guidance"] == 1.0


RETAIN = '[[retain]]\nconcept = "pixel art"\n'
UNKNOWN = '[[retain]]\nconcept = "my aunt"\ndirect = ["my aunt at home"]\n'


def test_a_retained_concept_without_a_name_for_the_demo_judge_is_told(forget, tmp_path: Path):
    text = EXAMPLE.replace(RETAIN, UNKNOWN)
    (warning,) = recipe.parse(text).unjudged
    assert "the demo judge has no name for 'my aunt'" in warning
    assert warning.startswith(f"recipe:{text[: text.index('my aunt')].count(chr(10)) + 1}: ")
    # a label that it knows, no prompts to score, another model: no warning
    assert recipe.parse(EXAMPLE).unjudged == ()
    named = UNKNOWN.replace("direct", 'label = "dog"\ndirect')
    assert recipe.parse(EXAMPLE.replace(RETAIN, named)).unjudged == ()
    assert recipe.parse(text).warnings_on("some/other") == ()
    (tmp_path / "aunt.toml").write_text(text)
    run = forget("recipe", "validate", "aunt.toml")
    assert run.code == 0 and "my aunt" in run.stderr
    assert run.stderr.startswith("warning: aunt.toml:")


def test_judges_are_listed_with_what_they_know(forget):
    listed = forget("judges", "--json").json["judges"]
    by_name = {judge["name"]: judge for judge in listed}
    assert {"demo", "clip", "vlm", "nudenet"} <= set(by_name)
    assert by_name["clip"]["knows"] is None and "model" in by_name["clip"]["settings"]
    known = by_name["demo"]["knows"]
    assert (len(known["things"]), len(known["styles"])) == (41, 10)
    # the names that recipes are checked against are those of the judge's own card
    assert all(label_of(label) == label for labels in known.values() for label in labels)
    assert forget("judges", "nudenet", "-q").stdout == "nudity\n"
    run = forget("judges", "demoo")
    assert run.code == 2 and "did you mean 'demo'?" in run.stderr


class Words:
    """A tokenizer of words that reads eight tokens, two of them its own."""

    model_max_length = 8
    added_tokens_encoder: ClassVar[dict[str, int]] = {}

    def tokenize(self, text: str) -> list[str]:
        return text.split()

    def num_special_tokens_to_add(self) -> int:
        return 2


def test_prompts_longer_than_the_model_reads_are_found():
    fits, too_long = "a b c d e f", "a b c d e f g"
    (found,) = cut_prompts(Words(), [fits, too_long, too_long])
    assert (found.prompt, found.tokens, found.limit) == (too_long, 9, 8)


def test_a_long_prompt_is_told_when_images_are_made(forget):
    long = "a dog " * 100
    run = forget("generate", "a cat", long, "--steps", "1", "-o", "images")
    assert run.code == 0, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if "has no effect" in line]
    assert line.startswith("the prompt 'a dog a dog") and "202 tokens" in line


def test_a_folder_without_an_edit_is_not_listed_as_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Manifest:
        edited: tuple = ()

    monkeypatch.chdir(tmp_path)
    (tmp_path / "reverted").symlink_to(known_models.MODEL)
    monkeypatch.setattr(Path, "glob", lambda *_: iter([tmp_path / "reverted" / "manifest"]))
    monkeypatch.setattr(known_models.manifests, "load", lambda folder: Manifest())
    assert [m.description for m in known_models.known()][1:] == [known_models.UNEDITED]
    Manifest.edited = ("a tensor",)
    assert [m.description for m in known_models.known()][1:] == [known_models.EDITED]


def test_a_quiet_dry_run_prints_no_path(forget, tmp_path: Path):
    run = forget("apply", "art_styles", "--dry-run", "-q")
    assert (run.code, run.stdout) == (0, "") and not (tmp_path / "edited").exists()
    assert forget("apply", "art_styles", "--dry-run", "--json").json["sites"]


def test_an_image_records_only_the_settings_that_were_asked_for():
    """Images from before these settings existed keep their origin, and are found again."""
    plain = ImageRequest("a dog", 0)
    assert plain.origin("m") == {
        "prompt": "a dog",
        "seed": 0,
        "model": "m",
        "steps": 20,
        "guidance": None,
    }
    asked = ImageRequest("a dog", 0, width=32, negative="blue").origin("m", "bfloat16")
    assert (asked["width"], asked["negative_prompt"], asked["dtype"]) == (32, "blue", "bfloat16")


def test_an_image_of_another_size(forget, tmp_path: Path):
    asked = ("generate", "a cat", "--steps", "1", "--width", "32", "--dtype", "bfloat16")
    run = forget(*asked, "--negative-prompt", "a dog", "-q")
    assert run.code == 0, run.stderr
    with Image.open(tmp_path / run.stdout.strip()) as image:
        assert image.size == (32, 64)
    assert forget("generate", "a cat", "--width", "33").code == 2


@pytest.mark.parametrize(
    ("steps", "total", "left"),
    [(0, 6, ""), (1, 6, "about 5 min 00 s left"), (6, 6, ""), (3, None, "")],
)
def test_time_left_is_told_after_the_first_step(steps: int, total: int | None, left: str):
    assert progress.time_left(steps, total, 60.0 * steps) == left


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for command, hint in (("eval", "goes on with the images"), ("log", "")):
        monkeypatch.setattr("sys.argv", ["forget", command])
        assert errors.report_signal(2) == 130
        line, *hints = capsys.readouterr().err.splitlines()
        assert line.startswith("error[interrupted]") and bool(hints) == bool(hint)
        assert hint in "".join(hints)


def test_the_library_lists_its_functions():
    assert set(forgetcli.__all__) <= set(dir(forgetcli))
    assert (Path(forgetcli.__file__).parent / "py.typed").exists()
