"""The output folder of a run: what --force deletes, and what it never touches."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from forgetcli.errors import ForgetError, OutputError
from forgetcli.evaluation import run
from forgetcli.evaluation.questions import Question
from forgetcli.evaluation.run import EvaluationSettings
from forgetcli.evaluation.run_folder import (
    MAX_RUN_BYTES,
    RUN,
    claim,
    discard,
    fresh,
    is_ours,
    marker_of,
)

MODELS = {"unedited": "x", "edited": "y"}


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below `folder`: the content of files, the target of links, None for folders."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A run's folder with images, beside and among a user's own files."""
    output = tmp_path / "eval"
    claim(output, {"models": MODELS, "seed": 0}, force=False)
    for name in (*MODELS, "verdicts"):
        (output / name).mkdir(exist_ok=True)
        (output / name / ("log.jsonl" if name == "verdicts" else "0.png")).write_bytes(b"image")
    (output / "mine").mkdir()
    (output / "mine/thesis.txt").write_text("precious")
    (output / "notes.txt").write_text("precious")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/thesis.txt").write_text("precious")
    return output


def another(output: Path, seed: int = 1, also: tuple[str, ...] = ()) -> None:
    claim(output, {"models": MODELS, "seed": seed}, force=True, also=also)


def precious(output: Path) -> dict[str, object]:
    return {name: data for name, data in tree(output.parent).items() if data == b"precious"}


def test_force_deletes_the_images_of_the_other_run_and_nothing_else(output: Path):
    before = precious(output)
    another(output)
    assert precious(output) == before and len(before) == 3
    assert not list(output.rglob("*.png")) and not list(output.rglob("*.jsonl"))
    assert all(is_ours(output / name) for name in (*MODELS, "verdicts"))
    assert json.loads((output / RUN).read_text())["seed"] == 1


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "../beside", "mine", "mine/", "./mine", "..\\beside", "\0", "~"]
)
def test_a_name_in_run_json_decides_nothing(output: Path, name: str):
    (output / "a/b").mkdir(parents=True)
    (output / "a/b/thesis.txt").write_text("precious")
    before = precious(output)
    (output / RUN).write_text(json.dumps({"models": {name: "0"}}))
    another(output)
    assert precious(output) == before and len(before) == 4


def test_an_absolute_name_in_run_json_decides_nothing(output: Path):
    before = precious(output)
    (output / RUN).write_text(json.dumps({"models": {str(output.parent / "beside"): "0"}}))
    another(output)
    assert precious(output) == before


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"models": content})
        for content in (None, 7, True, "mine", [None], [7], ["mine"], [".."], {"mine": {}})
    ]
    + ["null", "7", "[]", '"mine"', "{", "", "\ud800", "[" * 100_000],
    ids=lambda content: content[:20],
)
def test_a_run_json_of_any_form_decides_nothing(output: Path, content: str):
    before = precious(output)
    (output / RUN).write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(ForgetError) as refused:
        claim(output, {"models": MODELS, "seed": 1}, force=False)
    assert refused.value.code == "eval.other-run"
    another(output)
    assert precious(output) == before


@pytest.mark.parametrize("name", ["edited", "unedited", "verdicts"])
def test_a_folder_of_the_user_in_the_way_is_refused(tmp_path: Path, name: str):
    output = tmp_path / "eval"
    (output / name).mkdir(parents=True)
    (output / name / "thesis.txt").write_text("precious")
    claim(output, {"models": MODELS, "seed": 0}, force=False)
    before = tree(tmp_path)
    with pytest.raises(ForgetError) as refused:
        another(output)
    assert refused.value.code == "eval.not-ours" and name in refused.value.message
    assert "-o" in refused.value.hint and tree(tmp_path) == before


