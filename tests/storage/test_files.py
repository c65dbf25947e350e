"""Claims: what somebody else made is opened only if it is a file, and read only up to a limit;
nothing blocks; a path stays in its folder; JSON is read in bounded time, memory and depth.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from forgetcli.errors import ModelError, OutputError
from forgetcli.storage import copying, files
from forgetcli.storage.copying import copy_file
from forgetcli.storage.files import inside, is_plain_name, open_regular, read_regular, sha256_file
from forgetcli.storage.json import DEEPEST, LONGEST_NUMBER, decode, encode, plain, read_json


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A read that blocks fails its test."""
    signal.alarm(10)
    yield
    signal.alarm(0)


@pytest.fixture
def special(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A path of each kind that is not a file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(tmp_path)  # a socket's path may have 108 bytes
    server.bind("socket")
    os.chdir(before)
    kinds = {"named pipe": "pipe", "directory": "folder", "device": "link", "socket": "socket"}
    yield {kind: tmp_path / name for kind, name in kinds.items()}
    server.close()


@pytest.mark.parametrize("kind", ["named pipe", "directory", "device", "socket"])
@pytest.mark.parametrize(
    "read",
    [
        open_regular,
        lambda path: read_regular(path, 100),
        read_json,
        sha256_file,
        lambda path: copy_file(path, path.with_name("copy")),
    ],
)
def test_only_files_are_opened(special, kind, read):
    with pytest.raises(ModelError) as error:
        read(special[kind])
    assert error.value.code == "file.not-regular"
    assert str(special[kind]) in error.value.message and kind in error.value.message


def test_a_pipe_that_takes_the_place_of_a_file_is_not_read(special, monkeypatch):
    """The check is repeated on what was opened."""
    regular = os.stat(__file__)
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "stat", lambda path: regular)
        with pytest.raises(ModelError) as error:
            open_regular(special["named pipe"])
    assert error.value.code == "file.not-regular"


def test_files_are_read_up_to_a_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_regular(path, 100) == read_regular(link, 100) == b"x" * 100
    for read in (lambda: read_regular(path, 99), lambda: open_regular(path, limit=99)):
        with pytest.raises(ModelError) as error:
            read()
        assert error.value.code == "file.too-large"
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent", 100)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux only")
def test_a_file_that_is_larger_than_it_says_is_not_read_on():
    assert os.stat("/proc/self/maps").st_size == 0
    with pytest.raises(ModelError) as error:
        read_regular("/proc/self/maps", 100)
    assert error.value.code == "file.too-large"


def test_no_handle_is_left_open(special, tmp_path):
    count = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for path in special.values():
        with pytest.raises(ModelError):
            open_regular(path)
    (tmp_path / "file").write_bytes(b"xx")
    with pytest.raises(ModelError):
        open_regular(tmp_path / "file", limit=1)
    with pytest.raises(ModelError):
        files.read_pipe(special["named pipe"], 1)
    assert count in (0, len(os.listdir("/proc/self/fd")))


def test_a_path_stays_in_its_folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/config.json").write_text("{}")
    (tmp_path / "model-2").mkdir()
    (folder / "alias").symlink_to("unet")
    (tmp_path / "linked").symlink_to(folder)
    for path in (folder / "unet/config.json", folder / "alias/config.json", folder / "unet/../x"):
        assert inside(folder, path).is_relative_to(folder)
    assert inside(tmp_path / "linked", folder / "unet") == folder / "unet"
    (folder / "out").symlink_to(tmp_path)
    for path in (folder / "../model-2", folder / "out/x", Path("/etc/passwd"), folder / ".."):
        with pytest.raises(ModelError) as error:
            inside(folder, path)
        assert error.value.code == "file.outside"


def test_a_snapshot_of_the_hub_has_its_own_blobs_only(tmp_path):
    snapshot = tmp_path / "models--a--b/snapshots/0123"
    (snapshot / "unet").mkdir(parents=True)
    for model in ("models--a--b", "models--c--d"):
        (tmp_path / model / "blobs").mkdir(parents=True)
        (tmp_path / model / "blobs/abc").write_text("x")
    own, other = snapshot / "unet/x", snapshot / "unet/y"
    own.symlink_to("../../../blobs/abc")
    other.symlink_to("../../../../models--c--d/blobs/abc")
    assert inside(snapshot, own) == tmp_path / "models--a--b/blobs/abc"
    with pytest.raises(ModelError):
        inside(snapshot, other)


