"""Claims, against a local stand-in of the hub: an edit is checked and repeated from the name of its
repository; what is in it decides nothing about other files of this machine or what else is fetched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from faults import tree
from forked import Forks
from hub_server import COMMIT, environment, hub
from pipelines import tiny_sd
from processes import ERROR_LINE, Run
from tiny_runs import RECIPE

from forgetcli.artifact import manifest as manifests
from forgetcli.pipeline.apply import apply

REPO = "me/tiny"
WEIGHTS = "text_encoder/model.safetensors"


@dataclass(frozen=True)
class Asking:
    """A hub and commands that ask it.

    Attributes:
        home: the folder of what they have fetched.
    """

    hub: ThreadingHTTPServer
    forks: Callable[..., Run]
    home: Path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("published")
    (place / "art.toml").write_text(RECIPE)
    tiny_sd(place / "sd")
    apply(
        place / "art.toml",
        model=str(place / "sd"),
        output=place / "edited",
        device="cpu",
        strict=False,
    )
    return place


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """`repo`, what the hub has."""
    shutil.copytree(original / "edited", tmp_path / "repo")
    shutil.copytree(original / "sd", tmp_path / "sd")
    return tmp_path


@pytest.fixture(scope="module")
def asking(forked: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    home = tmp_path_factory.mktemp("hf")
    with hub() as hub_at:
        yield Asking(hub_at, partial(forked, **environment(hub_at, home)), home)


@pytest.fixture
def hub_at(asking: Asking, place: Path) -> ThreadingHTTPServer:
    """The hub with the repository; nothing has been fetched from it."""
    shutil.rmtree(asking.home)
    asking.home.mkdir()
    asking.hub.asked.clear()
    asking.hub.repos = {REPO: place / "repo"}
    return asking.hub


@pytest.fixture
def run(asking: Asking, hub_at: ThreadingHTTPServer, tmp_path: Path) -> Callable[..., Run]:
    return partial(asking.forks, tmp_path)


def assert_refused(run: Run, code: str, says: str) -> None:
    assert (run.code, run.stdout) == (2, "")
    line = run.stderr[run.stderr.index("error[") :]
    assert ERROR_LINE.fullmatch(line) and f"error[{code}]" in line and says in line, run.stderr


def of_other_people(hub_at: ThreadingHTTPServer) -> list[str]:
    return [path for path in hub_at.asked if REPO not in path]


def change_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / manifests.MANIFEST
    data = json.loads(path.read_text())
    change(data["predicate"]["buildDefinition"]["externalParameters"])
    path.write_text(json.dumps(data))


def test_a_repository_is_verified_and_the_edit_repeated(
    run: Callable[..., Run], place: Path, hub_at: ThreadingHTTPServer
):
    done = run("verify", REPO, "--base", "sd", "--rebuild", "--json")
    assert done.code == 0, done.stdout + done.stderr
    assert done.json["model"] == f"{REPO}@{COMMIT}"
    assert any("repeated here, gives all" in claim for claim in done.json["proved"])
    # The second time everything is in the cache.
    hub_at.asked.clear()
    done = run("apply", "--from", REPO, "--model", "sd", "-o", "again")
    assert done.code == 0, done.stderr
    assert f"2 of 2 edited tensors are those of {REPO}@{COMMIT}, byte for byte" in done.stdout
    assert done.stderr.splitlines()[-1] == "next: forget eval again"
    assert (place / "again" / WEIGHTS).read_bytes() == (place / "repo" / WEIGHTS).read_bytes()
    assert (place / "sd" / WEIGHTS).read_bytes() != (place / "repo" / WEIGHTS).read_bytes()
    assert not [path for path in hub_at.asked if "/resolve/" in path]
    assert of_other_people(hub_at) == []


def test_a_changed_repository_is_named_and_not_repeated(run: Callable[..., Run], place: Path):
    (place / "repo" / "unet" / "extra.bin").write_bytes(b"a pickle")
    done = run("verify", REPO)
    assert done.code == 1 and "unet/extra.bin" in done.stdout
    before = tree(place)
    assert_refused(
        run("apply", "--from", REPO, "--model", "sd", "-o", "again"),
        "apply.not-verified",
        "unet/extra.bin",
    )
    assert tree(place) == before


@pytest.mark.parametrize("name", [None, "evil/model"])
def test_the_base_is_used_only_if_the_user_names_it_or_it_is_here(
    run: Callable[..., Run], place: Path, hub_at: ThreadingHTTPServer, name: str | None
):
    """Not from a path in the manifest, though there is a model; nor from the network."""
    assert Path(manifests.load(place / "repo").base_id, "model_index.json").is_file()
    if name is not None:
        change_manifest(place / "repo", lambda parameters: parameters["model"].update(id=name))
    before = tree(place)
    done = run("verify", REPO, "--rebuild")
    assert_refused(done, "model.not-found", name or "a folder on another machine")
    done = run("apply", "--from", REPO, "-o", "again")
    assert_refused(done, "apply.no-base", name or "a folder on another machine")
    assert "name it with --model" in done.stderr
    assert of_other_people(hub_at) == [] and hub_at.asked
    assert tree(place) == before


def test_another_base_is_refused(run: Callable[..., Run], place: Path):
    tiny_sd(place / "other", seed=3)
    assert_refused(
        run("apply", "--from", REPO, "--model", "other", "-o", "again"),
        "apply.other-base",
        "its digest is",
    )
    assert not (place / "again").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("apply", "--from", "me/nothing"), "model.not-found"),
        (("apply", "--from", "no-name"), "model.not-found"),
        (("apply", "art_styles", "--from", REPO), "usage"),
        (("apply", "--from", REPO, "--set", "seed=1"), "usage"),
        (("apply", "--from", REPO, "-o", "sd"), "output.exists"),
        (("verify", "me/nothing"), "model.not-found"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else None,
)
def test_bad_input_is_one_line_and_nothing_is_written(
    run: Callable[..., Run], place: Path, arguments: tuple[str, ...], code: str
):
    before = tree(place)
    assert_refused(run(*arguments), code, "")
    assert tree(place) == before


def test_a_repository_without_an_edit_is_refused(run: Callable[..., Run], place: Path):
    (place / "repo" / manifests.MANIFEST).unlink()
    assert_refused(run("verify", REPO), "model.not-edited", REPO)
    assert_refused(run("apply", "--from", REPO), "model.not-edited", REPO)


def test_a_folder_here_is_meant_before_a_repository(
    run: Callable[..., Run], place: Path, hub_at: ThreadingHTTPServer
):
    shutil.copytree(place / "repo", place / "me" / "tiny")
    done = run("verify", REPO)
    assert done.code == 0 and done.stdout.startswith(f"{REPO}: verified"), done.stdout
    assert hub_at.asked == []