@pytest.mark.parametrize("target", ["beside", "beside/thesis.txt", "nowhere"])
@pytest.mark.parametrize("name", ["edited", "verdicts", "study.log", "trials"])
def test_a_link_in_the_way_is_refused_and_not_followed(output: Path, name: str, target: str):
    beside = output.parent / "beside"
    (beside / marker_of(name)).touch()
    if (output / name).exists():
        (output / name).rename(output.parent / "aside")
    (output / name).symlink_to(output.parent / target)
    before = tree(output.parent)
    with pytest.raises(ForgetError) as refused:
        another(output, also=("study.log", "trials"))
    assert refused.value.code == "eval.not-ours" and tree(output.parent) == before


def test_a_link_that_is_a_marker_proves_nothing(output: Path):
    (output / "mine" / marker_of("mine")).symlink_to(output / "edited" / marker_of("edited"))
    before = precious(output)
    another(output)
    assert precious(output) == before


def test_a_copy_under_another_name_is_kept(output: Path):
    (output / "edited").rename(output / "best")
    another(output)
    assert (output / "best/0.png").read_bytes() == b"image"
    assert not (output / "unedited/0.png").exists()


def test_a_folder_in_a_folder_is_kept(output: Path):
    inner = output / "mine/edited"
    inner.mkdir()
    (inner / marker_of("edited")).touch()
    before = tree(output / "mine")
    another(output)
    assert tree(output / "mine") == before


def test_files_and_folders_of_a_search_are_deleted(output: Path):
    also = ("study.log", "trials")
    another(output, 1, also)
    assert is_ours(output / "trials") and not (output / "study.log").exists()
    (output / "study.log").write_text("a study")
    (output / "trials/0003").mkdir()
    another(output, 1, also)
    assert (output / "study.log").exists() and (output / "trials/0003").exists()
    another(output, 2, also)
    assert not (output / "study.log").exists() and not (output / "trials/0003").exists()
    (output / "study.log").mkdir()
    with pytest.raises(ForgetError) as refused:
        another(output, 3, also)
    assert refused.value.code == "eval.not-ours"


def test_a_run_that_was_killed_while_it_made_its_folders_continues(output: Path):
    for name in ("edited", "verdicts"):
        for file in (output / name).iterdir():
            file.unlink()
    (output / "verdicts").rmdir()
    claim(output, {"models": MODELS, "seed": 0}, force=False)
    assert is_ours(output / "edited") and is_ours(output / "verdicts")
    assert (output / "unedited/0.png").exists()


def test_a_run_without_images_makes_no_folders(tmp_path: Path):
    claim(tmp_path / "compare", {"models": {}, "bases": {"a": "b"}}, force=False)
    assert os.listdir(tmp_path / "compare") == [RUN]


