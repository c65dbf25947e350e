"""Claims: what is loaded is what was stored for that very identity, or a miss; no fault of the
cache stops the work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from faults import Saboteur
from safetensors.torch import load, save

from forgetcli.editing.moment_cache import BUCKET, MomentCache, default_folder
from forgetcli.errors import OutputError

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = {
    "model": "demo",
    "site": "encoder.layers.1.mlp.fc2",
    "prompts": ["", "a cat"],
    "dtype": "float32",
    "version": 1,
}


def tensors() -> dict[str, torch.Tensor]:
    moment = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "moment": moment @ moment.T,
        "tokens": torch.tensor(154),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }


def same(found: dict | None) -> bool:
    wanted = tensors()
    return (
        found is not None
        and found.keys() == wanted.keys()
        and all(
            found[k].dtype == wanted[k].dtype and torch.equal(found[k], wanted[k]) for k in wanted
        )
    )


class Notes:
    def __init__(self):
        self.lines = []

    def note(self, message):
        self.lines.append(message)


@pytest.fixture
def cache(tmp_path) -> MomentCache:
    cache = MomentCache(tmp_path / "cache", observer=Notes())
    assert cache.store(IDENTITY, tensors())
    return cache


def file_of(cache: MomentCache) -> Path:
    (path,) = cache.bucket.glob("*.safetensors")
    return path


def test_what_was_stored_is_loaded_bit_by_bit(cache):
    assert same(cache.load(IDENTITY))
    assert same(
        MomentCache(cache.folder).load(dict(reversed(IDENTITY.items())))
    )  # the order of keys is no difference
    assert (cache.hits, cache.misses) == (1, 0)


@pytest.mark.parametrize("key", IDENTITY)
def test_any_other_identity_is_a_miss(cache, key):
    assert cache.load(IDENTITY | {key: "other"}) is None
    assert cache.load({k: v for k, v in IDENTITY.items() if k != key}) is None
    assert (cache.hits, cache.misses) == (0, 2)


def test_an_identity_that_is_no_json_is_refused(cache):
    with pytest.raises(ValueError, match="JSON"):
        cache.load({"threshold": float("nan")})


def test_every_flipped_byte_is_a_miss(cache):
    path = file_of(cache)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        found = cache.load(IDENTITY)
        # A flip within the header can be without meaning (a letter's case in an escape); never may
        # a number differ.
        assert found is None or same(found), at
    assert cache.misses > 0.9 * len(data)
    path.write_bytes(data)
    assert same(cache.load(IDENTITY))


def test_every_cut_is_a_miss(cache):
    path = file_of(cache)
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        assert cache.load(IDENTITY) is None


def test_tensors_that_were_swapped_inside_are_a_miss(cache):
    """Valid safetensors, right identity, other numbers: only the checksum tells."""
    path = file_of(cache)
    data = path.read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    path.write_bytes(save(load(data), metadata))
    assert same(cache.load(IDENTITY))  # written again by us: still good
    path.write_bytes(save(load(data) | {"moment": torch.eye(5, dtype=torch.float64)}, metadata))
    assert cache.load(IDENTITY) is None


def test_an_entry_under_anothers_name_is_a_miss(cache):
    other = MomentCache(cache.folder)
    other.store({"model": "other"}, tensors())
    mine = file_of_identity(cache, IDENTITY)
    os.replace(file_of_identity(cache, {"model": "other"}), mine)
    assert cache.load(IDENTITY) is None


def file_of_identity(cache: MomentCache, identity: dict) -> Path:
    (path,) = [
        p
        for p in cache.bucket.glob("*.safetensors")
        if json.dumps(json.dumps(identity, sort_keys=True, separators=(",", ":"))).encode()
        in p.read_bytes()
    ]
    return path


def test_a_folder_in_the_entrys_place_is_a_miss_and_a_note(cache):
    path = file_of(cache)
    path.unlink()
    path.mkdir()
    assert cache.load(IDENTITY) is None
    assert cache.store(IDENTITY, tensors()) is False
    assert len(cache.observer.lines) == 1


def test_tensors_that_are_not_contiguous_are_stored_right(tmp_path):
    cache = MomentCache(tmp_path)
    wide = torch.arange(12.0).reshape(3, 4)
    cache.store(IDENTITY, {"turned": wide.T, "part": wide[:, 1:3]})
    found = cache.load(IDENTITY)
    assert torch.equal(found["turned"], wide.T) and torch.equal(found["part"], wide[:, 1:3])


def test_the_mode_comes_from_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        cache = MomentCache(tmp_path / "cache")
        cache.store(IDENTITY, tensors())
    finally:
        os.umask(before)
    assert file_of(cache).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("code", [28, 30, 13, 5], ids=["full", "read-only", "refused", "bad"])
def test_a_store_that_fails_is_a_note_and_leaves_nothing(tmp_path, code):
    for n in range(1, 20):
        cache = MomentCache(tmp_path / str(n), observer=Notes())
        saboteur = Saboteur(n, lambda: OSError(code, os.strerror(code)))
        with saboteur.at_work():
            stored = cache.store(IDENTITY, tensors())
        if not saboteur.struck:
            break
        assert (stored, len(cache.observer.lines)) == (False, 1)
        found = cache.load(IDENTITY)
        assert found is None or same(
            found
        )  # the last call is the folder's fsync: the entry is there
        assert not list((tmp_path / str(n)).rglob("*.tmp"))
    assert n > 5 and stored and same(cache.load(IDENTITY))


def test_a_cache_in_an_impossible_place_only_costs_time(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = MomentCache(tmp_path / "file" / "cache", observer=Notes())
    assert not cache.store(IDENTITY, tensors())
    assert cache.load(IDENTITY) is None
    assert len(cache.observer.lines) == 1
    assert cache.entries() == []


# --- processes

WRITER = """
    import sys
    from pathlib import Path
    import torch
    from forgetcli.editing.moment_cache import MomentCache

    cache = MomentCache(Path(sys.argv[1]))
    big = {"moment": torch.full((600, 600), 7.0, dtype=torch.float64)}
    print("ready", flush=True)
    for _ in range(15):
        assert cache.store({"model": "demo"}, big)
        found = cache.load({"model": "demo"})
        assert found is not None and torch.equal(found["moment"], big["moment"])
