"""Claims: whatever form the base has and however its files get into the output, only the edited
tensors' bytes differ, and the base is
as it was; an edited file is never the base's own; too little room is said first."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from faults import tree
from pipelines import shard, tiny_sd
from safetensors.torch import load, save
from single_files import ldm, settings

from forgetcli import models
from forgetcli.artifact import integrity, patch, statement
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import OutputError
from forgetcli.models.tensors import read_tensor
from forgetcli.pipeline.apply import apply
from forgetcli.storage import atomic, copying
from forgetcli.storage.copying import Copying
from forgetcli.storage.files import refuse_overlap, walk_files

FC2 = "encoder.layers.1.mlp.fc2.weight"
TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
CHANGED = (("text_encoder", FC2), ("unet", TO_K))
WEIGHTS = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[torch.dtype, Path]:
    place = tmp_path_factory.mktemp("originals")
    return {
        dtype: tiny_sd(place / str(dtype), dtype)
        for dtype in (torch.float16, torch.float32, torch.bfloat16)
    }


@pytest.fixture
def half(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals[torch.float16], tmp_path / "base"))


def folder_of(dtype: torch.dtype):
    return lambda originals, place: Path(shutil.copytree(originals[dtype], place / "base"))


def sharded(originals, place: Path) -> Path:
    folder = folder_of(torch.float16)(originals, place)
    shard(folder / WEIGHTS, parts=3)
    shard(folder / "unet/diffusion_pytorch_model.safetensors", parts=2)
    return folder


def variants(originals, place: Path) -> Path:
    folder = folder_of(torch.float32)(originals, place)
    for file in (folder / WEIGHTS, folder / "unet/diffusion_pytorch_model.safetensors"):
        halves = {key: tensor.half() for key, tensor in load(file.read_bytes()).items()}
        file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")).write_bytes(
            save(halves, metadata={"format": "pt"})
        )
    return folder


def fp16_only(originals, place: Path) -> Path:
    folder = folder_of(torch.float16)(originals, place)
    for file in sorted(folder.glob("*/*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    return folder


def cached(originals, place: Path) -> Path:
    """As in the hub's cache: links to blobs."""
    snapshot = place / "snapshots" / ("a" * 40)
    (place / "blobs").mkdir()
    for number, path in enumerate(walk_files(originals[torch.float16])):
        shutil.copy(originals[torch.float16] / path, place / "blobs" / str(number))
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).symlink_to(
            os.path.relpath(place / "blobs" / str(number), (snapshot / path).parent)
        )
    return snapshot


def single(**options):
    def build(originals, place: Path) -> Path:
        settings(originals[torch.float16], place / "models/config")
        return ldm(originals[torch.float16], place / "models/v1.safetensors", **options)

    return build


KINDS = {
    "float16": folder_of(torch.float16),
    "float32": folder_of(torch.float32),
    "bfloat16": folder_of(torch.bfloat16),
    "sharded": sharded,
    "variants": variants,
    "fp16 only": fp16_only,
    "hub cache": cached,
    "single file": single(),
    "single file, averages": single(ema=True),
    "single file, OpenCLIP, no VAE": single(style="sd2", vae=False),
}


