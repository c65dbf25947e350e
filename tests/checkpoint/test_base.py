"""Claims: exactly the edited tensors' bytes are replaced, rounded once; what cannot be edited
safely is refused.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pipelines import shard, tiny_sd
from safetensors import safe_open
from safetensors.torch import load, save

from forgetcli.artifact import integrity
from forgetcli.artifact import manifest as manifests
from forgetcli.artifact import patch as patching
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import EditError, ModelError, OutputError
from forgetcli.models.tensors import read_tensor
from forgetcli.pipeline import apply
from forgetcli.storage import hub
from forgetcli.storage import safetensors as tensorfile
from forgetcli.storage.copying import copy_file
from forgetcli.storage.files import walk_files

FC2 = "encoder.layers.1.mlp.fc2.weight"
WEIGHTS = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[torch.dtype, Path]:
    place = tmp_path_factory.mktemp("originals")
    return {dtype: tiny_sd(place / str(dtype), dtype) for dtype in (torch.float16, torch.float32)}


@pytest.fixture(params=[torch.float16, torch.float32], ids=["float16", "float32"])
def folder(request, originals, tmp_path) -> Path:
    return copied(originals[request.param], tmp_path / "base")


@pytest.fixture
def half(originals, tmp_path) -> Path:
    return copied(originals[torch.float16], tmp_path / "base")


def copied(source: Path, target: Path) -> Path:
    for path in walk_files(source):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        copy_file(source / path, target / path)
    return target


def patched(folder: Path, staging: Path, weights: dict) -> dict:
    staging.mkdir()
    return patching.patch(checkpoint.resolve(folder), staging, weights)


def weight_of(folder: Path, name: str = FC2, component: str = "text_encoder") -> torch.Tensor:
    return read_tensor(folder, checkpoint.locate(folder, component, name))


def changed(weight: torch.Tensor, size: float, seed: int = 0) -> torch.Tensor:
    """The weight plus a random change of relative Frobenius norm `size`, float64."""
    noise = torch.randn(
        weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return weight.double() + noise * (size * weight.double().norm() / noise.norm())


# --- what is patched


def test_only_the_edited_bytes_differ(folder, tmp_path):
    wanted = {
        ("text_encoder", FC2): changed(weight_of(folder), 0.5),
        ("unet", "conv_in.bias"): changed(weight_of(folder, "conv_in.bias", "unet"), 0.5),
    }
    stored = patched(folder, tmp_path / "edited", wanted)
    assert walk_files(tmp_path / "edited") == walk_files(folder)
    sites = {part.site.file: part.site for part in stored.values()}
    assert len(sites) == 2
    for path in walk_files(folder):
        before, after = (
            bytearray((folder / path).read_bytes()),
            bytearray((tmp_path / "edited" / path).read_bytes()),
        )
        if path in sites:
            span = slice(sites[path].start, sites[path].end)
            assert before[span] != after[span]  # else the rest of this test would pass by itself
            before[span] = after[span] = b""
        assert before == after, path


def test_the_loaded_model_has_the_wanted_weight(folder, tmp_path):
    from transformers import CLIPTextModel

    wanted = changed(weight_of(folder), 0.5)
    stored = patched(folder, tmp_path / "edited", {("text_encoder", FC2): wanted})
    for place, same in ((folder, False), (tmp_path / "edited", True)):
        module = CLIPTextModel.from_pretrained(place / "text_encoder", torch_dtype="auto")
        found = module.get_parameter(FC2)
        assert torch.equal(found, wanted.to(found.dtype)) == same
    with safe_open(
        tmp_path / "edited" / WEIGHTS, "pt"
    ) as reader:  # an independent reader of the file
        assert reader.metadata() == {"format": "pt"}
        assert torch.equal(
            reader.get_tensor("text_model." + FC2),
            read_tensor(tmp_path / "edited", stored["text_encoder", FC2].site),
        )


def test_copies_are_readable_whatever_the_bases_mode(half, tmp_path):
    (half / WEIGHTS).chmod(0o400)
    patched(half, tmp_path / "edited", {("text_encoder", FC2): changed(weight_of(half), 0.1)})
    modes = {
        path.stat().st_mode & 0o777 for path in (tmp_path / "edited").rglob("*") if path.is_file()
    }
    (tmp_path / "probe").write_bytes(b"")
    assert modes == {(tmp_path / "probe").stat().st_mode & 0o777}


@pytest.mark.parametrize(
    ("dtype", "size", "low", "high"),
    [
        (torch.float16, 1e-1, 1e-4, 2e-2),
        (torch.float16, 1e-4, 0.5, 2.0),
        (torch.float32, 1e-4, 0.0, 1e-3),
    ],
)
def test_the_error_as_stored_is_measured_on_disk(originals, tmp_path, dtype, size, low, high):
    """float16 swallows most of a small edit; the figure must say so. Recomputed here with numpy
    from the files.
    """
    folder = originals[dtype]
    wanted = changed(weight_of(folder), size)
    stored = patched(folder, tmp_path / "edited", {("text_encoder", FC2): wanted})[
        "text_encoder", FC2
    ]
    assert low <= stored.error <= high
    W, found = (
        np.frombuffer(
            (place / WEIGHTS).read_bytes()[stored.site.start : stored.site.end],
            {torch.float16: "<f2", torch.float32: "<f4"}[dtype],
        ).astype(np.float64)
        for place in (folder, tmp_path / "edited")
    )
    V = wanted.numpy().ravel()
    assert stored.error == pytest.approx(
        np.linalg.norm(found - V) / np.linalg.norm(V - W), rel=1e-9
    )


def test_an_edit_that_changes_nothing_has_no_error(half, tmp_path):
    stored = patched(half, tmp_path / "edited", {("text_encoder", FC2): weight_of(half).double()})
    assert stored["text_encoder", FC2].error == 0


def test_shards_are_patched_where_the_index_says(half, tmp_path):
    shard(half / WEIGHTS, parts=3)
    wanted = changed(weight_of(half), 0.5)
    stored = patched(half, tmp_path / "edited", {("text_encoder", FC2): wanted})[
        "text_encoder", FC2
    ]
    assert stored.site.file.startswith("text_encoder/model-0000")
    assert torch.equal(
        load((tmp_path / "edited" / stored.site.file).read_bytes())["text_model." + FC2],
        wanted.half(),
    )
    differing = [
        p
        for p in walk_files(half)
        if (half / p).read_bytes() != (tmp_path / "edited" / p).read_bytes()
    ]
    assert differing == [stored.site.file]


def test_every_form_of_the_weights_is_edited(half, tmp_path):
    """An unedited ``.fp16.`` beside the edited file would be loaded by `variant="fp16"`: nothing
    would be forgotten.
    """
    tensors = load((half / WEIGHTS).read_bytes())
    (half / "text_encoder" / "model.fp16.safetensors").write_bytes(save(tensors))
    other = {key: tensor.float() + 1 for key, tensor in tensors.items()}
    (half / "text_encoder" / "model.non_ema.safetensors").write_bytes(save(other))
    wanted = changed(weight_of(half), 0.5)
    stored = patched(half, tmp_path / "edited", {("text_encoder", FC2): wanted})[
        "text_encoder", FC2
    ]
    assert stored.site.file == WEIGHTS  # what loaders read by default
    key = "text_model." + FC2
    found = {
        part.site.file.split(".")[1]: load((tmp_path / "edited" / part.site.file).read_bytes())[key]
        for part in (stored, *stored.also)
    }
    assert torch.equal(found["safetensors"], wanted.half())
    assert torch.equal(found["fp16"], wanted.half())
    change = wanted - tensors[key].double()
    # The same change to other values.
    torch.testing.assert_close(found["non_ema"].double(), other[key].double() + change)


@pytest.mark.parametrize(
    ("weight", "code"),
    [
        (torch.full((32, 64), math.nan), "edit.not-finite"),
        (torch.full((32, 64), math.inf), "edit.not-finite"),
        (torch.full((32, 64), 7e4), "edit.overflow"),
        (torch.zeros(64, 32), "edit.shape"),
    ],
)
def test_weights_that_would_wreck_the_file_are_refused_before_copying(half, tmp_path, weight, code):
    with pytest.raises(EditError) as error:
        patched(half, tmp_path / "edited", {("text_encoder", FC2): weight})
    assert error.value.code == code
    assert list((tmp_path / "edited").iterdir()) == []


def test_the_largest_half_is_not_an_overflow(half, tmp_path):
    patched(
        half, tmp_path / "edited", {("text_encoder", FC2): torch.full((32, 64), 65519.0)}
    )  # rounds down to 65504
    assert weight_of(tmp_path / "edited").eq(65504).all()


def test_one_tensor_under_two_names_is_refused(half, tmp_path):
    weight = weight_of(half).double()
    with pytest.raises(EditError) as error:
        patched(
            half,
            tmp_path / "edited",
            {("text_encoder", FC2): weight, ("text_encoder", "text_model." + FC2): weight},
        )
    assert error.value.code == "edit.twice"


def test_a_quantised_tensor_is_refused(half, tmp_path):
    tensors = load((half / WEIGHTS).read_bytes())
    tensors["text_model." + FC2] = tensors["text_model." + FC2].to(torch.float8_e4m3fn)
    (half / WEIGHTS).write_bytes(save(tensors))
    with pytest.raises(ModelError) as error:
        patched(half, tmp_path / "edited", {("text_encoder", FC2): torch.zeros(32, 64)})
    assert error.value.code == "model.dtype"


# --- rounding

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-65000, max_value=65000)


@settings(max_examples=500, deadline=None)
@given(
    values=st.lists(
        st.one_of(
            finite,
            st.floats(-1e-4, 1e-4),
            st.builds(
                lambda n, e, sign: (1 + n * 2.0**-11) + sign * 2.0**-e,
                st.integers(0, 2047),
                st.integers(25, 52),
                st.sampled_from([1, -1]),
            ),
        ),
        min_size=1,
    )
)
@example([1 + 2**-11 + 2**-40])
@example([1 + 2**-11 - 2**-40])  # the other side of the tie
@example([-1 - 2**-11 + 2**-40])
@example([0.0, -0.0, 2.0**-25, 2.0**-25 + 2.0**-60, 2.0**-200, -5e-324])
def test_float16_is_rounded_once_as_numpy_does(values):
    wide = torch.tensor(values, dtype=torch.float64)
    expected = np.array(values).astype(np.float16)  # numpy rounds float64 to float16 directly
    assert patching.round_to(wide, torch.float16).numpy().tobytes() == expected.tobytes()


def test_torch_alone_would_round_twice():
    wide = torch.tensor([1 + 2**-11 + 2**-40], dtype=torch.float64)
    assert wide.half().item() == 1.0
    assert patching.round_to(wide, torch.float16).item() == 1 + 2**-10


@settings(max_examples=300, deadline=None)
@given(
    value=st.one_of(
        finite,
        st.builds(
            lambda n, e, sign: (1 + n * 2.0**-8) + sign * 2.0**-e,
            st.integers(0, 255),
            st.integers(25, 52),
            st.sampled_from([1, -1]),
        ),
    )
)
@example(1 + 2**-8 + 2**-40)
@example(1 + 2**-8 - 2**-40)
def test_bfloat16_is_the_nearest(value):
    found = patching.round_to(torch.tensor([value], dtype=torch.float64), torch.bfloat16)
    bits = found.view(torch.int16)
    if abs(value) < 1e-37:
        return  # next to zero the neighbours' bits are not bits ± 1
    near = torch.cat([bits - 1, bits, bits + 1]).view(torch.bfloat16).double()
    assert abs(found.item() - value) == (near - value).abs().min().item()


# --- where a tensor lies


def test_every_site_is_where_the_safetensors_library_finds_it(folder):
    for component, file in (
        ("text_encoder", WEIGHTS),
        ("unet", "unet/diffusion_pytorch_model.safetensors"),
    ):
        sites = tensorfile.read_header(folder, file)
        with safe_open(folder / file, "pt") as reader:
            assert set(sites) == set(reader.keys())
            for key, site in sites.items():
                assert torch.equal(read_tensor(folder, site), reader.get_tensor(key))
                assert checkpoint.locate(folder, component, key) == site


def test_names_in_memory_are_matched_both_ways(half):
    by_classic = checkpoint.locate(half, "text_encoder", "text_model." + FC2)
    assert checkpoint.locate(half, "text_encoder", FC2) == by_classic
    tensors = load((half / WEIGHTS).read_bytes())
    (half / WEIGHTS).write_bytes(
        save({key.removeprefix("text_model."): value for key, value in tensors.items()})
    )
    assert checkpoint.locate(half, "text_encoder", "text_model." + FC2).key == FC2


def test_an_ambiguous_or_unknown_name_is_refused(half):
    with pytest.raises(ModelError) as error:
        checkpoint.locate(half, "text_encoder", "mlp.fc2.weight")
    assert "could be any of" in error.value.message
    with pytest.raises(ModelError) as error:
        checkpoint.locate(half, "text_encoder", "encoder.layers.1.mlp.fc3.weight")
    assert error.value.code == "model.no-tensor"
    assert "text_model.encoder.layers.1.mlp.fc2.weight" in error.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "../../model.safetensors",
        "/etc/passwd.safetensors",
        "a/b.safetensors",
        "..\\x.safetensors",
        "x.bin",
    ],
)
def test_shard_names_that_lead_elsewhere_are_refused(half, name):
    shard(half / WEIGHTS)
    index = half / f"{WEIGHTS}.index.json"
    entries = json.loads(index.read_text())
    entries["weight_map"]["text_model." + FC2] = name
    index.write_text(json.dumps(entries))
    with pytest.raises(ModelError) as error:
        checkpoint.locate(half, "text_encoder", FC2)
    assert "not a plain file name" in error.value.message


def test_shards_that_are_missing_or_unnamed_are_refused(half):
    shard(half / WEIGHTS)
    part = half / "text_encoder" / "model-00002-of-00002.safetensors"
    data = part.read_bytes()
    part.unlink()
    with pytest.raises(ModelError, match="is missing"):
        checkpoint.resolve(half)
    part.write_bytes(data)
    checkpoint.resolve(half)
    (half / f"{WEIGHTS}.index.json").unlink()
    with pytest.raises(ModelError, match=r"no index\.json names it"):
        checkpoint.resolve(half)


# --- damaged files


def tensor_file(entries: object, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(start: int, end: int, shape=(4,), dtype="F16") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


BROKEN = {
    "a git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 492265168\n"
    ),
    "a web page": b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>",
    "a pickle": b"PK\x03\x04" + b"\0" * 400,
    "empty": b"",
    "nearly empty": b"\0\0\0",
    "a header of 2**60 bytes": tensor_file({}, length=2**60),
    "a header longer than the file": tensor_file({}, length=200),
    "no JSON": tensor_file(b"{not json at all"),
    "no UTF-8": tensor_file(b'{"\xff\xfe": 1}'),
    "a list": tensor_file([1, 2]),
    "deeply nested": tensor_file(b'{"a":' * 100_000),
    "no fields": tensor_file({"a": {}}),
    "an unknown dtype": tensor_file({"a": entry(0, 8, dtype="F12"), "b": entry(8, 16)}),
    "a negative size": tensor_file({"a": entry(0, 8, (-2, -2)), "b": entry(8, 16)}),
    "a size that is no number": tensor_file({"a": entry(0, 8, ("4",)), "b": entry(8, 16)}),
    "a size that is true": tensor_file({"a": entry(0, 2, (True,)), "b": entry(2, 16, (7,))}),
    "too few bytes for the shape": tensor_file({"a": entry(0, 8, (5,)), "b": entry(8, 16)}),
    "an overlap": tensor_file({"a": entry(0, 8), "b": entry(4, 12), "c": entry(12, 16, (2,))}),
    "a hole": tensor_file({"a": entry(0, 8), "b": entry(10, 16, (3,))}),
    "cut off": tensor_file({"a": entry(0, 8), "b": entry(8, 24, (8,))}),
    "bytes left over": tensor_file({"a": entry(0, 8)}),
    "one name twice": tensor_file(
        b'{"a":%(e)s,"a":%(e)s}' % {b"e": json.dumps(entry(0, 8)).encode()}
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_damaged_weights_are_named(half, fault):
    (half / WEIGHTS).write_bytes(BROKEN[fault])
    with pytest.raises(ModelError) as error:
        checkpoint.resolve(half)
    assert error.value.code == ("model.pickle" if fault == "a pickle" else "model.damaged")
    assert str(half / WEIGHTS) in error.value.message
    assert "\n" not in error.value.message and error.value.hint


def test_the_same_builder_makes_files_that_are_accepted(tmp_path):
    entries = {"b": entry(8, 16), "a": entry(0, 8), "empty": entry(8, 8, (0, 3))}
    (tmp_path / "x.safetensors").write_bytes(tensor_file(entries))
    sites = tensorfile.read_header(tmp_path, "x.safetensors")
    assert {key: site.end - site.start for key, site in sites.items()} == {
        "a": 8,
        "b": 8,
        "empty": 0,
    }
    assert read_tensor(tmp_path, sites["empty"]).shape == (0, 3)


@settings(max_examples=300, deadline=None)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4
    )
)
def test_no_damage_raises_anything_but_a_model_error(tmp_path_factory, cuts):
    data = bytearray(
        tensor_file({"__metadata__": {"format": "pt"}, "a": entry(0, 8), "b": entry(8, 16, (2, 2))})
    )
    for at, patch in cuts:
        data[at % len(data) : at % len(data) + len(patch)] = patch
    folder = tmp_path_factory.getbasetemp()
    (folder / "fuzzed.safetensors").write_bytes(data)
    try:
        sites = tensorfile.read_header(folder, "fuzzed.safetensors")
    except ModelError:
        return
    assert sum(site.end - site.start for site in sites.values()) <= 16


# --- what is a model


def refused(model) -> ModelError:
    with pytest.raises(ModelError) as error:
        checkpoint.resolve(model)
    return error.value


def test_the_digest_covers_what_makes_up_the_model(half):
    base = checkpoint.resolve(half)
    assert (base.id, base.revision, base.folder) == (str(half), None, half)
    assert base.reference == str(half)
    digest = base.digest
    for extra in (
        ".git/config",
        ".cache/x.json",
        "picture.png",
        "recipe.toml",
        "forget.report.json",
        "forget.provenance.json",
        "v1-5-pruned.safetensors",
        "v1-5.ckpt",
        "unet/diffusion_pytorch_model.bin",
        "unet/openvino_model.xml",
    ):
        (half / extra).parent.mkdir(exist_ok=True)
        (half / extra).write_bytes(b"x")
    assert checkpoint.resolve(half).digest == digest
    (half / "LICENSE").write_text("terms")
    changed_digest = checkpoint.resolve(half).digest
    assert changed_digest != digest
    (half / "LICENSE").write_text("other terms")
    assert checkpoint.resolve(half).digest not in (digest, changed_digest)


def test_a_folder_that_is_no_model_is_refused(tmp_path, half):
    (tmp_path / "none").mkdir()
    assert "has no model_index.json" in refused(tmp_path / "none").message
    assert str(half) in refused(half / "unet").hint  # one level too deep
    assert str(half) in refused(half.parent).hint  # one level too high
    (half / "model_index.json").write_text("{")
    assert refused(half).code == "model.not-a-model"
    assert refused(half / "model_index.json").code == "model.not-a-model"


def test_a_missing_component_is_named_unless_it_is_dispensable(half):
    index = json.loads((half / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (half / "model_index.json").write_text(json.dumps(index))
    checkpoint.resolve(half)
    index["text_encoder_2"] = ["transformers", "CLIPTextModel"]
    (half / "model_index.json").write_text(json.dumps(index))
    assert "text_encoder_2/" in refused(half).message
    del index["text_encoder_2"]
    (half / "model_index.json").write_text(json.dumps(index))
    (half / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "has no weights" in refused(half).message


def test_pickles_are_never_opened(half):
    (half / WEIGHTS).rename(half / "text_encoder" / "pytorch_model.bin")
    error = refused(half)
    assert (error.code, "convert" in error.hint) == ("model.pickle", True)
    (half / "v1-5.ckpt").write_bytes(b"x")
    assert refused(half / "v1-5.ckpt").code == "model.pickle"
    assert refused(half / "unet/config.json").code == "model.not-a-model"


def test_demo_is_the_packages_own_and_a_folder_by_that_name_has_a_path(tmp_path, monkeypatch, half):
    package = tmp_path / "package"
    copied(half, package / "bundled" / "model")
    monkeypatch.setattr(checkpoint.resources, "files", lambda name: package)
    monkeypatch.chdir(tmp_path)
    copied(half, tmp_path / "demo")
    assert checkpoint.resolve("demo").folder == package / "bundled" / "model"
    assert checkpoint.resolve("./demo").folder == Path("demo")
    found = checkpoint.resolve(Path("demo"))
    assert (found.folder, found.id) == (Path("demo"), "./demo")
    (package / "bundled" / "model" / "model_index.json").unlink()
    assert "install" in refused("demo").hint


def test_a_near_name_is_suggested(tmp_path, monkeypatch, half):
    monkeypatch.chdir(tmp_path)
    assert "did you mean demo?" in refused("dmeo").hint
    assert "did you mean base" in refused("bsae").hint  # a model in this folder
    assert refused("./nowhere").code == "model.not-found"


# --- the hub

COMMIT = "a" * 40


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out; the hub itself cannot be reached."""
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    return tmp_path / "hub"


