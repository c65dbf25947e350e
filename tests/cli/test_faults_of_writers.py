"""Faults of the disk and kills at every call of the commands that write. `apply` and `eval` with a
full disk have further tests.

Afterwards nothing half-written has a final name; the same command succeeds, and what a killed run
has left is gone then. Every k-th call is made to fail; FORGET_FUZZ=1 has each of them fail.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from faults import Sweep, Unsafe, tree
from forked import Forks, Told
from tiny_runs import OTHER, apply, hidden

from forgetcli.artifact.manifest import CARD, MANIFEST, SIGNATURE

# Read before the fixture that hides FORGET_* from the tests.
ALL = bool(os.environ.get("FORGET_FUZZ"))
FEW = ("ENOSPC", "EIO", "SIGKILL") if ALL else ("SIGKILL",)
FAULTS = ("ENOSPC", "EIO", "SHORT", "FSYNC", "SIGKILL")
ERROR = re.compile(r"error\[(output|cache|sign)\.[a-z-]+\]: [^\n]+\nhint: [^\n]+\n")


@dataclass(frozen=True)
class Writer:
    """A command that writes.

    Attributes:
        command: its arguments; all paths are relative to the test's folder.
        output: what it writes, a file or a folder.
        step: of the calls that fail, in the suite's own run.
        piecewise: whether an output that was stopped may hold some of its files, each one whole.
        forgiving: whether the command may succeed without its output, as it does with a cache.
        irreplaceable: whether a whole output is not replaced, even with ``--force``: without a
            manifest it could be the user's own model.
        faults: those that it is tried with. The commands with few of them write with the same
            functions as the others.
    """

    command: tuple[str, ...]
    output: str
    step: int
    piecewise: bool = False
    forgiving: bool = False
    irreplaceable: bool = False
    faults: tuple[str, ...] = FAULTS


APPLY = (
    *("apply", "art.toml", "--model", "base", "-o", "made"),
    *("--set", "refine.mode=copy", "--lenient", "--force", "-q"),
)
WRITERS = {
    "apply": Writer(APPLY, "made", 61, faults=FEW),
    "generate": Writer(
        ("generate", "a cat", "a house", "--model", "base", "--steps", "1", "-o", "images"),
        "images",
        9,
        piecewise=True,
    ),
    "export": Writer(
        ("export", "edited", "--format", "diffusers", "-o", "exported", "--force"),
        "exported",
        60,  # of 61, the last of which follows the rename
        irreplaceable=True,
    ),
    "lora": Writer(
        ("export", "edited", "--format", "lora", "-o", "x.safetensors", "--force"),
        "x.safetensors",
        5,
    ),
    "delta": Writer(
        ("export", "edited", "--format", "delta", "-o", "d.safetensors", "--force"),
        "d.safetensors",
        5,
    ),
    "apply-delta": Writer(
        ("apply", "--delta", "delta.safetensors", "--model", "base", "-o", "again", "--force"),
        "again",
        53,
    ),
    "revert": Writer(("revert", "edited", "--all", "-o", "reverted", "--force"), "reverted", 53),
    "card": Writer(("card", "edited"), "edited", 29, faults=FEW),
    "sign": Writer(("sign", "edited", "--private-key", "key.pem"), "edited", 7, faults=FEW),
    # It writes into the system's temporary folder only.
    "rebuild": Writer(
        ("verify", "edited", "--rebuild", "--base", "base"),
        "edited",
        97,
        faults=FEW,
    ),
    "eval": Writer(
        ("eval", "edited", "--steps", "1", "--near", "0", "-o", "eval", "-q"),
        "eval",
        53,
        piecewise=True,
        faults=FEW,
    ),
    "cache": Writer(
        APPLY,
        "cache",
        151,
        piecewise=True,
        forgiving=True,
    ),
}


# A command that writes nothing in this way.
WITHOUT = {("generate", "SHORT"), ("lora", "SHORT"), ("delta", "SHORT")}


@pytest.fixture(scope="module")
def forget(forked: Forks) -> Forks:
    return forked


@pytest.fixture(scope="module")
def place(forget: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, two edits and a delta."""
    from tiny_runs import RECIPE

    place = tmp_path_factory.mktemp("place")
    forget.draw_up(place / "sd")
    (place / "art.toml").write_text(RECIPE)
    quick = ("--set", "refine.mode=copy", "--lenient", "-q")
    forget.rehearse(place, *apply(place, "-o", "rehearsed", *quick))
    for command in (
        apply(place, *quick),
        apply(place, "-o", "other", *OTHER, *quick),
        ("export", "edited", "--format", "delta", "-o", "delta.safetensors"),
    ):
        done = forget(place, *command)
        assert done.code == 0, done.stderr
    (place / "key.pem").write_bytes(private_key())
    return place


def private_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def furnished(folder: Path, place: Path, writer: Writer) -> Path:
    """A folder in which the command can run: links, and a copy of what it changes."""
    (folder / "tmp").mkdir(parents=True)
    (folder / "base").symlink_to(place / "sd")
    for name in ("edited", "art.toml", "delta.safetensors", "key.pem"):
        (folder / name).symlink_to(place / name)
    if writer.output == "edited":
        (folder / "edited").unlink()
        shutil.copytree(place / "edited", folder / "edited")
    return folder


def content(path: Path) -> dict[str, bytes] | None:
    if path.is_file():
        return {"": path.read_bytes()}
    files = tree(path)
    return files and {name: data for name, data in files.items() if not name.endswith(".lock")}


