"""Claim: whatever is changed in an edited folder, `verify` names it or the change is on the list of
those that it rightly accepts (accepted.json); and it never crashes.

Each mutation is made from a seed, in place, and undone. FORGET_FUZZ=1 makes 2,000 of them.
"""

from __future__ import annotations

import copy
import filecmp
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from forgetcli.artifact import integrity
from forgetcli.artifact.manifest import MANIFEST, REPORT
from forgetcli.storage.files import walk_files
from forgetcli.verification import audit

GOLDEN = Path(__file__).parents[1] / "golden" / "format-1" / "edited"
ACCEPTED = json.loads((Path(__file__).parent / "accepted.json").read_text(encoding="utf-8"))
LEDGER = "forget.ledger.json"
COUNT = 2000 if os.environ.get("FORGET_FUZZ") else 60
HUGE = 10**400
VALUES: tuple[Any, ...] = (
    None,
    [],
    {},
    "",
    "x",
    -1,
    0,
    1e308,
    HUGE,
    True,
    [[]],
    {"a": []},
    "0" * 64,
)

Mutation = tuple[str, Callable[[], None]]


class Sandbox:
    """A copy of the golden folder in which one change at a time is made and undone."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "edited"
        shutil.copytree(GOLDEN, self.folder)
        self.elsewhere = place / "elsewhere"
        shutil.copytree(GOLDEN, self.elsewhere)
        self.files = walk_files(self.folder)

    @contextmanager
    def restored(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._restore()

    def _restore(self) -> None:
        """Put the golden folder's content and modes back. No link is followed: mutations make links
        to the whole disk.
        """
        for entry in [*self._entries()]:
            if entry.is_symlink() or not (GOLDEN / self._relative(entry)).exists():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(
                    missing_ok=True
                )
        for path in self.files:
            target, source = self.folder / path, GOLDEN / path
            target.parent.mkdir(exist_ok=True)
            target.parent.chmod(0o755)
            if not target.is_file() or not filecmp.cmp(target, source, shallow=False):
                target.unlink(missing_ok=True)
                shutil.copy(source, target)
            target.chmod(0o644)

    def _entries(self) -> Iterator[Path]:
        """The folder's entries and those of its plain folders."""
        for entry in self.folder.iterdir():
            yield entry
            if entry.is_dir() and not entry.is_symlink():
                yield from entry.iterdir()

    def _relative(self, entry: Path) -> Path:
        return entry.relative_to(self.folder)


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def mended(folder: Path) -> None:
    """The manifest as whoever tampers with the folder leaves it: with the digests as they are."""
    path = folder / MANIFEST
    statement = json.loads(path.read_bytes())
    for subject in statement["subject"]:
        data = (folder / subject["name"]).read_bytes()
        subject["digest"]["sha256"] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(statement))


def of_json(sandbox: Sandbox, file: str, rng: random.Random) -> Mutation:
    """A value of a JSON file removed, replaced, swapped with its neighbour, or written twice."""
    document = json.loads((GOLDEN / file).read_bytes())
    path = rng.choice([*leaves(document)])
    changed = copy.deepcopy(document)
    holder, key = at(changed, path[:-1]), path[-1]
    how = rng.choice(["remove", "replace", "replace", "swap", "add", "twice", "deep"])
    where = f"{file}:{'/'.join('*' if isinstance(k, int) else k for k in path)}"
    before = holder[key]
    twice = None
    if how == "remove":
        del holder[key]
    elif how == "replace":
        holder[key] = rng.choice([*VALUES, at(document, rng.choice([*leaves(document)]))])
    elif how == "swap":
        other = rng.choice([*range(len(holder))] if isinstance(holder, list) else [*holder])
        holder[key], holder[other] = holder[other], holder[key]
    elif how == "add":
        target = before if isinstance(before, dict | list) else changed
        where = where if isinstance(before, dict | list) else f"{file}:"
        target.update(added=1) if isinstance(target, dict) else target.append(rng.choice(VALUES))
    elif how == "deep":
        holder[key] = "@deep@"
    elif isinstance(key, str):
        twice = f"{json.dumps(key)}: "
    if changed == document and twice is None:
        return of_json(sandbox, file, rng)

    def make() -> None:
        text = json.dumps(changed).replace('"@deep@"', "[" * 5000 + "]" * 5000)
        if twice is not None:
            text = text.replace(twice, f"{twice}0, {twice}", 1)
        (sandbox.folder / file).write_text(text)
        if file != MANIFEST:
            mended(sandbox.folder)

    return f"{how} {where}", make