def cache_model(source: Path, hub_cache: Path, name: str = "org/tiny-sd") -> Path:
    storage = hub_cache / f"models--{name.replace('/', '--')}"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text(COMMIT)
    for number, path in enumerate(walk_files(source)):
        blob, link = storage / "blobs" / str(number), storage / "snapshots" / COMMIT / path
        blob.parent.mkdir(exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        copy_file(source / path, blob)
        link.symlink_to(blob)
    return storage / "snapshots" / COMMIT


@pytest.mark.parametrize("name", ["org/tiny-sd", f"org/tiny-sd@{COMMIT}", "org/tiny-sd@main"])
def test_a_cached_model_needs_no_network(half, hub_cache, tmp_path, name):
    snapshot = cache_model(half, hub_cache)
    base = checkpoint.resolve(name)
    assert (base.id, base.revision, base.folder) == ("org/tiny-sd", COMMIT, snapshot)
    assert base.reference == f"org/tiny-sd@{COMMIT}" and checkpoint.resolve(base.reference) == base
    assert base.digest == checkpoint.resolve(half).digest
    patched(
        snapshot, tmp_path / "edited", {("text_encoder", FC2): changed(weight_of(snapshot), 0.5)}
    )
    assert not any(
        path.is_symlink() for path in (tmp_path / "edited").rglob("*")
    )  # copies, not links into the cache
    assert weight_of(snapshot).equal(weight_of(half))  # and the cache is as it was


def test_the_commit_is_recorded_and_found_again_after_the_branch_has_moved(
    half, hub_cache, tmp_path
):
    snapshot = cache_model(half, hub_cache)
    (tmp_path / "r.toml").write_text(
        '[[concepts]]\nconcept = "van gogh"\ntarget = "monet"\n'
        '[edit]\nsites = [1]\n[refine]\nmode = "copy"\n'
    )
    apply.apply(
        tmp_path / "r.toml",
        model="org/tiny-sd@main",
        output=tmp_path / "edited",
        device="cpu",
        strict=False,
    )
    manifest = manifests.load(tmp_path / "edited")
    assert (manifest.base_id, manifest.base_revision, manifest.base) == (
        "org/tiny-sd",
        COMMIT,
        f"org/tiny-sd@{COMMIT}",
    )
    newer = copied(snapshot, snapshot.with_name("b" * 40))
    (newer / "scheduler/scheduler_config.json").write_text("{}")
    (snapshot.parents[1] / "refs/main").write_text("b" * 40)
    assert (
        checkpoint.resolve("org/tiny-sd").revision == "b" * 40
    )  # the control: by name it is another model now
    assert integrity.verify(tmp_path / "edited").ok
    assert not integrity.verify(tmp_path / "edited", base="org/tiny-sd@main").ok


def test_a_local_path_wins_over_the_hub(half, hub_cache, tmp_path, monkeypatch):
    cache_model(half, hub_cache)
    copied(half, tmp_path / "org" / "tiny-sd")
    monkeypatch.chdir(tmp_path)
    assert checkpoint.resolve("org/tiny-sd").folder == Path("org/tiny-sd")


def test_an_incomplete_cache_is_not_used(half, hub_cache):
    (cache_model(half, hub_cache) / WEIGHTS).unlink()
    error = refused("org/tiny-sd@main")
    assert error.code == "model.not-found"
    assert error.hint.endswith(
        "hf download org/tiny-sd --revision main "
        "--include '*.json' --include '*.txt' --include '*/*.safetensors'"
    )


def test_names_on_the_hub_are_suggested(hub_cache):
    assert "CompVis/stable-diffusion-v1-4" in refused("CompVis/stable-difusion-v1-4").hint


def test_nothing_is_downloaded_unless_allowed(half, hub_cache, monkeypatch):
    import huggingface_hub

    fetched = []

    def download(name, revision, allow_patterns, ignore_patterns=()):
        fetched.append(list(ignore_patterns))
        return str(cache_model(half, hub_cache))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError):
        checkpoint.resolve("org/tiny-sd", download=False)
    assert fetched == []
    assert checkpoint.resolve("org/tiny-sd").revision == COMMIT
    assert fetched == [list(hub.VARIANTS)]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("GatedRepoError", "model.gated"),
        ("RepositoryNotFoundError", "model.not-found"),
        ("RevisionNotFoundError", "model.not-found"),
    ],
)
def test_what_the_hub_says_is_passed_on(hub_cache, monkeypatch, fault, code):
    import huggingface_hub

    error_class = getattr(huggingface_hub.errors, fault)

    def refuse(*args, **kwargs):
        raise error_class.__new__(error_class)  # its constructor wants an HTTP response, by version

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert refused("org/name@v1").code == code


def test_a_full_disk_while_downloading_is_not_called_a_lack_of_network(hub_cache, monkeypatch):
    import huggingface_hub

    def fill_up(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fill_up)
    with pytest.raises(OutputError) as error:
        checkpoint.resolve("org/name")
    assert error.value.code == "output.disk-full"
