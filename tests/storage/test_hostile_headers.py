"""Claims: a header that is built to cost time or memory is a named error at once; every header that
is accepted is accepted by the safetensors package too.
"""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from forgetcli.errors import ModelError
from forgetcli.storage.safetensors import MOST_SIZES, WeightFile

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b.ä": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [8, 12]},
}
DIGITS = "9" * 4299


def save(folder: Path, header: bytes, data: int = 12) -> WeightFile:
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(data))
    return WeightFile(folder, "x.safetensors")


def with_shape(shape: str, dtype: str = '"F32"', key: str = "a") -> bytes:
    return f'{{"{key}":{{"dtype":{dtype},"shape":{shape},"data_offsets":[0,12]}}}}'.encode()


def many(count: int) -> bytes:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({f"t{number}": entry for number in range(count)}).encode()


@pytest.mark.parametrize(
    "header",
    [
        with_shape(f"[{DIGITS}]"),
        with_shape("[" + ",".join([DIGITS] * 500) + "]"),
        with_shape("[" + ",".join(["9" * 150] * 50_000) + "]"),
        with_shape("[" + ",".join(["3"] * (MOST_SIZES + 1)) + "]"),
        with_shape("[" * 50_000 + "]" * 50_000),
        with_shape('{"a":' * 50_000 + "1" + "}" * 50_000),
        with_shape("[3]", dtype="[" + "1," * 100_000 + "1]"),
        with_shape("[3]", dtype='"' + "x" * 10_000_000 + '"'),
        with_shape("[4]", key="k" * 10_000_000),
        with_shape("[1e400]"),
        with_shape("[true]"),
        with_shape("[18446744073709551616, 0]"),
        b'{"a":' + b"[]," * 10_000_000 + b"1}",
        b'{"__metadata__":{"a":' + b'"\\"' * 1_000_000,
        many(80_000),
    ],
)
def test_a_costly_header_is_refused_at_once(tmp_path, header):
    file = save(tmp_path, header)
    tracemalloc.start()
    tracemalloc.reset_peak()  # where another test of this process left it on
    started = time.process_time()
    with pytest.raises(ModelError) as error:
        _ = file.sites
    seconds = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.code == "model.damaged"
    assert len(error.value.message) < 2000
    assert seconds < 3 and peak < 400e6  # tracing makes it a few times slower


def test_a_large_header_is_read(tmp_path):
    assert len(save(tmp_path, many(20_000), data=0).sites) == 20_000


@pytest.mark.parametrize(
    "changed",
    [
        {"__metadata__": {"format": 1}},
        {"__metadata__": {"format": None}},
        {"__metadata__": ["pt"]},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "x": float("nan")}},
        {"\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [12, 12]}},
        {"__metadata__": {"a": "\udc00"}},
    ],
)
def test_what_the_safetensors_package_refuses_is_refused(tmp_path, changed):
    file = save(tmp_path, json.dumps(HEADER | changed).encode())
    with pytest.raises(SafetensorError), safe_open(file.path, "np"):
        pass
    with pytest.raises(ModelError) as error:
        _ = file.sites
    assert error.value.code == "model.damaged"


def test_whatever_is_accepted_is_accepted_by_the_safetensors_package(tmp_path):
    """600 changes of a good header: deleted, repeated and replaced pieces."""
    plain = json.dumps(HEADER, ensure_ascii=False).encode()
    assert save(tmp_path, plain).sites.keys() == {"a", "b.ä"}
    chance = random.Random(0)
    pieces = (
        b"null",
        b"1",
        b"-0",
        b"1.0",
        b"NaN",
        b'"\\ud800"',
        b"{}",
        b"[]",
        b'"x":1,',
        b" ",
        b"",
    )
    accepted = 0
    for _ in range(600):
        start = chance.randrange(len(plain))
        end = start + chance.randrange(8)
        file = save(tmp_path, plain[:start] + chance.choice(pieces) + plain[end:])
        try:
            _ = file.sites
        except ModelError:
            continue
        accepted += 1
        with safe_open(file.path, "np"):
            pass
    assert accepted > 20


def test_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = tmp_path / "a\udcff"
    folder.mkdir()
    assert save(folder, json.dumps(HEADER).encode()).sites.keys() == {"a", "b.ä"}