def of_bytes(sandbox: Sandbox, file: str, rng: random.Random) -> Mutation:
    """A bit of a file flipped, the file cut off, or longer."""
    data = bytearray((GOLDEN / file).read_bytes())
    how = rng.choice(["flip", "flip", "cut", "longer"])
    name = f"{how} {file}"
    if how == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        name = of_meaning(file, data) or name
    elif how == "cut":
        data = data[: rng.randrange(len(data))]
    else:
        data += bytes([rng.randrange(256)])
    return name, lambda: (sandbox.folder / file).write_bytes(data) and None


def of_meaning(file: str, data: bytes) -> str:
    """The name of a flipped bit after which a JSON file is still one: which value it replaces. Of a
    key that changed, the object around it. Empty for other files.
    """
    if not file.endswith(".json"):
        return ""
    try:
        before, after = json.loads((GOLDEN / file).read_bytes()), json.loads(data)
    except ValueError:
        return ""
    path: list[str] = []
    while isinstance(before, dict | list) and isinstance(after, type(before)):
        keys = [*before] if isinstance(before, dict) else [*range(len(before))]
        other = [*after] if isinstance(after, dict) else [*range(len(after))]
        if keys != other:
            break
        key = next((key for key in keys if before[key] != after[key]), None)
        if key is None:
            return ""
        path.append("*" if isinstance(key, int) else key)
        before, after = before[key], after[key]
    return f"replace {file}:{'/'.join(path)}"


