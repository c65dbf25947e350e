"""Claims: in whatever form a diffusers folder has its weights (one file, shards with an index, only
as a variant), it is edited, drawn with
and verified as the plain folder of the same values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pipelines import shard, tiny_sd
from tiny_runs import RECIPE

from forgetcli import recipe
from forgetcli.artifact import integrity
from forgetcli.artifact import manifest as manifests
from forgetcli.generation import generate
from forgetcli.pipeline import apply


def as_variant(folder: Path, variant: str) -> None:
    for file in sorted(folder.glob("*/*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", f".{variant}.safetensors")))


def sharded(folder: Path) -> None:
    shard(folder / "text_encoder/model.safetensors", parts=3)
    shard(folder / "unet/diffusion_pytorch_model.safetensors")


def shards_of_a_variant(folder: Path) -> None:
    """``model.fp16-00001-of-00002.safetensors``, named in ``model.safetensors.index.fp16.json``;
    the VAE is one plain file.
    """
    sharded(folder)
    for index in sorted(folder.glob("*/*.index.json")):
        table = json.loads(index.read_text())
        named = {name: name.replace("-", ".fp16-", 1) for name in set(table["weight_map"].values())}
        for old, new in named.items():
            (index.parent / old).rename(index.parent / new)
        table["weight_map"] = {key: named[name] for key, name in table["weight_map"].items()}
        index.unlink()
        index.with_name(index.name.replace(".index.", ".index.fp16.")).write_text(json.dumps(table))


FORMS: dict[str, Callable[[Path], None]] = {
    "shards": sharded,
    "fp16 only": lambda folder: as_variant(folder, "fp16"),
    "bf16 only": lambda folder: as_variant(folder, "bf16"),
    "shards of fp16": shards_of_a_variant,
}


def edited(folder: Path) -> tuple[dict, bytes, bytes]:
    """What an edit changes, by parameter, and a picture before and after it."""
    output = folder.with_name(f"{folder.name} edited")
    apply.apply(
        recipe.parse(RECIPE, overrides=["refine.steps=1"]),
        model=str(folder),
        output=output,
        device="cpu",
        strict=False,
    )
    assert integrity.verify(output, base=str(folder)).ok
    drawn = [
        generate.generate(
            ["van gogh"], model=str(model), steps=2, output=model / ".pictures", device="cpu"
        )
        .images[0]
        .path
        for model in (folder, output)
    ]
    return (
        {(t.component, t.parameter): (t.before, t.after) for t in manifests.load(output).edited},
        *(Image.open(path).tobytes() for path in drawn),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, bytes, bytes]:
    return edited(tiny_sd(tmp_path_factory.mktemp("plain") / "sd"))


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_is_edited_and_drawn_with_whatever_the_form_of_its_weights(
    form: str, plain: tuple, tmp_path: Path
):
    folder = tiny_sd(tmp_path / "sd")
    FORMS[form](folder)
    changed, before, after = edited(folder)
    assert changed and changed == plain[0] and (before, after) == plain[1:]
    assert before != after  # the control: the edit is seen