def test_plain_names():
    assert all(map(is_plain_name, ("unet", "text_encoder_2", "model-00001-of-00002.safetensors")))
    refused = ("", ".", "..", "a/b", "/a", "a\\b", "c:", "a\0", "a\n", "\u202ea")
    assert not any(map(is_plain_name, refused))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "nested"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "nested"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested"),
        (b"[{" * 1000 + b"]}" * 1000, "nested"),
        (b"[" + b"9" * (LONGEST_NUMBER + 1) + b"]", "digits"),
        (b"[" + b"9" * 1_000_000 + b"]", "digits"),
        (b"[" + b"1," * 3_000_000 + b"1]", "values"),
        (b"[" * 1 + b"[]," * 3_000_000 + b"1]", "values"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b"\xff", "utf-8"),
        (b'["' + b'\\"' * 1_000_000, "Unterminated"),
        (b'"' + b"[" * 1_000_000, "Unterminated"),
        (b"]" * 1_000_000, "value"),
        (b"", "value"),
    ],
)
def test_json_beyond_the_limits_is_refused_at_once(text, reason):
    started = time.process_time()
    with pytest.raises(ValueError, match=f"(?i){reason}"):
        decode(text)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, {"b": 'ä\n"\\'}], "c": "[[[" * 100, "d": "9" * 1000},
        "\U0001f600",
        2**63,
        10.0**300,
        [[], {}, [[]]],
    ],
)
def test_other_json_is_read_as_python_reads_it(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        assert decode(text.encode()) == json.loads(text) == value


def test_nan_is_read_on_request_only():
    assert decode(b"[Infinity]") == [float("inf")]
    with pytest.raises(ValueError, match="NaN"):
        decode(b"[NaN]", nan=False)
    deepest = b"[" * DEEPEST + b"]" * DEEPEST
    assert decode(deepest) == json.loads(deepest)


def test_json_is_read_up_to_its_limits_and_no_further(tmp_path):
    def values(count: int) -> bytes:
        """A text of `count` commas and brackets."""
        return b'[{"a":1},' + b"1," * (count - 3) + b"1]"

    assert len(decode(values(10), most_values=10)) == 9
    with pytest.raises(ValueError, match="more than 9 values"):
        decode(values(10), most_values=9)
    digits = b"9" * LONGEST_NUMBER
    assert decode(digits) == int(digits)
    with pytest.raises(ValueError, match="more than 200 digits"):
        decode(digits + b"9")
    for text in (b"[" * DEEPEST, b'{"a":' * DEEPEST):  # not closed: no JSON, and not too deep
        with pytest.raises(ValueError, match="Expecting"):
            decode(text)
        with pytest.raises(ValueError, match="more than 64 deep"):
            decode(text + text[:1] + (b'"a":' if text[:1] == b"{" else b""))
    path = tmp_path / "x.json"
    path.write_bytes(b'"' + b"x" * 98 + b'"')
    assert read_json(path, 100) == "x" * 98
    with pytest.raises(ModelError) as error:
        read_json(path, 99)
    assert error.value.code == "file.too-large"
    for text in (b'["\\ud83d\\ude00"]', b'["\\\\ud800"]', '["\u00e4"]'.encode()):
        assert decode(text) == json.loads(text)  # a pair, an escaped backslash: no lone surrogate


def test_a_file_of_64_megabytes_and_two_million_values_is_read(tmp_path, monkeypatch):
    for count, what in ((2_000_000, "Expecting value"), (2_000_001, "more than 2000000 values")):
        with pytest.raises(ValueError, match=what):
            decode(b"," * count)
    monkeypatch.setattr("forgetcli.storage.json.decode", len)
    path = tmp_path / "x.json"
    path.touch()
    os.truncate(path, 64_000_000)
    assert read_json(path) == 64_000_000
    os.truncate(path, 64_000_001)
    with pytest.raises(ModelError, match="larger than 64 MB"):
        read_json(path)


def test_json_is_written_for_every_parser():
    value = {1: (1.5, math.nan, -math.inf), "ä": Path("x"), "s": "\udcff", "t": {"u": True}}
    assert encode(value).decode() == (
        '{\n  "1": [\n    1.5,\n    null,\n    null\n  ],\n  "ä": "x",\n  "s": "\\udcff",\n'
        '  "t": {\n    "u": true\n  }\n}\n'
    )
    assert plain({"a": [math.inf, 2]}) == {"a": [None, 2]}


def test_a_limit_is_named_in_bytes_or_megabytes(tmp_path):
    path = tmp_path / "file"
    for limit, size in ((999_999, "999999 bytes"), (1_000_000, "1 MB"), (64_000_000, "64 MB")):
        path.write_bytes(b"")
        os.truncate(path, limit + 1)
        with pytest.raises(ModelError, match=f"larger than {size},"):
            open_regular(path, limit=limit)
        os.truncate(path, limit)
        open_regular(path, limit=limit).close()


def test_one_digest_is_of_all_paths_and_their_digests():
    lines = b"a\xff 2\nb 1\n"  # sorted by path, one a line
    assert files.files_digest({"b": "1", "a\udcff": "2"}) == hashlib.sha256(lines).hexdigest()


def test_what_reading_ends(tmp_path, special):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nothing")
    assert files.is_regular(tmp_path / "file")
    assert not any(map(files.is_regular, [*special.values(), tmp_path / "dangling"]))
    files.refuse_missing_folder(special["directory"], "the hint")
    with pytest.raises(ModelError) as error:
        files.refuse_missing_folder(tmp_path / "file", "the hint")
    assert (error.value.code, error.value.hint) == ("model.not-found", "the hint")


def test_an_output_neither_holds_its_source_nor_lies_in_it(tmp_path):
    source = tmp_path / "a" / "b"
    source.mkdir(parents=True)
    for output in (source / "c", source, source.parent, source / ".." / "b"):
        with pytest.raises(OutputError) as error:
            files.refuse_overlap(output, source, kind="the base", hint="the hint")
        assert error.value.message == f"the output {output} overlaps the base {source}"
        assert (error.value.code, error.value.hint) == ("output.overlaps-base", "the hint")
    for output in (source / "c", source.parent):
        with pytest.raises(OutputError, match=f"{output} overlaps {source}"):
            files.refuse_overlap(output, source, may_replace=True)
    files.refuse_overlap(source, source, may_replace=True)
    files.refuse_overlap(source.with_name("b2"), source)


def test_files_that_just_fit_are_not_refused(tmp_path, monkeypatch):
    sizes = [700_000_000, 800_000_000]
    paths = [tmp_path / str(size) for size in sizes]
    for path, size in zip(paths, sizes):
        path.touch()
        os.truncate(path, size)
    disk = SimpleNamespace(free=sum(sizes))
    monkeypatch.setattr(copying.shutil, "disk_usage", lambda folder: disk)
    copying.refuse_lack_of_room(paths, tmp_path, tmp_path / "out")
    for free, named in ((sum(sizes) - 1, "1.5 GB are free"), (999_949_999, "999.9 MB are free")):
        disk.free = free
        with pytest.raises(OutputError) as error:
            copying.refuse_lack_of_room(paths, tmp_path, tmp_path / "out")
        assert error.value.code == "output.disk-full"
        assert f"{tmp_path / 'out'}: it needs 1.5 GB, {named}" in error.value.message
    assert copying._size(10**9) == "1.0 GB"


def test_a_file_system_without_reflinks_gets_bytes(tmp_path, monkeypatch):
    """`copy_file` asks for a reflink unless it is told not to, and copies where there is none."""
    asked = []

    def refuse(handle, request, source):
        asked.append(request)
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(copying.fcntl, "ioctl", refuse)
    (tmp_path / "a").write_bytes(b"x")
    copy_file(tmp_path / "a", tmp_path / "b")
    copying.put(tmp_path / "a", tmp_path / "c", copying.Copying.REFLINK)
    assert asked == [0x40049409] * 2  # FICLONE of linux/fs.h
    assert not copying.can_clone(tmp_path / "a", tmp_path) and len(asked) == 3
    copy_file(tmp_path / "a", tmp_path / "d", reflink=False)
    copying.put(tmp_path / "a", tmp_path / "e", copying.Copying.COPY)
    assert len(asked) == 3
    assert all((tmp_path / name).read_bytes() == b"x" for name in "bcde")
    monkeypatch.setattr(copying.fcntl, "ioctl", lambda *_: 0)
    copy_file(tmp_path / "a", tmp_path / "f")  # the system has cloned it: nothing is copied
    assert (tmp_path / "f").read_bytes() == b"" and copying.can_clone(tmp_path / "a", tmp_path)
    monkeypatch.setattr(copying.sys, "platform", "darwin")
    copy_file(tmp_path / "a", tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == b"x"


def test_a_hard_link_that_cannot_be_made_is_told_from_other_faults(tmp_path, monkeypatch):
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "a").symlink_to("blob")
    copying.put(tmp_path / "a", tmp_path / "b", copying.Copying.LINK)
    assert (tmp_path / "b").samefile(tmp_path / "blob") and not (tmp_path / "b").is_symlink()
    for number in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
        monkeypatch.setattr(copying.os, "link", fail_with(number))
        with pytest.raises(OutputError, match="cannot hard-link") as error:
            copying.put(tmp_path / "a", tmp_path / "c", copying.Copying.LINK)
        assert error.value.code == "output.cannot-link"
    monkeypatch.setattr(copying.os, "link", fail_with(errno.ENOSPC))
    with pytest.raises(OSError) as full:  # `output_faults` names it
        copying.put(tmp_path / "a", tmp_path / "c", copying.Copying.LINK)
    assert full.value.errno == errno.ENOSPC


def fail_with(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail
