"""Claims: a hostile edited folder costs neither memory nor time; no name in it leads out of it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgetcli.artifact import card, integrity
from forgetcli.artifact.delta import read as read_delta
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.manifest import MANIFEST, REPORT
from forgetcli.errors import ForgetError, ModelError
from forgetcli.pipeline.log import log
from forgetcli.pipeline.revert import revert
from forgetcli.storage.files import sha256_file
from forgetcli.verification import audit

GOLDEN = Path(__file__).parents[1] / "golden" / "format-1"
EXAMPLES = 500 if os.environ.get("FORGET_FUZZ") else 10
LEDGER, TENSORS = "forget.ledger.json", "forget.ledger.safetensors"


@pytest.fixture(autouse=True)
def methods_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking the installed methods up takes most of the time that a verdict takes."""
    monkeypatch.setattr(metadata, "entry_points", cache(metadata.entry_points))


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "edited", tmp_path / "edited"))


def mend(folder: Path) -> None:
    statement = json.loads((folder / MANIFEST).read_bytes())
    for subject in statement["subject"]:
        subject["digest"]["sha256"] = sha256_file(folder / subject["name"])
    (folder / MANIFEST).write_text(json.dumps(statement))


def write_tensors(path: Path, shapes: dict[str, tuple[str, list[int], int]]) -> None:
    """A safetensors file of zeros: name → (dtype, shape, bytes)."""
    header: dict[str, object] = {}
    at = 0
    for name, (dtype, shape, size) in shapes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


@pytest.mark.parametrize(
    "shapes", [((20000, 1), (1, 20000)), ((2**31, 0), (0, 2**31)), ((1,), (1,))]
)
def test_ledger_tensors_of_other_shapes_are_refused_before_anything_is_computed(
    edited: Path, tmp_path: Path, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    book = json.loads((edited / LEDGER).read_bytes())
    tensors: dict[str, tuple[str, list[int], int]] = {}
    for place in book["places"]:
        name = f"{place['component']}:{place['parameter']}"
        number = 1 if place["component"] == "text_encoder" else 2
        for key, shape, dtype, width in (
            (f"base:{place['file']}:{place['key']}", shapes[0], "F16", 2),
            (f"edit.{number}.delta:{name}", shapes[1], "F32", 4),
        ):
            size = width
            for n in shape:
                size *= n
            tensors[key] = (dtype, list(shape), size)
    write_tensors(edited / TENSORS, tensors)
    mend(edited)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as error:
            revert(edited, None, output=tmp_path / "out")
        assert error.value.code in ("ledger.damaged", "ledger.other-weights", "model.damaged")
        assert not audit.verify(edited).ok
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()  # left on, it slows every later test of the process down
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        MANIFEST,
        REPORT,
        LEDGER,
        TENSORS,
        "recipe.toml",
        "model_index.json",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
@pytest.mark.parametrize("kind", ["/dev/zero", "pipe", "outside"])
def test_pipes_devices_and_links_are_named_and_never_read(
    edited: Path, tmp_path: Path, name: str, kind: str
) -> None:
    path = edited / name
    if kind == "outside":
        shutil.copy(path, tmp_path / "other")
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(kind if kind != "outside" else tmp_path / "other")
    verdict = audit.verify(edited)
    assert not verdict.ok and name in {problem.file for problem in verdict.problems}
    for use in (log, card.rewrite, lambda folder: revert(folder, [2], output=tmp_path / "out")):
        try:
            use(edited)
        except (ModelError, ForgetError) as error:
            assert error.code != "internal"


# --- names that lead out of the folder

NAMES = ["/etc/passwd", "../sd/x", "unet/../../x", "..", "C:/x", "a\\b", "a//b", "", "a\0b", "./a"]
SHOWN = NAMES[:3]  # of the folder: one check of names is behind all places


def in_manifest(change: Callable[[dict, str], None]) -> Callable[[Path, str], None]:
    def apply(folder: Path, name: str) -> None:
        statement = json.loads((folder / MANIFEST).read_bytes())
        change(statement, name)
        (folder / MANIFEST).write_text(json.dumps(statement))

    return apply


def in_ledger(change: Callable[[dict, str], None]) -> Callable[[Path, str], None]:
    def apply(folder: Path, name: str) -> None:
        book = json.loads((folder / LEDGER).read_bytes())
        change(book, name)
        (folder / LEDGER).write_text(json.dumps(book))
        mend(folder)

    return apply


def build(statement: dict) -> dict:
    return statement["predicate"]["buildDefinition"]


PLACES = {
    "subject": in_manifest(lambda s, n: s["subject"][0].update(name=n)),
    "recipe": in_manifest(lambda s, n: build(s)["externalParameters"]["recipe"].update(name=n)),
    "written": in_manifest(lambda s, n: build(s)["internalParameters"]["written"].append(n)),
    "edited": in_manifest(lambda s, n: build(s)["internalParameters"]["edited"][0].update(file=n)),
    "base": in_manifest(lambda s, n: build(s)["resolvedDependencies"][1].update(name=f"base/{n}")),
    "place": in_ledger(lambda b, n: b["places"][0].update(file=n)),
    "origin": in_ledger(lambda b, n: b["base"]["files"].update({n: "0" * 64})),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", SHOWN)
def test_no_name_leads_out_of_the_folder(
    edited: Path, tmp_path: Path, place: str, name: str
) -> None:
    PLACES[place](edited, name)
    assert not integrity.verify(edited).ok or not audit.verify(edited).ok
    with pytest.raises(ForgetError):
        revert(edited, [2], output=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edited"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_in_a_delta_leads_out(edited: Path, tmp_path: Path, name: str) -> None:
    data = (GOLDEN / "edited-delta.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    statement = json.loads(header["__metadata__"][MANIFEST])
    build(statement)["internalParameters"]["written"].append(name)
    header["__metadata__"] |= {MANIFEST: json.dumps(statement), name: "x"}
    text = json.dumps(header).encode()
    path = tmp_path / "delta.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(ModelError):
        read_delta(path)


# --- files of any shape

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("file", [MANIFEST, LEDGER, REPORT])
def test_files_of_any_shape_are_errors_of_the_model(tmp_path: Path, file: str) -> None:
    edited = Path(shutil.copytree(GOLDEN / "edited", tmp_path / "edited"))
    whole = json.loads((edited / file).read_bytes())
    paths = [*_paths(whole)]

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(index=st.integers(0, len(paths) - 1), value=VALUES)
    def check(index: int, value: object) -> None:
        path = paths[index]
        changed = json.loads(json.dumps(whole))
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        shutil.copy(GOLDEN / "edited" / MANIFEST, edited / MANIFEST)
        (edited / file).write_text(json.dumps(changed))
        if file != MANIFEST:
            mend(edited)
        audit.verify(edited)
        for read in (lambda: log(edited), lambda: EditedModel.open(edited).files):
            with suppress(ForgetError):
                read()

    check()


def _paths(value: object, path: tuple = ()) -> list[tuple]:
    own = [path] if path else []
    if isinstance(value, dict):
        return own + [p for key in value for p in _paths(value[key], (*path, key))]
    if isinstance(value, list):
        return own + [p for n, part in enumerate(value[:3]) for p in _paths(part, (*path, n))]
    return own