def of_ledger_tensors(sandbox: Sandbox, rng: random.Random) -> Mutation:
    """A bit of a ledger's tensor flipped, and all digests brought up to date."""
    file = "forget.ledger.safetensors"
    data = bytearray((GOLDEN / file).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    name = rng.choice([key for key in header if key != "__metadata__"])
    begin, end = header[name]["data_offsets"]
    data[start + rng.randrange(begin, end)] ^= 1 << rng.randrange(8)

    def make() -> None:
        (sandbox.folder / file).write_bytes(data)
        mended(sandbox.folder)

    kind = re.sub(r":(text_encoder|unet).*weight", "", re.sub(r"\d", "N", name, count=1))
    return f"mended {file}:{kind}", make


def of_folder(sandbox: Sandbox, rng: random.Random) -> Mutation:
    """Files and folders added, removed, renamed, linked, or with other permissions."""
    file = rng.choice(sandbox.files)
    target = sandbox.folder / file
    folder = rng.choice(["unet", "vae", "tokenizer"])
    elsewhere = sandbox.elsewhere

    def linked(place: Path, to: Path | str) -> None:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        place.symlink_to(to)

    kinds: dict[str, Callable[[], Any]] = {
        f"remove {file}": target.unlink,
        f"rename {file}": lambda: target.rename(target.with_name("other")),
        "add a file": lambda: (target.parent / "added.json").write_text("{}"),
        "add a hidden file": lambda: (target.parent / ".hidden").write_text("x"),
        "add code": lambda: (target.parent / "model.py").write_text("x"),
        "add an empty folder": lambda: (sandbox.folder / "empty").mkdir(),
        "add the hub's files": lambda: (sandbox.folder / ".gitattributes").write_text("x"),
        f"link out {file}": lambda: linked(target, elsewhere / file),
        f"link to nothing {file}": lambda: linked(target, "nothing"),
        f"link to /dev/zero {file}": lambda: linked(target, "/dev/zero"),
        f"link out {folder}/": lambda: linked(sandbox.folder / folder, elsewhere / folder),
        f"link to the root {folder}/": lambda: linked(sandbox.folder / folder, "/"),
        "link within": lambda: (
            (elsewhere / file).exists()
            and linked(sandbox.folder / "vae/config.json", "../unet/config.json")
        ),
        "times": lambda: os.utime(target, (1, 1)),
        "executable": lambda: target.chmod(0o755),
        "private": lambda: target.chmod(0o600),
        f"mode 0777 {file}": lambda: target.chmod(0o777),
        f"mode 4755 {file}": lambda: target.chmod(0o4755),
        f"mode 2755 {file}": lambda: target.chmod(0o2755),
        "mode 0777 folder": lambda: (sandbox.folder / folder).chmod(0o777),
    }
    if hasattr(os, "mkfifo"):
        kinds[f"pipe {file}"] = lambda: (target.unlink(), os.mkfifo(target))
        kinds["add a pipe"] = lambda: os.mkfifo(target.parent / "added")
    return rng.choice([*kinds.items()])


def of_whitespace(sandbox: Sandbox, rng: random.Random) -> Mutation:
    document = json.loads((GOLDEN / MANIFEST).read_bytes())
    text = json.dumps(document, indent=rng.choice([None, 0, 7]), sort_keys=rng.random() < 0.5)
    return "whitespace", lambda: (sandbox.folder / MANIFEST).write_text(text) and None


def mutation(sandbox: Sandbox, seed: int) -> Mutation:
    rng = random.Random(seed)
    kind = rng.choice(
        ["manifest"] * 6
        + ["report", "ledger", "ledger", "tensors"]
        + ["folder"] * 4
        + ["bytes"] * 2
        + ["whitespace"]
    )
    if kind == "bytes":
        return of_bytes(sandbox, rng.choice(sandbox.files), rng)
    if kind == "folder":
        return of_folder(sandbox, rng)
    if kind == "tensors":
        return of_ledger_tensors(sandbox, rng)
    if kind == "whitespace":
        return of_whitespace(sandbox, rng)
    return of_json(sandbox, {"manifest": MANIFEST, "report": REPORT, "ledger": LEDGER}[kind], rng)


def is_listed(name: str) -> bool:
    return any(re.fullmatch(entry["mutation"], name) for entry in ACCEPTED)


def sweep(sandbox: Sandbox, seeds: range) -> list[str]:
    """The mutations that verify accepts and that are not listed, and those that made it fail."""
    found = []
    for seed in seeds:
        name, make = mutation(sandbox, seed)
        with sandbox.restored():
            make()
            try:
                accepted = audit.verify(sandbox.folder).ok
            except Exception as fault:
                found.append(f"seed {seed}: {name}: {type(fault).__name__}: {fault}"[:300])
                continue
        if accepted and not is_listed(name):
            found.append(f"seed {seed}: {name}: accepted")
    return found


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    # Looking the installed methods up takes most of the time that a verdict takes, and the
    # environment does not change meanwhile.
    from functools import cache
    from importlib import metadata

    monkeypatch.setattr(metadata, "entry_points", cache(metadata.entry_points))
    return Sandbox(tmp_path)


def test_the_folder_itself_is_accepted_and_restored(sandbox: Sandbox) -> None:
    with sandbox.restored():
        shutil.rmtree(sandbox.folder / "unet")
    assert audit.verify(sandbox.folder).problems == []


def test_every_mutation_is_found_or_listed(sandbox: Sandbox) -> None:
    assert sweep(sandbox, range(COUNT)) == []


def test_without_the_check_of_digests_the_sweep_fails(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "_check_files", lambda *_: [])
    assert any(sweep(sandbox, range(seed, seed + 1)) for seed in range(60))


def test_every_entry_of_the_list_has_a_reason() -> None:
    assert all(entry["reason"] for entry in ACCEPTED)
