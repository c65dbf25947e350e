"""Claims: no code in a model's folder is run or copied, and what a folder names is checked before a
library opens it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from pipelines import tiny_sd

from forgetcli import models
from forgetcli.checkpoint import base as checkpoint
from forgetcli.checkpoint import config_fit, pipeline_index
from forgetcli.checkpoint.base import resolve
from forgetcli.errors import ModelError
from forgetcli.generation.generate import generate
from forgetcli.pipeline.apply import apply
from forgetcli.pipeline.inspect import inspect
from forgetcli.progress import Silent
from forgetcli.storage.safetensors import TensorSite

RECIPE = """
[[concepts]]
concept = "van gogh"
target = "monet"
[prompts]
templates = ["{}", "a painting by {}"]
[preserve]
prompts = ["a picture of a cat", "a house"]
[edit]
lam = 0.01
prior = 0.0
sites = [1, 2]
min_rank = 16
[refine]
steps = 1
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("model") / "sd", torch.float32)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "sd"))


@pytest.fixture
def canary(tmp_path: Path):
    """A file that the planted code would write, and the code."""
    path = tmp_path / "canary"
    before = set(sys.modules)
    yield path, f"open({str(path)!r}, 'w').close()\nclass Evil:\n    pass\n"
    for name in {"evil", "Evil"} & (set(sys.modules) - before):
        del sys.modules[name]


def change(path: Path, **settings: object) -> None:
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**entries, **settings}), encoding="utf-8")


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def draw(folder: Path, output: Path, **options: object):
    return generate(["a cat"], model=folder, output=output, steps=1, device="cpu", **options)


@pytest.mark.parametrize(
    "entries",
    [
        {"scheduler": ["evil", "Evil"]},
        {"unet": ["evil", "Evil"]},
        {"text_encoder": ["transformers", "BertModel"]},
        {"safety_checker": ["evil", "Evil"]},
        {"another": ["os", "system"]},
        {"scheduler": ["diffusers.schedulers", "DDIMScheduler"]},
    ],
)
def test_a_class_that_is_not_known_is_refused_before_a_library_opens_the_folder(
    folder: Path, canary, tmp_path: Path, entries: dict
):
    trap, code = canary
    (name,) = entries
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "evil.py").write_text(code)
    change(folder / "model_index.json", **entries)
    inspect(resolve(folder))  # looks at headers only
    for job in (
        lambda: draw(folder, tmp_path / "images"),
        lambda: models.load(resolve(folder), device="cpu"),
    ):
        with pytest.raises(ModelError) as refused:
            job()
        assert refused.value.code == "model.unknown-class"
    assert not trap.exists() and not (tmp_path / "images").exists()


@pytest.mark.parametrize("name", ["Evil", ["pipeline", "Evil"], None])
def test_a_pipeline_of_ones_own_is_refused(folder: Path, canary, tmp_path: Path, name: object):
    trap, code = canary
    (folder / "pipeline.py").write_text(code)
    change(folder / "model_index.json", _class_name=name)
    with pytest.raises(ModelError) as refused:
        draw(folder, tmp_path / "images")
    assert refused.value.code in ("model.unknown-family", "model.not-a-model")
    assert not trap.exists()


@pytest.mark.parametrize("entry", [["diffusers"], [], [1, 2], ["a", "b", "c"], [["a"], "b"]])
def test_a_malformed_entry_of_the_index_is_refused(folder: Path, entry: list):
    change(folder / "model_index.json", unet=entry)
    with pytest.raises(ModelError) as refused:
        resolve(folder)
    assert refused.value.code == "model.not-a-model"


