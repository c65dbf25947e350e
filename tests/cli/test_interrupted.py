"""Ctrl-C and SIGTERM in every stage of `apply` and `eval`: the exit code, one line, and nothing
half-written.

Most commands are forked from a process that has torch loaded (`forked`); a hook in them sends the
signal at an exact place.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from faults import Strike, Unsafe, tree
from forked import Forks, Told
from processes import ROOT
from tiny_runs import (
    EVAL,
    PROMPTS,
    WEIGHTS,
    apply,
    assert_kept,
    assert_resumed,
    furnish,
    hidden,
    pictures,
    stages,
)

CODES = {"SIGINT": (130, "Ctrl-C"), "SIGTERM": (143, "SIGTERM"), "SIGHUP": (129, "SIGHUP")}


@pytest.fixture(scope="module")
def forget(forked: Forks) -> Forks:
    return forked


@pytest.fixture(scope="module")
def place(forget: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("place"), forget)


def assert_interrupted(run: Told, what: str = "SIGINT") -> None:
    """The code, one line for the error after what was told of the progress, no traceback."""
    code, name = CODES[what]
    lines = run.stderr.splitlines()
    if lines[-1].startswith("hint: run the same") or lines[-1].startswith("hint: no model was"):
        del lines[-1]  # how to go on
    *progress, last = lines
    assert (run.code, run.stdout) == (code, ""), run.stderr
    assert last == f"error[interrupted]: stopped by {name}; nothing is left half-written"
    assert not [
        line for line in progress if re.search(r"error|hint|Traceback|Exception|  File", line)
    ]


# apply

APPLY_STAGES = {  # where the signal comes; the stages begun by then
    "loading": (Strike("forgetcli.models:load"), ["loading"]),
    "loading the encoder": (
        Strike("forgetcli.models.components:network", after=True),
        ["loading"],
    ),
    "second moments": (
        Strike("forgetcli.models.families.sd:StableDiffusion.distinct_keys", after=True),
        ["second moments of preserve prompts"],
    ),
    "keeping them": (Strike("os:replace"), ["second moments of preserve prompts"]),
    "null space": (
        Strike("forgetcli.editing.closed_form:null_space", nth=2, after=True),
        ["null space"],
    ),
    "noisy pictures": (
        Strike("forgetcli.models.families.sd:StableDiffusion.denoise", nth=2),
        ["noisy latents"],
    ),
    "refinement": (Strike("forgetcli.editing.refine:descend_all", nth=3), ["refinement"]),
    "its backward pass": (Strike("torch:Tensor.backward", nth=2), ["refinement"]),
    "check": (
        Strike("forgetcli.editing.check:noisy_points", after=True),
        ["refinement", "noisy latents"],
    ),
    "copying": (Strike("forgetcli.storage.copying:copy_file", nth=4, after=True), ["writing"]),
    "within a copy": (Strike("shutil:copyfileobj", nth=2), ["writing"]),
    "patching": (Strike("forgetcli.artifact.patch:sync_file"), ["writing"]),
    "ledger": (Strike("forgetcli.artifact.ledger_extension:extended", after=True), ["writing"]),
    "card": (Strike("forgetcli.artifact.card:write", after=True), ["writing"]),
    "manifest": (Strike("forgetcli.artifact.statement:_json", nth=2), ["writing"]),
    "syncing": (Strike("forgetcli.storage.atomic:sync_folder", nth=4), ["writing"]),
    "renaming": (Strike("forgetcli.storage.atomic:_put_in_place"), ["writing"]),
}
PUBLISHED = {  # the output is the new one by then
    "renamed": Strike("forgetcli.storage.atomic:_put_in_place", after=True),
    "clearing": Strike("shutil:rmtree"),
    "within it": Strike("os:unlink", nth=3, after=True),
}


def furnished(place: Path, folder: Path, before: str) -> dict[str, bytes] | None:
    """Put an earlier output into `folder`, if there is to be one; its files."""
    if before == "old":
        shutil.copytree(place / "other", folder / "edited")
    return tree(folder / "edited")


@pytest.mark.parametrize(
    ("stage", "before"),
    [
        *((stage, "old") for stage in APPLY_STAGES),
        *((stage, "absent") for stage in ("loading", "refinement", "copying", "renaming")),
    ],
)
def test_apply_leaves_what_there_was(
    forget: Forks, place: Path, tmp_path: Path, stage: str, before: str
):
    strike, begun = APPLY_STAGES[stage]
    old = furnished(place, tmp_path, before)
    run = forget(
        tmp_path, *apply(place, "--force"), strike=strike, FORGET_CACHE_DIR=str(tmp_path / "cache")
    )
    assert run.struck == f"{strike.where}\n"
    assert stages(run.stderr)[-len(begun) :] == begun if begun else stages(run.stderr) == []
    assert_interrupted(run)
    assert_untouched(tmp_path, old)


def assert_untouched(folder: Path, old: dict[str, bytes] | None) -> None:
    """The output is absent or byte for byte the old one, and but for the cache nothing else is
    there.
    """
    assert tree(folder / "edited") == old
    assert {path.name for path in folder.iterdir()} <= {"cache", *(["edited"] if old else [])}
    assert hidden(folder) == []


@pytest.mark.parametrize(
    ("moment", "before"), [*((moment, "old") for moment in PUBLISHED), ("renamed", "absent")]
)
def test_apply_is_complete_once_it_is_renamed(
    forget: Forks, place: Path, tmp_path: Path, moment: str, before: str
):
    furnished(place, tmp_path, before)
    run = forget(tmp_path, *apply(place, "--force"), strike=PUBLISHED[moment])
    assert run.struck
    assert_interrupted(run)
    assert (tmp_path / "edited" / WEIGHTS).read_bytes() == (place / "edited" / WEIGHTS).read_bytes()
    assert forget(tmp_path, "verify", "edited").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["edited"]


@pytest.mark.parametrize(
    ("what", "stage"), [("SIGTERM", "refinement"), ("SIGTERM", "patching"), ("SIGHUP", "copying")]
)
def test_apply_takes_sigterm_as_ctrl_c(
    forget: Forks, place: Path, tmp_path: Path, what: str, stage: str
):
    strike, _ = APPLY_STAGES[stage]
    old = furnished(place, tmp_path, "old")
    run = forget(
        tmp_path,
        *apply(place, "--force"),
        strike=Strike(strike.where, what, strike.nth, strike.after),
    )
    assert run.struck
    assert_interrupted(run, what)
    assert_untouched(tmp_path, old)


def test_parents_that_were_made_go_as_well(forget: Forks, place: Path, tmp_path: Path):
    run = forget(tmp_path, *apply(place, "-o", "a/b/edited"), strike=APPLY_STAGES["copying"][0])
    assert run.struck
    assert_interrupted(run)
    assert list(tmp_path.iterdir()) == []


def test_building_in_place_would_be_caught(forget: Forks, place: Path, tmp_path: Path):
    """The control: the same signal, the same check, and a writer that does not build aside."""
    old = furnished(place, tmp_path, "old")
    run = forget(
        tmp_path, *apply(place, "--force"), strike=Unsafe(*APPLY_STAGES["copying"][0].fields)
    )
    assert run.struck
    assert_interrupted(run)
    with pytest.raises(AssertionError):
        assert_untouched(tmp_path, old)


def test_a_signal_that_never_comes_would_be_noticed(forget: Forks, place: Path, tmp_path: Path):
    """The control: a place that is not reached."""
    run = forget(
        tmp_path, *apply(place), strike=Strike("forgetcli.editing.refine:descend_all", nth=9)
    )
    assert run.struck is None and run.code == 0
    with pytest.raises(AssertionError):
        assert_interrupted(run)


def test_a_terminal_gets_its_cursor_back(forget: Forks, place: Path, tmp_path: Path):
    master, slave = pty.openpty()
    run = forget(
        tmp_path,
        *apply(place),
        strike=APPLY_STAGES["refinement"][0],
        stderr=Path(os.ttyname(slave)),
    )
    os.close(slave)
    shown = drained(master).decode()
    assert run.struck and run.code == 130 and list(tmp_path.iterdir()) == []
    assert "refinement" in shown and "Traceback" not in shown
    assert shown.count("error[interrupted]") == 1
    assert "stopped by Ctrl-C" in shown[shown.index("error[interrupted]") :]
    hidden_at, back_at = shown.rindex("\x1b[?25l"), shown.rindex("\x1b[?25h")
    assert hidden_at < back_at < shown.index("error[interrupted]")


def drained(terminal: int) -> bytes:
    """All that was written to it; closes it."""
    parts = []
    with suppress(OSError):  # how its end is told
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts)


def test_ctrl_c_while_python_shuts_down_is_no_traceback(forget: Forks, tmp_path: Path):
    run = forget(tmp_path, "recipe", "schema", strike=Strike("atexit:_run_exitfuncs"))
    assert run.struck
    assert (run.code, run.stderr) == (130, "") and run.stdout.endswith("}\n")


# eval

UNCACHED = "pictures of the unedited model"
EVAL_STAGES = {  # where the signal comes; pictures that are there by then
    "loading the judge": (Strike("forgetcli.evaluation.judges:load", after=True), 0),
    "loading": (Strike("forgetcli.evaluation.run:subjects", after=True), 0),
    "claiming the folder": (Strike("forgetcli.evaluation.run:claim", after=True), 0),
    UNCACHED: (
        Strike("forgetcli.generation.generate:png_bytes", nth=3, after=True),
        2,  # a batch is written once all of it is there
    ),
    "writing one": (Strike("os:replace", nth=4), 2),
    "judging": (Strike("forgetcli.evaluation.judges.demo:DemoJudge.see", after=True), PROMPTS),
    "pictures of the edited model": (
        Strike("forgetcli.generation.generate:png_bytes", nth=4),
        PROMPTS + 2,
    ),
    "writing down what was judged": (
        Strike("os:fsync", nth=2 * (2 + 2 * PROMPTS) + 2),
        2 * PROMPTS,
    ),
    "quality": (Strike("forgetcli.evaluation.features.demo:DemoFeatures.distances"), 2 * PROMPTS),
    "report": (Strike("forgetcli.report:write"), 2 * PROMPTS),
    "within the report": (Strike("forgetcli.report:write_page"), 2 * PROMPTS),
}


def start(place: Path, folder: Path) -> Path:
    (folder / "edited").symlink_to(place / "edited")
    return place / "eval"


@pytest.mark.parametrize("stage", EVAL_STAGES)
def test_eval_keeps_its_pictures_and_goes_on(
    forget: Forks, place: Path, tmp_path: Path, stage: str
):
    strike, made = EVAL_STAGES[stage]
    whole = start(place, tmp_path)
    # The unedited model's images are in the cache that all runs here share.
    own = {"FORGET_CACHE_DIR": str(tmp_path / "cache")} if stage == UNCACHED else {}
    run = forget(tmp_path, *EVAL, strike=strike, **own)
    assert run.struck == f"{strike.where}\n"
    assert_interrupted(run)
    assert len(pictures(tmp_path / "eval")) == made
    assert_kept(tmp_path / "eval", whole, made)
    assert_resumed(forget, tmp_path, whole)


def test_eval_takes_sigterm_as_ctrl_c(forget: Forks, place: Path, tmp_path: Path):
    whole = start(place, tmp_path)
    run = forget(
        tmp_path, *EVAL, strike=Strike("forgetcli.generation.generate:png_bytes", "SIGTERM", nth=3)
    )
    assert run.struck
    assert_interrupted(run, "SIGTERM")
    assert_kept(tmp_path / "eval", whole, 2)
    assert_resumed(forget, tmp_path, whole)


def test_a_report_that_was_there_stays_until_the_new_one_is(
    forget: Forks, place: Path, tmp_path: Path
):
    start(place, tmp_path)
    shutil.copytree(place / "eval", tmp_path / "eval")
    before = tree(tmp_path / "eval")
    run = forget(tmp_path, *EVAL, strike=Strike("forgetcli.report:write"))
    assert run.struck
    assert_interrupted(run)
    assert tree(tmp_path / "eval") == before


def test_writing_in_place_would_be_caught(forget: Forks, place: Path, tmp_path: Path):
    """The control: pictures that are not written aside are found torn by the same check."""
    whole = start(place, tmp_path)
    run = forget(tmp_path, *EVAL, strike=Unsafe(*EVAL_STAGES["writing one"][0].fields))
    assert run.struck
    assert_interrupted(run)
    with pytest.raises(AssertionError):
        assert_kept(tmp_path / "eval", whole, 2)


# generate

GENERATE = (
    "generate",
    "a cat",
    "a dog by monet",
    "starry night",
    "--model",
    "edited",
    "--compare-base",
    "--steps",
    "2",
    "--batch",
    "2",
    "-o",
    "images",
)
GENERATE_STAGES = {  # where the signal comes; pictures that are there by then
    "loading": (Strike("forgetcli.generation.generate:Sampler.__init__", after=True), 0),
    "drawing": (Strike("forgetcli.generation.generate:Sampler.__call__", nth=2), 2),
    "writing one": (Strike("os:replace", nth=2), 1),
    "the unedited model's": (Strike("forgetcli.generation.generate:png_bytes", nth=5), 3),
    "the grid": (Strike("forgetcli.generation.generate:write_grid"), 6),
    "writing the grid": (Strike("os:replace", nth=7), 6),
}


@pytest.fixture(scope="module")
def drawn(forget: Forks, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `GENERATE` draws when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("drawn")
    start(place, folder)
    assert forget(folder, *GENERATE).code == 0
    assert len(pictures(folder / "images")) == 7
    return folder / "images"


@pytest.mark.parametrize("stage", GENERATE_STAGES)
def test_generate_keeps_its_pictures_and_goes_on(
    forget: Forks, place: Path, drawn: Path, tmp_path: Path, stage: str
):
    strike, made = GENERATE_STAGES[stage]
    start(place, tmp_path)
    run = forget(tmp_path, *GENERATE, strike=strike)
    assert run.struck == f"{strike.where}\n"
    assert_interrupted(run)
    assert len(pictures(tmp_path / "images")) == made
    assert_kept(tmp_path / "images", drawn, made)
    assert forget(tmp_path, *GENERATE).code == 0
    assert pictures(tmp_path / "images") == pictures(drawn)


def test_drawing_in_place_would_be_caught(forget: Forks, place: Path, drawn: Path, tmp_path: Path):
    """The control: pictures that are not written aside are found torn by the same check."""
    start(place, tmp_path)
    run = forget(tmp_path, *GENERATE, strike=Unsafe(*GENERATE_STAGES["writing one"][0].fields))
    assert run.struck
    with pytest.raises(AssertionError):
        assert_kept(tmp_path / "images", drawn, 1)


# demo

DEMO = ("demo", "--recipe", "tiny.toml", "-o", "demo")
DEMO_STAGES = {  # where the signal comes; whether the edited model is there by then
    "edit": (Strike("forgetcli.editing.refine:descend_all", nth=3), False),
    "pictures": (Strike("forgetcli.generation.generate:png_bytes", nth=3), True),
    "report": (Strike("forgetcli.report:write_page"), True),
    "sheet": (Strike("forgetcli.report.pairs:write_sheet"), True),
}


@pytest.mark.parametrize("stage", DEMO_STAGES)
def test_demo_is_told_again_from_the_start_of_what_is_missing(
    forget: Forks, place: Path, tmp_path: Path, stage: str
):
    strike, edited = DEMO_STAGES[stage]
    (tmp_path / "tiny.toml").write_text(
        f'model = "{place / "sd"}"\n' + (place / "art.toml").read_text()
    )
    run = forget(tmp_path, *DEMO, strike=strike)
    assert run.struck
    assert_interrupted(run)
    assert hidden(tmp_path) == [] and (tmp_path / "demo/edited").is_dir() == edited
    assert not (tmp_path / "demo/before_after.png").exists()
    if edited:
        assert forget(tmp_path, "verify", "demo/edited").code == 0
    if stage == "sheet":  # the second run goes through all of it: once is enough
        done = forget(tmp_path, *DEMO, "-q")
        assert (done.code, done.stdout) == (0, "demo/report.html\n"), done.stderr
        assert (tmp_path / "demo/before_after.png").read_bytes().startswith(b"\x89PNG")


# not forked: a command of its own, and the signal from outside


def test_a_process_of_its_own_gets_ctrl_c_from_outside(place: Path, tmp_path: Path):
    old = furnished(place, tmp_path, "old")
    command = [
        sys.executable,
        "-m",
        "forgetcli",
        *map(str, apply(place, "--force", "--set", "refine.steps=100000")),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # shells' background jobs ignore it
    told = ""
    while "refinement: 100000 steps\n" not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    process.send_signal(signal.SIGINT)
    printed, rest = process.communicate(timeout=300)
    assert_interrupted(Told(process.returncode, printed, told + rest))
    assert_untouched(tmp_path, old)
