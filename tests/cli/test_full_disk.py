"""A disk that is full at any point of `apply` and `eval`: exit code 2, one line with the place and
a hint, nothing lost.

On real file systems that are too small, where one can be mounted; by the limit that the system sets
to a file's size; and by
calls that fail in turn.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from faults import Strike, Sweep, Unsafe, tree
from forked import Forks, Told
from tiny_runs import (
    EVAL,
    PROMPTS,
    WEIGHTS,
    apply,
    assert_kept,
    assert_resumed,
    furnish,
    hidden,
    outcome,
    pictures,
)

PAGE = 4096  # what a file in memory grows by
QUICK = (
    "--set",
    "refine.mode=copy",
    "--lenient",
    "--force",
)  # an edit without descent: only the writing matters
FULL = "output.disk-full"


@pytest.fixture(scope="module")
def forget(forked: Forks) -> Forks:
    return forked


@pytest.fixture(scope="module")
def place(forget: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("place"), forget)


def refused(run: Told, code: str = FULL) -> str:
    """The place that the error line names; that it is one line with a hint, and exit code 2, is
    asserted.
    """
    assert (run.code, run.stdout) == (2, ""), run.stderr
    *progress, error, hint = run.stderr.splitlines()
    found = re.fullmatch(
        rf"error\[{re.escape(code)}\]: "
        r"(?:the disk is full: (.+) was not written|cannot write (.+): .+"
        r"|the disk is too full for (.+): it needs [\d.]+ [MG]B, [\d.]+ [MG]B are free)",
        error,
    )
    assert found, run.stderr
    assert re.fullmatch(r"hint: (free some space, or )?choose another place with -o", hint)
    assert not [
        line for line in progress if re.search(r"error|hint|Traceback|Exception|  File", line)
    ]
    return found[1] or found[2] or found[3]


def space(*paths: Path) -> int:
    """Bytes that files, and the files below folders, take in pages."""
    files = [file for path in paths for file in (path, *path.rglob("*")) if file.is_file()]
    return sum(-(-file.stat().st_size // PAGE) * PAGE for file in files)


# apply


def test_apply_on_disks_that_are_too_small(forget: Forks, place: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    seen = forget.mount(disk, size="64m")
    shutil.copytree(place / "other", seen / "edited")
    old, needed = tree(seen / "edited"), space(place / "edited")
    for short in (
        needed,
        needed * 9 // 10,
        needed // 2,
        needed // 10,
        PAGE,
    ):  # of the room for the new one beside the old
        forget.mount(disk, size=space(seen / "edited") + needed - short)
        assert (
            refused(forget(tmp_path, *apply(place, *QUICK, "-o", "disk/edited"))) == "disk/edited"
        )
        assert tree(seen / "edited") == old and hidden(seen) == [], f"{short} bytes short"
    forget.mount(
        disk, size=space(seen / "edited") + needed + 4 * PAGE
    )  # the control: with room for it, it succeeds
    assert forget(tmp_path, *apply(place, *QUICK, "-o", "disk/edited")).code == 0
    assert tree(seen / "edited")[WEIGHTS] != old[WEIGHTS] and hidden(seen) == []


def test_apply_on_a_disk_with_no_names_left(forget: Forks, place: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    seen = forget.mount(disk, size="64m", nr_inodes=10)  # the root, folders, some of the files
    assert refused(forget(tmp_path, *apply(place, *QUICK, "-o", "disk/edited"))) == "disk/edited"
    assert list(seen.iterdir()) == []


def test_a_read_only_disk_is_said_before_the_work(forget: Forks, place: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    seen = forget.mount(disk, size="64m")
    shutil.copytree(place / "other", seen / "edited")
    old = tree(seen)
    forget.mount(disk, ro="")
    for output in ("disk/edited", "disk/new", "disk/a/b/new"):
        run = forget(tmp_path, *apply(place, *QUICK, "-o", output))
        assert run.code == 2 and run.stderr.splitlines() == [
            f"error[output.permission]: no permission to write {output}",
            "hint: choose another place with -o, or change the permissions",
        ]
    (tmp_path / "edited").symlink_to(place / "edited")
    run = forget(tmp_path, *EVAL, "-o", "disk/eval")
    assert run.code == 2 and run.stderr.startswith(
        "error[output.permission]: no permission to write disk/eval\nhint: "
    )
    assert tree(seen) == old


def test_a_full_cache_does_not_stop_apply(forget: Forks, place: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    seen = forget.mount(disk, size=PAGE)
    run = forget(tmp_path, *apply(place, *QUICK), FORGET_CACHE_DIR=str(disk))
    assert run.code == 0, run.stderr
    assert [path for path in seen.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("before", ["old", "absent"])
def test_apply_with_each_call_failing_in_turn(
    forget: Forks, place: Path, tmp_path: Path, before: str
):
    """Every call is failed in `test_provenance`, within one process; here a sample of them, through
    the command.
    """
    output, failed, nth, step, struck = (
        tmp_path / "edited",
        [],
        1,
        1 if before == "old" else 4,
        True,
    )
    while struck:
        shutil.rmtree(output, ignore_errors=True)
        if before == "old":
            shutil.copytree(place / "other", output)
        old = tree(output)
        run = forget(tmp_path, *apply(place, *QUICK), strike=Sweep(nth))
        struck = run.struck
        if run.code:  # making a folder that is there may fail and is nothing
            assert struck and refused(run) == "edited"
            assert tree(output) == old, struck
            failed.append(struck.split()[1])
        else:
            assert WEIGHTS in tree(output) and tree(output) != old
        assert [path.name for path in tmp_path.iterdir()] == (
            ["edited"] if output.exists() else []
        ), struck
        nth, step = nth + step, step + 3
    # The sample has calls of three kinds at least; which ones depends on how many there are.
    assert len(failed) >= 5 and len(set(failed)) >= 3, failed


def test_publishing_fails_too(forget: Forks, place: Path, tmp_path: Path):
    for before, where in (("absent", "os:rename"), ("old", "forgetcli.storage.atomic:_exchange")):
        shutil.rmtree(tmp_path / "edited", ignore_errors=True)
        if before == "old":
            shutil.copytree(place / "other", tmp_path / "edited")
        old = tree(tmp_path / "edited")
        run = forget(tmp_path, *apply(place, *QUICK), strike=Strike(where, "ENOSPC"))
        assert run.struck and refused(run) == "edited"
        assert tree(tmp_path / "edited") == old and hidden(tmp_path) == []


def test_a_file_that_the_system_finds_too_large(forget: Forks, place: Path, tmp_path: Path):
    shutil.copytree(place / "other", tmp_path / "edited")
    old = tree(tmp_path / "edited")
    largest = max(map(len, old.values()))
    for limit in (largest // 2, 1000):  # in the midst of a copy; a text file
        run = forget(tmp_path, *apply(place, *QUICK), limit=limit)
        assert refused(run, "output.failed") == "edited" and "file too large" in run.stderr.lower()
        assert tree(tmp_path / "edited") == old and hidden(tmp_path) == []


def test_building_in_place_would_be_caught(forget: Forks, place: Path, tmp_path: Path):
    """The control: the same fault, and a writer that does not build aside."""
    shutil.copytree(place / "other", tmp_path / "edited")
    old = tree(tmp_path / "edited")
    run = forget(
        tmp_path,
        *apply(place, *QUICK),
        strike=Unsafe("forgetcli.storage.copying:copy_file", "ENOSPC", 4),
    )
    assert run.struck and run.code == 2
    assert tree(tmp_path / "edited") != old


# eval


def test_eval_on_a_disk_that_grows(forget: Forks, place: Path, tmp_path: Path):
    """The same run again and again with a little more room: each goes on where the one before it
    had to stop.
    """
    (tmp_path / "edited").symlink_to(place / "edited")
    output, whole = tmp_path / "eval", place / "eval"
    output.mkdir()
    mine, table = 1, space(whole / "results.json", whole / "results.csv") // PAGE
    steps = {
        "run.json": mine,
        "unedited": mine + 3,
        "verdicts": mine + 1 + PROMPTS,
        "edited": mine + 4 + PROMPTS,
        "results.json": mine + 2 + 2 * PROMPTS,
        "report.html": mine + 2 + 2 * PROMPTS + table,
    }
    kept: dict[str, bytes] = {}
    seen = forget.mount(output, size=PAGE)
    (seen / "mine").write_bytes(b"x" * PAGE)
    for what, pages in steps.items():
        forget.mount(output, size=pages * PAGE)
        stopped = Path(refused(forget(tmp_path, *EVAL)))
        assert what in (stopped.name, stopped.parent.name) and stopped.is_relative_to("eval")
        assert_kept(seen, whole, len(kept))
        assert kept.items() <= pictures(seen).items()  # nothing is lost
        kept = pictures(seen)
    assert len(kept) == 2 * PROMPTS
    forget.mount(output, size=pages * PAGE + space(whole / "report.html") + 2 * PAGE)
    done = forget(tmp_path, *EVAL, "-q")
    assert done.code == 0, done.stderr
    assert outcome(seen) == outcome(whole)


def test_eval_with_each_call_failing_in_turn(forget: Forks, place: Path, tmp_path: Path):
    (tmp_path / "edited").symlink_to(place / "edited")
    kept, stopped, nth = {}, [], 2
    while (run := forget(tmp_path, *EVAL, strike=Sweep(nth))).struck:
        if (
            run.code == 0 and "mkdir" in run.struck
        ):  # of a folder that is there: pathlib lets any fault of that pass
            assert (tmp_path / "eval").is_dir()
        else:
            stopped.append(refused(run))
        if (tmp_path / "eval").exists():
            assert_kept(tmp_path / "eval", place / "eval", len(kept))
            assert kept.items() <= pictures(tmp_path / "eval").items()
            kept = pictures(tmp_path / "eval")
        nth += 6
    assert run.code == 0 and len(stopped) >= 4, stopped
    assert outcome(tmp_path / "eval") == outcome(place / "eval")


def test_a_report_that_is_too_large_keeps_the_pictures_and_the_old_report(
    forget: Forks, place: Path, tmp_path: Path
):
    (tmp_path / "edited").symlink_to(place / "edited")
    shutil.copytree(place / "eval", tmp_path / "eval")
    page = (place / "eval/report.html").read_bytes()
    assert (
        max(len(data) for name, data in tree(place / "eval").items() if name != "report.html")
        < len(page) - 1000
    )
    run = forget(tmp_path, *EVAL, limit=len(page) - 1000)
    assert refused(run, "output.failed") == "eval/report.html"
    assert (tmp_path / "eval/report.html").read_bytes() == page
    assert_kept(tmp_path / "eval", place / "eval", 2 * PROMPTS)
    assert_resumed(forget, tmp_path, place / "eval")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_stdout_on_a_full_disk_is_an_error_and_the_report_is_there(
    forget: Forks, place: Path, tmp_path: Path
):
    (tmp_path / "edited").symlink_to(place / "edited")
    run = forget(tmp_path, *EVAL, "--json", stdout=Path("/dev/full"))
    assert (
        run.code == 2
        and "\nerror[output.disk-full]: " in run.stderr
        and "Traceback" not in run.stderr
    )
    assert (
        json.loads((tmp_path / "eval/results.json").read_text())
        and (tmp_path / "eval/report.html").exists()
    )


def test_writing_in_place_would_be_caught(forget: Forks, place: Path, tmp_path: Path):
    """The control: the same fault, and pictures that are not written aside."""
    (tmp_path / "edited").symlink_to(place / "edited")
    run = forget(tmp_path, *EVAL, strike=Unsafe("os:replace", "ENOSPC", 4))
    assert run.struck and run.code == 2
    with pytest.raises(AssertionError):
        assert_kept(tmp_path / "eval", place / "eval", 2)


# generate


def test_generate_on_a_disk_that_grows(forget: Forks, place: Path, tmp_path: Path):
    """Each picture is a page; those that fitted stay, and the run that has room for all goes on
    from them.
    """
    (tmp_path / "edited").symlink_to(place / "edited")
    output, command = (
        tmp_path / "images",
        (
            "generate",
            "a cat",
            "a house",
            "--model",
            "edited",
            "--compare-base",
            "--steps",
            "2",
            "-o",
            "images",
        ),
    )
    output.mkdir()
    seen, kept = forget.mount(output, size=PAGE), {}
    (seen / "mine").write_bytes(b"x" * PAGE)
    for pages in (1, 2, 4, 5):  # the first, the second, the second unedited one, the grid
        forget.mount(output, size=pages * PAGE)
        stopped = refused(forget(tmp_path, *command))
        assert Path(stopped).is_relative_to("images") and hidden(seen) == []
        assert kept.items() <= pictures(seen).items()
        kept = pictures(seen)
    assert len(kept) == 4 and stopped == "images/grid.png"
    forget.mount(output, size="1m")
    done = forget(tmp_path, *command, "--json")
    assert done.code == 0 and done.json["reused"] == 4 and "grid.png" in pictures(seen)
    assert kept.items() <= pictures(seen).items()