def test_code_beside_known_classes_is_neither_run_nor_copied_and_its_settings_are_named(
    folder: Path, canary, tmp_path: Path
):
    trap, code = canary
    for place in ("scheduler/diffusers.py", "tokenizer/evil.py", "unet/diffusers.py", "evil.py"):
        (folder / place).write_text(code)
    auto_map = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    change(folder / "tokenizer/tokenizer_config.json", auto_map=auto_map, vocab_file="/etc/passwd")
    change(
        folder / "text_encoder/config.json",
        auto_map=auto_map,
        trust_remote_code=True,
        attn_implementation="evil/kernel",
        _attn_implementation_internal="evil/kernel",
    )
    change(folder / "unet/config.json", auto_map=auto_map)
    (tmp_path / "r.toml").write_text(RECIPE)
    notes = Notes()
    edited = tmp_path / "edited"
    apply(
        tmp_path / "r.toml",
        model=str(folder),
        output=edited,
        device="cpu",
        strict=False,
        observer=notes,
    )
    draw(edited, tmp_path / "images")
    assert not trap.exists()
    assert not [path for path in edited.rglob("*") if path.suffix == ".py"]
    said = " ".join(notes.lines)
    assert "tokenizer/tokenizer_config.json: auto_map, vocab_file" in said
    assert "text_encoder/config.json: _attn_implementation_internal, attn_implementation" in said
    assert "ignored in unet/config.json: auto_map" in said


def test_a_good_model_has_no_ignored_settings(original: Path):
    notes = Notes()
    models.load(resolve(original), device="cpu", observer=notes)
    assert notes.lines == []


def test_the_known_classes_exist():
    import diffusers
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    for role in ("text_encoder", "tokenizer", "unet", "transformer", "vae", "scheduler"):
        for library, names in pipeline_index.KNOWN[role].items():
            # Of the schedulers, some are newer than the oldest allowed diffusers.
            missing = [name for name in names if not hasattr(libraries[library], name)]
            assert not missing or role == "scheduler"


def sites(count: int, shape: tuple[int, ...] = (4, 4)) -> dict[str, TensorSite]:
    return {f"t.{n}": TensorSite("f", f"t.{n}", "F32", shape, 0, 64) for n in range(count)}


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"text_config": {"num_hidden_layers": 10**9}},
        {"layers_per_block": 1000},
        {"layers_per_block": 10, "block_out_channels": [4] * 11},
        {"transformer_layers_per_block": [[10**9]]},
        {"max_position_embeddings": 10**9},
        {"num_layers": 1e9},
        {"num_layers": "many"},
        {"pos_embed_max_size": 10**5},
    ],
)
def test_a_config_larger_than_its_weights_is_refused(config: dict):
    with pytest.raises(ModelError) as refused:
        config_fit.refuse_oversized(Path("config.json"), config, sites(100))
    assert refused.value.code == "model.damaged"


def test_a_huge_config_is_refused_before_a_network_is_built(folder: Path):
    change(folder / "text_encoder/config.json", num_hidden_layers=10**9)
    with pytest.raises(ModelError) as refused:
        _ = models.load(resolve(folder), device="cpu").text_encoder
    assert refused.value.code == "model.damaged"


def test_stray_files_are_no_part_of_a_model(folder: Path):
    before = resolve(folder).digest
    for place in (
        "._model_index.json",
        "unet/._diffusion_pytorch_model.safetensors",
        "text_encoder/._config.json",
        ".DS_Store",
        "unet/Thumbs.db",
        "tokenizer/code.py",
    ):
        (folder / place).write_bytes(b"\x00\x05\x16\x07")
    base = resolve(folder)
    assert base.digest == before
    assert models.load(base, device="cpu").unet is not None
    (folder / "forget.notes.json").write_text("{}")  # the user's file
    assert "forget.notes.json" in resolve(folder).files


def test_a_name_that_no_manifest_can_hold_is_refused_before_the_work(folder: Path, tmp_path: Path):
    open(os.fsencode(folder / "unet") + b"/\xc3\xf7.txt", "wb").close()
    (tmp_path / "r.toml").write_text(RECIPE)
    with pytest.raises(ModelError) as refused:
        apply(tmp_path / "r.toml", model=str(folder), output=tmp_path / "e", device="cpu")
    assert refused.value.code == "model.bad-name" and "unet/" in refused.value.message
    assert not (tmp_path / "e").exists()


def test_an_index_is_utf8_in_every_locale(folder: Path, monkeypatch: pytest.MonkeyPatch):
    index = json.loads((folder / "model_index.json").read_text())
    text = json.dumps({**index, "_name_or_path": "模型"}, ensure_ascii=False)
    (folder / "model_index.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    assert models.family_of(resolve(folder).settings) == "sd"
    assert checkpoint.INDEX == "model_index.json"
