"""What is published is on the disk: each file, and each folder that holds a new name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from forgetcli.storage import atomic


class Synced:
    """Records which files and folders are synced, and for each whether `published` held by then."""

    def __init__(self, published: Callable[[], bool]) -> None:
        self.published = published
        self.before: set[int] = set()
        self.after: set[int] = set()
        self.sizes: dict[int, int] = {}

    def fsync(self, handle: int) -> None:
        status = os.fstat(handle)
        (self.after if self.published() else self.before).add(status.st_ino)
        self.sizes[status.st_ino] = status.st_size


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.parametrize("old", [False, True])
def test_a_file_is_synced_before_its_name_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    path = tmp_path / "x"
    if old:
        path.write_bytes(b"old")
    synced = Synced(lambda: path.exists() and path.read_bytes() == b"new")
    monkeypatch.setattr(os, "fsync", synced.fsync)
    atomic.write_atomically(path, b"new")
    assert inode(path) in synced.before
    assert inode(tmp_path) in synced.after


def test_a_folder_and_everything_in_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "edited"
    synced = Synced(output.exists)
    monkeypatch.setattr(os, "fsync", synced.fsync)
    with atomic.publishing(output, force=False) as staging:
        (staging / "unet").mkdir()
        (staging / "unet" / "weights").write_bytes(b"x")
        (staging / "report").write_bytes(b"y")
    inside = [output, output / "unet", output / "unet" / "weights", output / "report"]
    assert {inode(path) for path in inside} <= synced.before
    assert inode(tmp_path) in synced.after


def test_a_large_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "x.safetensors"
    synced = Synced(output.exists)
    monkeypatch.setattr(os, "fsync", synced.fsync)
    with atomic.publishing_file(output, force=False) as writer:
        writer.write(b"new")
    assert inode(output) in synced.before
    assert synced.sizes[inode(output)] == 3  # all of it, nothing is in a buffer
    assert inode(tmp_path) in synced.after
