"""``forget tune`` as the processes of one run, as under ``accelerate launch``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import Forks
from tiny_runs import RECIPE

TUNE = ("tune", "art.toml", "--model", "sd", "--trials", "2", "--steps", "2", "-n", "3")


@pytest.fixture(scope="module")
def place(forked: Forks, tmp_path_factory) -> Path:
    """A folder with a tiny model, a recipe, and a search of one process in `one`."""
    folder = tmp_path_factory.mktemp("tune")
    forked.draw_up(folder / "sd")
    (folder / "art.toml").write_text(RECIPE)
    done = forked(folder, *TUNE, "-o", "one", "--json")
    assert done.code == 0, done.stderr
    (folder / "one.json").write_text(done.stdout)
    return folder


def found(data: dict) -> dict:
    """What a search found, without seconds and paths."""
    return {name: data[name] for name in ("method", "own", "best", "trials", "baseline")}


def test_two_processes_give_what_one_gives(forked: Forks, place: Path) -> None:
    """The images of the unedited model and of each trial are shared out; one process prints."""
    cache = str(place / "cache-of-two")
    done = forked(place, *TUNE, "-o", "two", "--json", ranks=2, FORGET_CACHE_DIR=cache)
    assert done.code == 0, done.stderr
    two, one = json.loads(done.stdout), json.loads((place / "one.json").read_text())
    assert found(two) == found(one)
    assert [trial["state"] for trial in two["trials"]] == ["complete", "complete"]
    assert (place / "two/tuned.toml").read_bytes() == (place / "one/tuned.toml").read_bytes()
    assert len(list((place / "two/verdicts").glob("*.jsonl"))) == 2  # both judged
    assert not list((place / "two/trials").glob("[0-9]*"))


def test_a_process_whose_run_has_ended_says_so(forked: Forks, place: Path) -> None:
    """The first process refuses the folder; the other one waits for it."""
    done = forked(place, *TUNE, "--seed", "1", "-o", "one", ranks=2)
    assert done.code == 2 and done.stderr.startswith("error[eval.other-run]"), done.stderr
    other = (forked.scratch / "stderr.1").read_text()
    assert other.startswith("error[process.lost]") and "Traceback" not in other


def test_a_command_that_cannot_be_shared_is_run_by_one_process(forked: Forks, place: Path) -> None:
    done = forked(place, "apply", "art.toml", "--model", "sd", "-o", "edited", "-q", ranks=2)
    assert (done.code, done.stdout) == (0, "edited\n"), done.stderr
    assert (forked.scratch / "stdout.1").read_text() == ""
    assert (forked.scratch / "stderr.1").read_text() == ""
    assert forked(place, "verify", "edited", "-q").code == 0
