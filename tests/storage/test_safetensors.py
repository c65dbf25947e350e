"""Claims: a header is read once and kept, by a file and by a base model; a part of a tensor is the
bytes that slicing gives; metadata are text; what is written can be read.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint import weights
from forgetcli.errors import ModelError
from forgetcli.storage import safetensors
from forgetcli.storage import safetensors_writer as writer
from forgetcli.storage.safetensors import WeightFile

FILE = "unet/model.safetensors"


@pytest.fixture
def tensors(tmp_path) -> dict[str, np.ndarray]:
    """Two tensors in `FILE`, the first of which could be q, k and v."""
    values = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    tensors = {"qkv": values, "bias": values[0].astype(np.float16)}
    (tmp_path / "unet").mkdir()
    save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
    return tensors


@pytest.fixture
def headers(monkeypatch) -> list[bytes]:
    """Every header that is parsed."""
    parsed: list[bytes] = []
    loads = json.loads

    def counted(text, *args, **kwargs):
        parsed.append(text)
        return loads(text, *args, **kwargs)

    monkeypatch.setattr(json, "loads", counted)
    return parsed


def test_a_header_is_read_once_and_kept(tmp_path, tensors, headers):
    file = WeightFile(tmp_path, FILE)
    assert headers == []  # not before it is needed
    for key, values in tensors.items():
        assert file.read_bytes(file.sites[key]) == values.tobytes()
        assert file.sites[key].shape == values.shape
    assert file.metadata == {"format": "pt"}
    assert len(headers) == 1
    safetensors.read_header(tmp_path, FILE)  # the function reads it each time
    assert len(headers) == 2


def test_a_base_model_reads_a_header_once_for_all_of_its_tensors(tmp_path, tensors, headers):
    model = checkpoint.Base("tiny", None, tmp_path)
    sites = [model.locate("unet", key)[0] for key in (*tensors, *tensors)]
    assert len(headers) == 1
    assert model.weight_file(FILE) is model.weight_file(FILE)
    assert sites == [weights.locate(tmp_path, "unet", key) for key in (*tensors, *tensors)]
    assert len(headers) == 1 + len(sites)  # without a base model it is read for each


def test_a_third_is_what_slicing_gives(tmp_path, tensors):
    file = WeightFile(tmp_path, FILE)
    for third in range(3):
        part = file.sites["qkv"].part(third)
        rows = tensors["qkv"][2 * third : 2 * third + 2]
        assert (part.shape, part.third) == (rows.shape, third)
        assert file.read_bytes(part) == rows.tobytes()
    assert file.sites["qkv"].part(None) == file.sites["qkv"]


@pytest.mark.parametrize("metadata", [{"format": 1}, ["pt"], "pt"])
def test_metadata_that_are_not_text_are_damage(tmp_path, metadata):
    header = json.dumps({"__metadata__": metadata}).encode()
    path: Path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    for attribute in ("metadata", "sites"):
        with pytest.raises(ModelError) as error:
            getattr(WeightFile(tmp_path, path.name), attribute)
        assert error.value.code == "model.damaged"


def test_a_file_that_shrinks_after_its_header_was_read_is_damage(tmp_path, tensors):
    file = WeightFile(tmp_path, FILE)
    last = max(file.sites.values(), key=lambda site: site.end)
    file.path.write_bytes(file.path.read_bytes()[:-1])
    with pytest.raises(ModelError) as error:
        file.read_bytes(last)
    assert error.value.code == "model.damaged"


@pytest.mark.parametrize("compact", [True, False])
def test_a_written_file_is_what_the_safetensors_package_reads(tmp_path, tensors, compact):
    source = WeightFile(tmp_path, FILE)
    values = np.arange(3, dtype=np.uint8)
    contents = {
        "ä": writer.of_bytes("U8", (3,), values.tobytes()),
        "half": writer.of_sites(tmp_path, [source.sites["bias"]], (5,)),
        "float": writer.of_floats(torch.arange(6).reshape(2, 3).T.half()),
        "rows": writer.of_sites(
            tmp_path, [source.sites["qkv"].part(third) for third in (2, 0)], (4, 5)
        ),
        "none": writer.of_bytes("F64", (0, 2), b""),
    }
    assert [contents[name].size for name in ("ä", "half", "float", "none")] == [3, 10, 24, 0]
    path = tmp_path / "written.safetensors"
    with open(path, "xb") as file:
        writer.write(file, contents, {"format": "ö"} if compact else {}, compact=compact)
    found = load_file(path)
    assert found["ä"].tolist() == [0, 1, 2]
    assert found["half"].tobytes() == tensors["bias"].tobytes()
    assert found["float"].dtype == np.float32
    assert found["float"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert np.array_equal(found["rows"], tensors["qkv"][[4, 5, 0, 1]])
    assert found["none"].shape == (0, 2)
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    assert length % 8 == 0
    header = data[8 : 8 + length].decode().rstrip(" ")
    # The widest dtypes first, then by name; the spaces fill up to a multiple of 8, no further.
    assert list(json.loads(header))[-5:] == ["none", "float", "rows", "half", "ä"]
    assert length - len(header.encode()) < 8
    assert (b" " in header.encode(), "ä" in header) == (not compact, compact)
    assert ("__metadata__" in header) == compact
    if compact:
        by_default = io.BytesIO()
        writer.write(by_default, contents, {"format": "ö"})
        assert by_default.getvalue() == data
        assert WeightFile(tmp_path, path.name).metadata == {"format": "ö"}


def test_a_tensor_that_has_other_bytes_than_its_shape_says_is_not_written(
    tmp_path, tensors, monkeypatch
):
    source = WeightFile(tmp_path, FILE)
    site = source.sites["qkv"]
    monkeypatch.setattr(writer, "CHUNK", 7)  # of 120 bytes
    assert b"".join(writer.of_sites(tmp_path, [site], (6, 5)).pieces()) == source.read_bytes(site)
    assert {len(piece) for piece in writer.of_sites(tmp_path, [site], (6, 5)).pieces()} == {7, 1}
    content = writer.of_sites(tmp_path, [site], (6, 5))
    source.path.write_bytes(source.path.read_bytes()[: site.end - 1])
    for wrong, count in ((content, 119), (writer.of_bytes("F32", (30,), b"x" * 121), 121)):
        with pytest.raises(ModelError, match=f"'a' has {count} bytes, not 120") as error:
            writer.write(io.BytesIO(), {"a": wrong}, {})
        assert error.value.code == "model.changed"
