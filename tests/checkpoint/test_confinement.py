"""Claims: a model is what its folder holds. Links out of it, names that are paths and what is no
file are refused when the model is resolved, before anything is read.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pipelines import tiny_sd
from single_files import ldm, settings

from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint.weights import weight_sets
from forgetcli.errors import ModelError


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    signal.alarm(30)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "sd"
    tiny_sd(folder, torch.float16)
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A model, with a private file and another model beside it."""
    (tmp_path / "secret.json").write_text('{"password": 1}')
    shutil.copytree(original / "vae", tmp_path / "other/vae")
    return Path(shutil.copytree(original, tmp_path / "sd"))


def replace(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    ("name", "make", "code"),
    [
        ("unet/extra.json", link("../../secret.json"), "file.outside"),
        ("unet/extra.json", link("/etc/passwd"), "file.outside"),
        ("unet/config.json", link("/etc/passwd"), "file.outside"),
        ("model_index.json", link("../secret.json"), "file.outside"),
        ("vae", link("../other/vae"), "file.outside"),
        ("unet/diffusion_pytorch_model.safetensors", link("/dev/zero"), "file.outside"),
        ("notes", link(".."), "file.outside"),
        ("unet/config.json", os.mkfifo, "file.not-regular"),
        ("unet/diffusion_pytorch_model.safetensors", os.mkfifo, "file.not-regular"),
        ("model_index.json", os.mkfifo, "file.not-regular"),
        ("notes", os.mkfifo, "file.not-regular"),
        ("tokenizer/extra.txt", link("nowhere"), "model.damaged"),
    ],
)
def test_links_out_of_a_model_and_what_is_no_file_are_refused(folder, name, make, code):
    replace(folder / name, make)
    with pytest.raises(ModelError) as error:
        checkpoint.resolve(folder)
    assert error.value.code == code and Path(name).name in error.value.message


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (".cache", "/etc"),
        ("picture.png", "/etc/passwd"),
        ("unet/again.json", "config.json"),
        ("again", "unet"),
    ],
)
def test_links_within_a_model_or_beside_it_are_allowed(folder, original, name, target):
    (folder / name).symlink_to(target)
    resolved = checkpoint.resolve(folder)
    assert not any(path.startswith((".cache", "picture")) for path in resolved.files)
    linked = folder.parent / "linked"
    linked.symlink_to(folder)
    assert checkpoint.resolve(linked).digest == resolved.digest


@pytest.mark.parametrize("name", ["../other/vae", "/etc", "a/b", "..", "a\\b"])
def test_component_names_are_plain(folder, name):
    index = json.loads((folder / "model_index.json").read_text())
    index[name] = index["vae"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError) as error:
        checkpoint.resolve(folder)
    assert error.value.code in ("file.outside", "model.not-a-model")


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "a\\b.safetensors", ".."])
def test_shard_names_are_plain(folder, name):
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError) as error:
        weight_sets(folder, "unet")
    assert error.value.code == "model.damaged" and "plain" in error.value.message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"weight_map": {"a": "x", "a": "y"}}',
        '{"weight_map": {"\\ud800": "x.safetensors"}}',
        f'{{"weight_map": {"9" * 5000}}}',
        '{"weight_map": {"a": "\\u0000.safetensors"}}',
        '{"weight_map": []}',
        "[]",
        "null",
        "\ufeff{}",
    ],
)
@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/diffusion_pytorch_model.safetensors.index.json"]
)
def test_strange_indices_are_named_errors(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(ModelError) as error:
        checkpoint.resolve(folder)
    assert error.value.code in ("model.damaged", "model.not-a-model")


def test_the_settings_of_a_single_file_stay_in_their_folder(folder, tmp_path):
    file = ldm(folder, tmp_path / "m/model.safetensors")
    settings(folder, tmp_path / "m/config")
    assert checkpoint.resolve(file).settings == tmp_path / "m/config"
    (tmp_path / "m/config/unet/extra.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ModelError) as error:
        _ = checkpoint.resolve(file).settings
    assert error.value.code == "file.outside"
    # The user names the file itself, which may be a link.
    (tmp_path / "named.safetensors").symlink_to(file)
    assert checkpoint.resolve(tmp_path / "named.safetensors").single is not None