def test_a_folder_that_cannot_be_written_is_an_output_fault(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        claim(tmp_path / "file/eval", {"models": MODELS}, force=False)


@pytest.mark.parametrize("name", ["edited", "verdicts", "trials", "study.log", RUN])
@pytest.mark.parametrize("force", [False, True])
def test_a_pipe_or_link_in_the_way_is_refused_and_never_opened(
    tmp_path: Path, name: str, force: bool
):
    output = tmp_path / "tune"
    output.mkdir()
    for plant in (lambda path: os.mkfifo(path), lambda path: path.symlink_to(tmp_path)):
        plant(output / name)
        before = tree(tmp_path)
        with pytest.raises(ForgetError) as refused:
            claim(output, {"models": MODELS}, force, also=("study.log", "trials"))
        assert refused.value.code == "eval.not-ours" and tree(tmp_path) == before
        (output / name).unlink()


def test_a_folder_in_a_marked_folder_is_not_deleted_without_its_own_marker(output: Path):
    (output / "edited/mine").mkdir()
    (output / "edited/mine/thesis.txt").write_text("precious")
    before = tree(output.parent)
    with pytest.raises(ForgetError) as refused:
        another(output)
    assert refused.value.code == "eval.not-ours" and "edited/mine" in refused.value.message
    assert tree(output.parent) == before


def test_a_link_in_a_marked_folder_goes_and_its_target_stays(output: Path):
    (output / "edited/link").symlink_to(output.parent / "beside")
    before = precious(output)
    another(output)
    assert precious(output) == before and not (output / "edited/link").is_symlink()


@pytest.mark.parametrize("mounted", ["edited", "edited/disk", "trials/0003/edited/disk"])
def test_a_mount_point_is_not_deleted(output: Path, monkeypatch: pytest.MonkeyPatch, mounted: str):
    another(output, 1, ("study.log", "trials"))
    fresh(output / "trials/0003")
    (output / mounted).mkdir(parents=True, exist_ok=True)
    is_mount = os.path.ismount
    monkeypatch.setattr(
        "os.path.ismount", lambda path: Path(path) == output / mounted or is_mount(path)
    )
    before = tree(output.parent)
    with pytest.raises(ForgetError) as refused:
        another(output, 2, ("study.log", "trials"))
    assert refused.value.code == "eval.not-ours" and tree(output.parent) == before


def test_a_study_without_marked_folders_is_the_users(output: Path):
    (output / "tune").mkdir()
    place = output / "tune"
    (place / RUN).write_text('{"name": "another program"}')
    (place / "study.log").write_text("precious")
    before = precious(output)
    with pytest.raises(ForgetError) as refused:
        another(place, also=("study.log", "trials"))
    assert refused.value.code == "eval.not-ours" and precious(output) == before


def test_a_trials_folder_is_made_new_and_only_ours_is_replaced(tmp_path: Path):
    trial = tmp_path / "0000"
    fresh(trial)
    (trial / "edited").mkdir()
    (trial / "edited/model").write_text("left by a killed run")
    (trial / "edited/link").symlink_to(tmp_path)
    fresh(trial)
    assert is_ours(trial) and len(list(trial.iterdir())) == 1
    (trial / marker_of("0000")).unlink()
    (trial / "thesis.txt").write_text("precious")
    for remove in (fresh, discard):
        with pytest.raises(ForgetError) as refused:
            remove(trial)
        assert refused.value.code == "eval.not-ours" and (trial / "thesis.txt").exists()


def test_images_of_another_run_are_kept_where_each_says_what_it_is_of(output: Path):
    claim(output, {"models": MODELS, "seed": 1}, force=False, keep_images=True)
    assert (output / "edited/0.png").exists()
    assert json.loads((output / RUN).read_text())["seed"] == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
def test_a_model_whose_folder_has_no_plain_name_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ForgetError) as refused:
        claim(tmp_path / "eval", {"models": {name: "x"}}, force=True)
    assert refused.value.code == "eval.bad-name" and os.listdir(tmp_path) == []


def test_a_folder_of_a_version_without_markers_resumes_and_is_never_deleted(output: Path):
    for marker in output.rglob("forget.run-*"):
        marker.unlink()
    claim(output, {"models": MODELS, "seed": 0}, force=False)
    assert (output / "edited/0.png").exists()
    before = tree(output.parent)
    with pytest.raises(ForgetError) as refused:
        another(output)
    assert refused.value.code == "eval.not-ours" and "older version" in refused.value.hint
    assert tree(output.parent) == before


def test_the_identity_of_a_run_is_that_of_earlier_versions():
    """Else no folder of an earlier version would resume. The digest is from commit 37e56ee."""
    settings = EvaluationSettings(images=2, seed=3, steps=20, guidance=None, batch=8)
    asked = [
        Question("van gogh", "van gogh", "a sketch by van gogh"),
        Question("dog", "dog", "a dog", "indirect", "animals", 1, 7.5, 64, 32, 10),
    ]
    model = SimpleNamespace(name="unedited", base=SimpleNamespace(digest="x"))
    assert run._identity([model], settings, asked) == {
        "models": {"unedited": "x"},
        "images": 2,
        "seed": 3,
        "steps": 20,
        "guidance": None,
        "batch": 8,
        "prompts": "b9e0ccc5bf9d45964753bc6599123a437a4efeaddd99d01f0a0d49b7d998f3e1",
    }


def test_a_huge_run_json_is_another_run(output: Path):
    with open(output / RUN, "ab") as file:
        file.truncate(MAX_RUN_BYTES * 2)
    with pytest.raises(ForgetError) as refused:
        claim(output, {"models": MODELS, "seed": 0}, force=False)
    assert refused.value.code == "eval.other-run"