def edit(
    base: checkpoint.Base, output: Path, how: Copying | str = Copying.REFLINK, seed: int = 0
) -> dict:
    """Publish an edit of `CHANGED`, with all that belongs to it."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for component, parameter in CHANGED:
        W = read_tensor(base.folder, base.locate(component, parameter)[0]).double()
        weights[component, parameter] = W + 0.1 * torch.randn(
            W.shape, generator=generator, dtype=torch.float64
        )
    with atomic.publishing(output, force=True) as staging:
        stored = patch.patch(base, staging, weights, Copying(how))
        statement.write(
            staging,
            base=base,
            recipe_bytes=b"",
            method="none",
            parameters={},
            stored=stored,
            materials=[],
            report={},
            run_details={},
        )
    return stored


def state(folder: Path) -> dict[str, tuple]:
    """Bytes, mode and time of every file: what of a base must not change."""
    return {
        path: (
            hashlib.sha256((folder / path).read_bytes()).hexdigest(),
            (folder / path).stat().st_mode,
            (folder / path).stat().st_mtime_ns,
        )
        for path in walk_files(folder)
    }


def assert_only_edited_bytes_differ(base: checkpoint.Base, output: Path, stored: dict) -> None:
    sites = [part.site for first in stored.values() for part in (first, *first.also)]
    spans = {
        file: sorted((s.start, s.end) for s in sites if s.file == file)
        for file in {s.file for s in sites}
    }
    own = {"forget.provenance.json", "forget.report.json", "recipe.toml"}
    assert set(walk_files(output)) == set(base.files) | set(base.beside) | own
    for path, source in {
        **{path: base.folder / path for path in base.files},
        **base.beside,
    }.items():
        before, after = bytearray(source.read_bytes()), bytearray((output / path).read_bytes())
        assert len(before) == len(after)
        for start, end in spans.get(path, ()):
            assert before[start:end] != after[start:end], f"{path} was not edited"
            before[start:end] = after[start:end] = bytes(end - start)
        assert before == after, path


@pytest.mark.parametrize("how", list(Copying))
@pytest.mark.parametrize("kind", KINDS)
def test_every_untouched_byte_is_the_bases(originals, tmp_path, kind, how):
    base = checkpoint.resolve(KINDS[kind](originals, tmp_path))
    before = state(tmp_path)
    stored = edit(base, tmp_path / "edited", how)
    assert_only_edited_bytes_differ(base, tmp_path / "edited", stored)
    forms = {"variants": 4, "single file, averages": 3}.get(
        kind, 2
    )  # the running averages are the denoiser's only
    assert sum(1 + len(part.also) for part in stored.values()) == forms
    assert {
        path: was for path, was in state(tmp_path).items() if not path.startswith("edited/")
    } == before
    assert integrity.verify(tmp_path / "edited").ok
    with open(
        tmp_path / "edited" / next(iter(stored.values())).site.file, "r+b"
    ) as file:  # the control: a byte of the header
        file.seek(20)
        byte = file.read(1)
        file.seek(20)
        file.write(bytes([byte[0] ^ 1]))
    assert not integrity.verify(tmp_path / "edited").ok
    assert {
        path: was for path, was in state(tmp_path).items() if not path.startswith("edited/")
    } == before


# --- links
# ------------------------------------------------------------------------------------------------


def linked(folder: Path, output: Path) -> set[str]:
    return {
        path
        for path in walk_files(output)
        if (folder / path).exists() and (folder / path).samefile(output / path)
    }


def test_untouched_files_are_links_and_edited_ones_are_not(half, tmp_path):
    (half / "README.md").write_text("the base's card")
    (half / "vae/config.json").chmod(0o440)
    before = state(half)
    edit(checkpoint.resolve(half), tmp_path / "edited", "link")
    edited = {WEIGHTS, "unet/diffusion_pytorch_model.safetensors"}
    assert linked(half, tmp_path / "edited") == set(walk_files(half)) - edited - {"README.md"}
    (tmp_path / "edited/README.md").write_text("another card")  # what a later step may do
    assert state(half) == before
    assert (
        stat.S_IMODE((tmp_path / "edited/vae/config.json").stat().st_mode) == 0o440
    )  # one file has one mode
    edit(checkpoint.resolve(half), tmp_path / "copied", "reflink")
    assert linked(half, tmp_path / "copied") == set()  # the control


def test_replacing_an_output_of_links_leaves_the_base_alone(half, tmp_path):
    before = state(half)
    edit(checkpoint.resolve(half), tmp_path / "edited", "link")
    first = tree(tmp_path / "edited")
    for how in ("link", "copy", "link"):
        edit(checkpoint.resolve(half), tmp_path / "edited", how, seed=1)
        assert state(half) == before
    assert tree(tmp_path / "edited")[WEIGHTS] != first[WEIGHTS]
    shutil.rmtree(tmp_path / "edited")
    assert state(half) == before
    with (
        pytest.raises(KeyboardInterrupt),
        atomic.publishing(tmp_path / "edited", force=True) as staging,
    ):
        patch.patch(checkpoint.resolve(half), staging, {}, Copying.LINK)
        raise KeyboardInterrupt  # what is half-built is cleared away
    assert state(half) == before and not (tmp_path / "edited").exists()


def test_what_writes_through_a_link_is_found(half, tmp_path):
    """The price of a link: the base has changed as well, and only the digest that the manifest kept
    tells.
    """
    edit(checkpoint.resolve(half), tmp_path / "edited", "link")
    assert integrity.verify(tmp_path / "edited", base=half).ok
    with open(tmp_path / "edited/vae/config.json", "r+b") as file:
        file.write(b"[")
    assert (half / "vae/config.json").read_bytes()[:1] == b"["
    assert {
        problem.file for problem in integrity.verify(tmp_path / "edited", base=half).problems
    } == {"vae/config.json"}


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_links_cannot_be_made_that_is_said(half, tmp_path, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OutputError) as error:
        edit(checkpoint.resolve(half), tmp_path / "edited", "link")
    assert error.value.code == "output.cannot-link" and "--link" in error.value.hint
    assert not (tmp_path / "edited").exists()
    edit(checkpoint.resolve(half), tmp_path / "edited", "copy")  # nothing else needs them


# --- reflinks
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def reflinks(monkeypatch) -> list[int]:
    """A file system that has them: a clone shares the content, here by copying it. Counts them."""
    made: list[int] = []

    def clone(source: int, target: int) -> bool:
        made.append(source)
        os.pwrite(target, os.pread(source, 1 << 30, 0), 0)
        return True

    monkeypatch.setattr(copying, "_clone", clone)
    return made


def test_files_are_shared_where_the_file_system_can_unless_copies_are_asked_for(
    half, tmp_path, reflinks
):
    base = checkpoint.resolve(half)
    stored = edit(base, tmp_path / "edited")
    assert len(reflinks) == len(base.files)
    assert_only_edited_bytes_differ(base, tmp_path / "edited", stored)
    reflinks.clear()
    edit(base, tmp_path / "copied", "copy")
    assert reflinks == []
    edit(base, tmp_path / "linked", "link")
    assert len(reflinks) == 2  # the edited files


# --- room
# ------------------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


def test_too_little_room_is_said_with_both_figures_before_the_work(half, tmp_path, monkeypatch):
    base = checkpoint.resolve(half)
    needed = sum((half / path).stat().st_size for path in base.files)
    monkeypatch.setattr(copying.shutil, "disk_usage", lambda path: Usage(10**9, 0, needed - 1))
    monkeypatch.setattr(models, "load", lambda *args, **kwargs: pytest.fail("the work was begun"))
    (tmp_path / "art.toml").write_text('[[concepts]]\nconcept = "van gogh"\ntarget = "monet"\n')
    with pytest.raises(OutputError) as error:
        apply(tmp_path / "art.toml", model=str(half), output=tmp_path / "edited", copying="copy")
    assert (
        error.value.code == "output.disk-full"
        and f"{(needed - 1) / 1e6:.1f} MB are free" in error.value.message
    )
    assert (
        "it needs" in error.value.message
        and str(tmp_path / "edited") in error.value.message
        and error.value.hint
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["art.toml", "base"]


def test_what_is_shared_needs_no_room(half, tmp_path, monkeypatch, reflinks):
    base, staging = checkpoint.resolve(half), tmp_path / "staging"
    staging.mkdir()
    monkeypatch.setattr(copying.shutil, "disk_usage", lambda path: Usage(10**9, 0, 0))
    for how in (Copying.REFLINK, Copying.LINK):
        patch.check_room(base, staging, tmp_path / "edited", how)
    with pytest.raises(OutputError):
        patch.check_room(base, staging, tmp_path / "edited", Copying.COPY)
    monkeypatch.setattr(copying, "_clone", lambda source, target: False)
    with pytest.raises(OutputError):
        patch.check_room(base, staging, tmp_path / "edited", Copying.REFLINK)
    assert list(staging.iterdir()) == []  # the probe is gone


def test_a_single_files_settings_count_too(originals, tmp_path, monkeypatch):
    base = checkpoint.resolve(single()(originals, tmp_path))
    asked = []
    monkeypatch.setattr(
        patch, "refuse_lack_of_room", lambda files, staging, output: asked.extend(files)
    )
    patch.check_room(base, tmp_path, tmp_path / "edited", Copying.COPY)
    assert base.place in asked and tmp_path / "models/config/tokenizer/vocab.json" in asked


# --- where the output may be
# ------------------------------------------------------------------------------------------------


def test_an_output_must_not_hold_the_base_nor_lie_in_it(originals, half, tmp_path):
    base, file = checkpoint.resolve(half), checkpoint.resolve(single()(originals, tmp_path))
    for model, outputs in (
        (base, (half, half / "edited", tmp_path)),
        (file, (file.place, file.folder, tmp_path, file.place / "edited")),
    ):
        for output in outputs:
            with pytest.raises(OutputError) as error:
                refuse_overlap(output, model.place)
            assert error.value.code == "output.overlaps-base" and error.value.hint
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(outputs[0])
        with pytest.raises(OutputError):
            refuse_overlap(tmp_path / "link", model.place)
    refuse_overlap(tmp_path / "edited", base.place)
    refuse_overlap(file.folder / "edited", file.place)  # beside the file is no fault