"""


def writer(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_two_writers_never_show_each_other_half_an_entry(tmp_path):
    runs = [writer(tmp_path) for _ in range(2)]
    for run in runs:
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
    assert MomentCache(tmp_path).load({"model": "demo"}) is not None
    assert not list(tmp_path.rglob("*.tmp"))


def test_kill_9_while_storing_leaves_a_cache_that_works(tmp_path):
    run = writer(tmp_path)
    assert run.stdout.readline() == "ready\n", run.stderr.read()
    time.sleep(0.05)
    run.kill()
    run.communicate()
    cache = MomentCache(tmp_path)
    found = cache.load({"model": "demo"})
    if found is None:
        big = {"moment": torch.full((600, 600), 7.0, dtype=torch.float64)}
        assert cache.store({"model": "demo"}, big)
        found = cache.load({"model": "demo"})
    assert found["moment"].eq(7).all() and found["moment"].shape == (600, 600)


# --- listing and pruning
# ------------------------------------------------------------------------------------------------


def aged(cache: MomentCache, days: dict[str, float]) -> None:
    """Entries by model name, each last used so many days ago."""
    for model, age in days.items():
        cache.store({"model": model, "prompts": 3}, tensors())
        path = file_of_identity(cache, {"model": model, "prompts": 3})
        os.utime(path, (time.time() - age * 86400,) * 2)


def test_entries_say_what_they_are_for(cache):
    cache.store({"prompts": 7}, tensors())
    (cache.bucket / "broken.safetensors").write_bytes(b"\xff" * 8)
    by_model = {(e.model, e.prompts) for e in cache.entries()}
    assert by_model == {("demo", 2), (None, 7), (None, None)}
    entry = next(e for e in cache.entries() if e.model == "demo")
    assert entry.bytes == file_of_identity(cache, IDENTITY).stat().st_size
    assert abs(entry.modified - time.time()) < 60


def test_pruning_by_age_keeps_what_was_used(tmp_path):
    cache = MomentCache(tmp_path)
    aged(cache, {"old": 40, "used": 40, "new": 1})
    assert same(cache.load({"model": "used", "prompts": 3}))
    assert [e.model for e in cache.prune(older_than_days=30)] == ["old"]
    assert [e.model for e in cache.entries()] == ["new", "used"]


def test_pruning_by_size_takes_the_least_recently_used(tmp_path):
    cache = MomentCache(tmp_path)
    aged(cache, {"a": 3, "b": 2, "c": 1})
    size = cache.entries()[0].bytes
    assert cache.prune(max_bytes=10 * size) == []
    assert [e.model for e in cache.prune(max_bytes=2 * size)] == ["a"]
    assert [e.model for e in cache.prune(max_bytes=0)] == ["b", "c"]


def test_pruning_everything_leaves_nothing_and_pruning_nothing_all(tmp_path):
    cache = MomentCache(tmp_path)
    aged(cache, {"a": 3, "b": 2})
    for leftover in (
        cache.bucket / "x.lock",
        cache.bucket / ".x.safetensors.12-00000000.tmp",
        tmp_path / "k0-v0" / "older.safetensors",
    ):
        leftover.parent.mkdir(exist_ok=True)
        leftover.touch()
    (tmp_path / "notes.txt").touch()
    assert cache.prune() == []
    assert len(list(cache.bucket.iterdir())) == 4  # young leftovers can belong to a run at work
    assert len(cache.prune(everything=True)) == 2
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["notes.txt"]


def test_pruning_that_is_refused_is_said(cache, monkeypatch):
    def refuse(self, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError) as error:
        cache.prune(everything=True)
    assert error.value.code == "output.permission"


def test_the_folder_can_be_set(monkeypatch, tmp_path):
    monkeypatch.setenv("FORGET_CACHE_DIR", str(tmp_path))
    assert default_folder() == tmp_path
    assert MomentCache().bucket == tmp_path / BUCKET
    monkeypatch.setenv("FORGET_CACHE_DIR", "")
    assert default_folder().name == "forget"


@pytest.mark.parametrize("bucket", ["k0-v1", "k0-v0"])
def test_pruning_deletes_nothing_elsewhere(tmp_path, bucket):
    models = tmp_path / "models"
    models.mkdir()
    for name in ("model.safetensors", "x.lock", ".x.tmp"):
        (models / name).write_text("precious")
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / bucket).symlink_to(models)
    MomentCache(folder).prune(everything=True)
    assert len(list(models.iterdir())) == 3
    (folder / bucket).unlink()
    (folder / bucket).mkdir()
    (folder / bucket / "thesis.txt").write_text("precious")
    (folder / bucket / "x.safetensors").symlink_to(models / "model.safetensors")
    (folder / bucket / "y.lock").mkdir()
    MomentCache(folder).prune(everything=True)
    assert len(list(models.iterdir())) == 3 and (folder / bucket / "thesis.txt").exists()
