"""What the issues list as bad input, through the commands: one line with a hint, exit code 2,
nothing written, nothing touched.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import tree
from forked import GONE, Forks
from tiny_runs import EVAL, PROMPTS, RECIPE, apply, assert_resumed, furnish, hidden, pictures

LONG = "a very " + "very " * 40 + "long name"


@pytest.fixture(scope="module")
def forget(forked: Forks) -> Forks:
    return forked


@pytest.fixture(scope="module")
def place(forget: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("place"), forget)


def assert_refused(run, code: str, says: str) -> None:
    """Exit code 2; one error line and one hint, at the end of what was told; no traceback."""
    hinted = 0 if code == "recipe.type" else 1  # the line says itself what it must be
    lines = run.stderr.splitlines()
    progress, (error, *hint) = lines[: -1 - hinted], lines[-1 - hinted :]
    assert (run.code, run.stdout) == (2, ""), run.stderr
    assert (
        error.startswith(f"error[{code}]: ") and [line[:6] for line in hint] == ["hint: "] * hinted
    ), run.stderr
    assert re.search(says, "\n".join((error, *hint))), run.stderr
    assert not [line for line in progress if re.search(r"error|hint|Traceback|  File", line)]


# apply


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        (
            (("steps = 4", "step = 4"),),
            "recipe.unknown-key",
            r"bad.toml:\d+: .*'step'.*\n.*did you mean 'steps'",
        ),
        (
            (("[[concepts]]", 'method = "nulspace"\n[[concepts]]'),),
            "recipe.unknown-method",
            "'nulspace'.*\n.*did you mean 'nullspace'",
        ),
        (
            (("steps = 4", 'steps = "four"'),),
            "recipe.type",
            r"bad.toml:\d+: .*must be a whole number",
        ),
        (
            ((RECIPE[: RECIPE.index("[prompts]")], ""), ("[prompts]", "concepts = []\n[prompts]")),
            "recipe.empty",
            "nothing to forget",
        ),
        ((('"a house"', '"van gogh"'),), "recipe.conflict", "'van gogh'"),
        ((('"van gogh"', f'"{LONG}"'),), "edit.prompt-too-long", "tokens"),
        (
            (('"a house"', '"Van  Gogh"'),),
            "recipe.conflict",
            "'Van Gogh' is preserved here, and edited",
        ),
        ((('"monet"', f'"{LONG}"'),), "edit.prompt-too-long", "tokens"),
        ((("sites = [1, 2]", "sites = [1, 9]"),), "edit.no-such-site", "block 9"),
        ((("damping = 0.01", "damping = 1e9"),), "edit.no-effect", "moved 0% of the way"),
    ],
    ids=[
        "unknown key",
        "unknown method",
        "wrong type",
        "no concept",
        "edited and preserved",
        "too long",
        "the same but for case and blanks",
        "target too long",
        "no such block",
        "no effect",
    ],
)
def test_apply_refuses_a_bad_recipe(
    forget: Forks, place: Path, tmp_path: Path, changes: tuple, code: str, says: str
):
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "bad.toml").write_text(text)
    shutil.copytree(place / "other", tmp_path / "edited")
    old = tree(tmp_path)
    run = forget(tmp_path, "apply", "bad.toml", "--model", place / "sd", "--force")
    assert_refused(run, code, says)
    assert tree(tmp_path) == old


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("missing.toml",), "recipe.not-found", "missing.toml"),
        (("art.toml", "--method", "nulspace"), "recipe.unknown-method", "did you mean 'nullspace'"),
        (("art.toml", "--model", "nowhere"), "model.not-found", "'nowhere'"),
        (("art.toml", "--model", "empty"), "model.not-a-model", "model_index.json"),
        (("art.toml", "--model", "art.toml"), "model.not-a-model", "is a file"),
        (("art.toml",), "output.exists", "--force"),
        (("art.toml", "-o", "photos", "--force"), "output.not-ours", "photos"),
        (("art.toml", "-o", "art.toml", "--force"), "output.not-ours", "art.toml"),
        (("art.toml", "-o", "art.toml/edited"), "output.failed", "art.toml/edited"),
        (("art.toml", "-o", "/proc/edited"), "output.failed", "/proc/edited"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_apply_refuses_what_it_cannot_use(
    forget: Forks, place: Path, tmp_path: Path, arguments: tuple, code: str, says: str
):
    shutil.copy(place / "art.toml", tmp_path)
    shutil.copytree(place / "other", tmp_path / "edited")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"precious")
    old = tree(tmp_path)
    run = forget(
        tmp_path,
        "apply",
        *(arguments if "--model" in arguments else (*arguments, "--model", place / "sd")),
    )
    assert_refused(run, code, says)
    assert tree(tmp_path) == old and hidden(tmp_path) == []


def test_a_dry_run_refuses_a_prompt_that_is_too_long(forget: Forks, place: Path, tmp_path: Path):
    (tmp_path / "bad.toml").write_text(RECIPE.replace('"van gogh"', f'"{LONG}"'))
    assert_refused(
        forget(tmp_path, "apply", "bad.toml", "--model", place / "sd", "--dry-run"),
        "edit.prompt-too-long",
        "tokens",
    )
    assert forget(tmp_path, *apply(place, "--dry-run")).code == 0  # the control


def test_a_good_recipe_is_not_refused(forget: Forks, place: Path, tmp_path: Path):
    """The control: the recipe and the model that the others change."""
    assert forget(tmp_path, *apply(place)).code == 0 and (tmp_path / "edited").is_dir()


# generate


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--model", "nowhere"), "model.not-found", "'nowhere'"),
        (("--model", "photos"), "model.not-a-model", "model_index.json"),
        (("--model", "blind"), "model.not-a-model", "names vae/, which is missing"),
        (
            ("--model", "sd", "--compare-base"),
            "model.not-edited",
            "sd",
        ),  # said before anything is drawn
        (("--model", "sd", "--device", "tpu"), "model.no-device", "'tpu'"),
        (("--model", "sd", "-p", "none.txt"), "prompts.not-found", "none.txt"),
        (("--model", "sd", "-n", "1000000000000"), "generate.too-many", "1000000000000"),
        (("--model", "sd", "-o", "photos/holiday.jpg"), "output.failed", "photos/holiday.jpg"),
        (("--model", "sd", "-o", "/proc/images"), "output.failed", "/proc/images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_generate_refuses_what_it_cannot_use(
    forget: Forks, place: Path, tmp_path: Path, arguments: tuple, code: str, says: str
):
    (tmp_path / "sd").symlink_to(place / "sd")
    shutil.copytree(place / "sd", tmp_path / "blind", ignore=shutil.ignore_patterns("vae"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"precious")
    old = tree(tmp_path)
    assert_refused(forget(tmp_path, "generate", "a cat", "--steps", "1", *arguments), code, says)
    assert tree(tmp_path) == old and not (tmp_path / "images").exists()


def test_generate_does_draw(forget: Forks, place: Path, tmp_path: Path):
    """The control."""
    assert forget(tmp_path, "generate", "a cat", "--steps", "1", "--model", place / "sd").code == 0
    assert len(pictures(tmp_path / "images")) == 1


# eval


def garbage(place: Path) -> None:
    (place / "run.json").write_text("[]")


def torn(place: Path) -> None:
    (place / "run.json").write_bytes((place / "run.json").read_bytes()[:-9])


def replaced(place: Path) -> None:
    shutil.rmtree(place)
    place.write_text("a file")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [(garbage, "eval.other-run"), (torn, "eval.other-run"), (replaced, "output.failed")],
)
def test_eval_refuses_an_output_that_is_not_its_own(
    forget: Forks, place: Path, tmp_path: Path, spoil: Callable, code: str
):
    (tmp_path / "edited").symlink_to(place / "edited")
    shutil.copytree(place / "eval", tmp_path / "eval")
    spoil(tmp_path / "eval")
    old = (
        tree(tmp_path / "eval")
        if (tmp_path / "eval").is_dir()
        else (tmp_path / "eval").read_bytes()
    )
    assert_refused(forget(tmp_path, *EVAL), code, "eval")
    assert (
        tree(tmp_path / "eval")
        if (tmp_path / "eval").is_dir()
        else (tmp_path / "eval").read_bytes()
    ) == old


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere",), "model.not-found", "nowhere"),
        (("sd",), "model.not-edited", "sd"),
        (("orphan",), "model.not-found", "there is no model"),
        (("edited", "--recipe", "objects"), "eval.other-recipe", "van_gogh"),
        (("edited", "--prompts", "empty.txt"), "prompts.empty", "empty.txt"),
        (("edited", "-n", "1000000000000"), "generate.too-many", "1000000000000"),
        (("edited", "--prompts", "none.txt"), "prompts.not-found", "none.txt"),
        (("edited", "--judge", "dmeo"), "judge.unknown", "'dmeo'\nhint: did you mean 'demo'"),
        (("edited", "-o", "empty.txt/eval"), "output.failed", "empty.txt/eval"),
        (("edited", "-o", "/proc/eval"), "output.failed", "/proc/eval"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_eval_refuses_what_it_cannot_use(
    forget: Forks, place: Path, tmp_path: Path, arguments: tuple, code: str, says: str
):
    (tmp_path / "edited").symlink_to(place / "edited")
    (tmp_path / "sd").symlink_to(place / "sd")
    shutil.copytree(place / "edited", tmp_path / "orphan")
    manifest = tmp_path / "orphan/forget.provenance.json"
    manifest.write_text(manifest.read_text().replace(str(place / "sd"), str(place / "gone")))
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    old = tree(tmp_path)
    assert_refused(forget(tmp_path, "eval", *arguments), code, says)
    assert tree(tmp_path) == old and not (tmp_path / "eval").exists()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def damages(data: bytes, other: bytes) -> dict[str, bytes]:
    """Ways in which a picture can be spoilt; `other` is one that was made with another prompt."""
    pixels = data.index(b"IDAT") + 4
    return {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "text": b"not a picture",
        "another picture": other,
        "its size": flipped(data, 18),
        "its prompt": flipped(data, data.index(b"prompt") + 10),
        "pixels": flipped(data, pixels + 40),
        "last pixels": flipped(data, data.index(b"IEND") - 14),
    }  # before two checksums; decoders pass over it


def test_spoilt_pictures_are_drawn_again(forget: Forks, place: Path, tmp_path: Path):
    (tmp_path / "edited").symlink_to(place / "edited")
    shutil.copytree(place / "eval", tmp_path / "eval")
    paths = sorted((tmp_path / "eval").rglob("*.png"))
    whole = pictures(tmp_path / "eval")
    ways = damages(paths[0].read_bytes(), paths[-1].read_bytes())
    assert len(ways) == len(paths) == 2 * PROMPTS  # each one in another way
    for path, way in zip(paths, ways):
        path.write_bytes(
            damages(path.read_bytes(), paths[0].read_bytes() if way != "cut" else b"")[way]
        )
    assert all(data != whole[name] for name, data in pictures(tmp_path / "eval").items() if data)
    assert_resumed(forget, tmp_path, place / "eval")


def test_one_spoilt_picture_leaves_the_others_alone(forget: Forks, place: Path, tmp_path: Path):
    (tmp_path / "edited").symlink_to(place / "edited")
    shutil.copytree(place / "eval", tmp_path / "eval")
    spoilt, *others = sorted((tmp_path / "eval/edited").glob("*.png"))
    spoilt.write_bytes(flipped(spoilt.read_bytes(), spoilt.read_bytes().index(b"IEND") - 14))
    numbers = {path: path.stat().st_ino for path in others}
    run = forget(tmp_path, *EVAL)
    assert (
        run.code == 0
        and "images (edited): " in run.stderr
        and "images (sd)" not in run.stderr.replace(str(place), "")
    )
    assert {path: path.stat().st_ino for path in others} == numbers  # not written again
    assert pictures(tmp_path / "eval") == pictures(place / "eval")


@pytest.mark.parametrize(
    ("more", "code"),
    [((), 0), (("--fail-under", "forget=1,retain=1"), 1)],
    ids=["", "a gate fails"],
)
def test_a_reader_that_leaves_is_no_fault_and_the_report_is_there(
    forget: Forks, place: Path, tmp_path: Path, more: tuple, code: int
):
    (tmp_path / "edited").symlink_to(place / "edited")
    shutil.copytree(place / "eval", tmp_path / "eval")
    (tmp_path / "eval/results.json").unlink()
    run = forget(tmp_path, *EVAL, "--json", *more, stdout=GONE)
    assert run.code == code and not re.search("error|Traceback|Exception|Broken", run.stderr)
    assert json.loads((tmp_path / "eval/results.json").read_text())["n_images"] == 2 * PROMPTS


# dry runs


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("revert", "edited", "--all", "-o", "base"), "removed: 1; no edit remains"),
        (("revert", "edited", "--all", "--force"), "nothing was written"),
        (("export", "edited", "--format", "delta"), "edited-delta.safetensors"),
        (("push", "edited", "org/name"), "forget.provenance.json"),
    ],
)
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    forget: Forks, place: Path, tmp_path: Path, arguments: tuple, says: str
):
    shutil.copytree(place / "other", tmp_path / "edited")
    old = tree(tmp_path)
    run = forget(tmp_path, *arguments, "--dry-run")
    assert run.code == 0 and says in run.stdout, run.stderr
    assert tree(tmp_path) == old
    refused = forget(tmp_path, "revert", "edited", "--all", "-o", "edited", "--dry-run")
    assert_refused(refused, "output.exists", "--force")