@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name, writer in WRITERS.items() for what in writer.faults]
)
def test_each_call_failing_in_turn(
    forget: Forks, place: Path, tmp_path: Path, name: str, what: str
) -> None:
    writer = WRITERS[name]
    if name == "sign":
        pytest.importorskip("model_signing")
    whole = undisturbed(forget, place, tmp_path, writer)
    struck = 0
    first = 1 if what in ("SHORT", "FSYNC") else 1 + FAULTS.index(what)
    for nth in count(first, 1 if ALL else writer.step):
        here = furnished(tmp_path / f"{name}-{nth}", place, writer)
        run = _run(forget, here, writer, Sweep(nth, what))
        if not run.struck:
            break
        struck += 1
        assert_whole_or_absent(here, writer, run, whole, what)
        if run.code == 0 and not writer.piecewise:
            # The fault had no effect (pathlib ignores those of a folder that exists already).
            shutil.rmtree(here)
            continue
        there = writer.irreplaceable and content(here / writer.output) is not None
        again = _run(forget, here, writer)
        if there:
            assert "error[output.not-ours]" in again.stderr, (run.struck, again.stderr)
        else:
            assert again.code == 0, (run.struck, again.stderr)
        found = content(here / writer.output) or {}
        final = {name: data for name, data in found.items() if not _is_temporary(name)}
        assert same(final, whole), (run.struck, _differing(final, whole))
        assert_consistent(here / writer.output)
        assert not leftovers(here), (run.struck, leftovers(here))
        shutil.rmtree(here)
    assert struck >= 1 or (name, what) in WITHOUT


def undisturbed(forget: Forks, place: Path, folder: Path, writer: Writer) -> dict[str, bytes]:
    here = furnished(folder / "undisturbed", place, writer)
    run = _run(forget, here, writer)
    assert run.code == 0, run.stderr
    whole = content(here / writer.output)
    assert whole
    return whole


def _run(forget: Forks, here: Path, writer: Writer, strike: Sweep | Unsafe | None = None) -> Told:
    return forget(
        here,
        *writer.command,
        strike=strike,
        FORGET_CACHE_DIR=str(here / "cache"),
        TMPDIR=str(here / "tmp"),
    )


def same(found: dict[str, bytes] | None, whole: dict[str, bytes]) -> bool:
    """Equal but for what contains the time: manifests, cards and reports."""
    return found is not None and found.keys() == whole.keys() and not _differing(found, whole)


def _differing(found: dict[str, bytes], whole: dict[str, bytes]) -> list[str]:
    return [
        name
        for name, data in found.items()
        if not _equal(name, data, whole.get(name, b""))
        and not name.startswith(("forget.", "README", "results.json", "report.html"))
    ]


def _equal(name: str, data: bytes, other: bytes) -> bool:
    """Equal files. Of a log of verdicts, which is appended to, the lines that are whole count.

    The safetensors package writes its metadata in an order that changes from run to run.
    """
    if name.endswith(".jsonl"):
        return set(_whole_lines(data)) <= set(_whole_lines(other))
    if not name.startswith("k0-") or data == other:
        return data == other
    (header, values), (other_header, other_values) = map(_split, (data, other))
    return (header, values) == (other_header, other_values)


def _whole_lines(data: bytes) -> list[bytes]:
    return [line for line in data.splitlines() if line.startswith(b"{") and line.endswith(b"}")]


def _split(data: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors file, and its values."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def assert_consistent(folder: Path) -> None:
    """A manifest lists the model card that is beside it, and a signature is a whole one."""
    if (folder / MANIFEST).is_file():
        subjects = json.loads((folder / MANIFEST).read_bytes())["subject"]
        listed = [s["digest"]["sha256"] for s in subjects if s["name"] == CARD]
        cards = [folder / CARD] if (folder / CARD).is_file() else []  # a base may have none
        assert [hashlib.sha256(card.read_bytes()).hexdigest() for card in cards] == listed
    if (folder / SIGNATURE).is_file():
        json.loads((folder / SIGNATURE).read_bytes())


def assert_whole_or_absent(
    here: Path, writer: Writer, run: Told, whole: dict[str, bytes], what: str
) -> None:
    """Nothing half-written under a final name; an error of ours, or death by the signal."""
    found = content(here / writer.output)
    if what == "SIGKILL":
        assert run.code == -signal.SIGKILL, (run.struck, run.stderr)
    elif run.code == 0:
        assert writer.forgiving or (found and not _differing(found, whole)), run.struck
    else:
        assert run.code == 2, (run.struck, run.stderr)
        assert ERROR.search(run.stderr) and "Traceback" not in run.stderr, (run.struck, run.stderr)
    if found:
        final = {name: data for name, data in found.items() if not _is_temporary(name)}
        assert not _differing(final, whole), run.struck
        before = whole.keys() - {SIGNATURE}
        assert writer.piecewise or whole.keys() >= final.keys() >= before, run.struck
        assert_consistent(here / writer.output)
    if what != "SIGKILL":
        assert not leftovers(here), run.struck


def _is_temporary(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def leftovers(here: Path) -> list[Path]:
    return [path for path in hidden(here) if path.suffix != ".lock"]


def test_a_writer_in_place_would_be_caught(forget: Forks, place: Path, tmp_path: Path) -> None:
    """The control: `revert` that builds its folder where it will be."""
    writer = WRITERS["revert"]
    whole = undisturbed(forget, place, tmp_path, writer)
    here = furnished(tmp_path / "here", place, writer)
    strike = Unsafe("forgetcli.pipeline.revert:copy_file", "ENOSPC", 4)
    run = _run(forget, here, writer, strike)
    assert run.struck
    with pytest.raises(AssertionError):
        assert_whole_or_absent(here, writer, run, whole, "ENOSPC")
