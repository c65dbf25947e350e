"""Claims: a model is described from its files' headers alone; a dry run knows what is cached;
estimates are counted, and called so.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from pipelines import shard, tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl
from tiny_runs import RECIPE
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from forgetcli import models
from forgetcli.checkpoint import base as checkpoint
from forgetcli.cli import edit_tables
from forgetcli.cli.app import app
from forgetcli.errors import EditError, ModelError
from forgetcli.pipeline import estimates, inspect, memory
from forgetcli.pipeline.apply import apply
from forgetcli.pipeline.flops import denoiser_layers


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("inspected") / "sd")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "art.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def quiet(monkeypatch) -> None:
    monkeypatch.setattr("forgetcli.cli.progress.silence_libraries", lambda: None)


def shown(*arguments: str | Path) -> dict:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_headers_say_is_what_the_loaded_model_has(base):
    found = inspect.inspect(checkpoint.resolve(base))
    loaded = models.load(checkpoint.resolve(base), device="cpu")
    parts = {c.name: c for c in found.components}
    assert set(parts) == {"text_encoder", "tokenizer", "unet", "vae", "scheduler"}
    for name in ("text_encoder", "unet", "vae"):
        module = getattr(loaded, name)
        assert parts[name].parameters == sum(p.numel() for p in module.parameters()), name
        assert parts[name].class_name == type(module).__name__ and dict(parts[name].dtypes) == {
            "F16": parts[name].parameters
        }
        assert parts[name].bytes == 2 * parts[name].parameters
    assert parts["tokenizer"].parameters is None and parts["tokenizer"].bytes > 0
    own = {block: tuple(site.module.weight.shape) for block, site in loaded.sites.items()}
    assert {s.block: s.shape for s in found.sites if s.kind == "clip"} == own
    assert len([s for s in found.sites if s.kind == "cross-attention"]) == len(
        loaded.cross_attention
    )
    assert (found.family, found.pipeline, found.edited) == ("sd", "StableDiffusionPipeline", None)


def test_weights_are_not_read(tmp_path):
    """A file whose data are 40 GB of nothing on disk is looked at in a moment, in next to no
    memory.
    """
    folder = tiny_sd(tmp_path / "sd")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header, end = json.loads(path.read_bytes()[8 : 8 + length]), path.stat().st_size - 8 - length
    header["more"] = {
        "dtype": "F16",
        "shape": [20_000, 1_000_000],
        "data_offsets": [end, end + 40_000_000_000],
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end + 40_000_000_000)
    before = memory.peak_rss()
    (unet,) = [
        c for c in inspect.inspect(checkpoint.resolve(folder)).components if c.name == "unet"
    ]
    assert unet.bytes > 40e9 and memory.peak_rss() - before < 50e6


def test_shards_variants_and_other_pipelines(tmp_path):
    folder = tiny_sd(tmp_path / "sd")
    before = inspect.inspect(checkpoint.resolve(folder))
    weights = folder / "text_encoder" / "model.safetensors"
    (folder / "text_encoder" / "model.fp16.safetensors").write_bytes(weights.read_bytes())
    shard(weights)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "SomeOtherPipeline"})
    )
    after = inspect.inspect(checkpoint.resolve(folder))
    (one,), (other,) = (
        [c for c in found.components if c.name == "text_encoder"] for found in (before, after)
    )
    assert (other.parameters, other.bytes, other.variants) == (one.parameters, one.bytes, ("fp16",))
    assert after.family is None and after.pipeline == "SomeOtherPipeline"
    weights.with_name("model-00001-of-00002.safetensors").write_bytes(b"<!doctype html>")
    with pytest.raises(ModelError):
        checkpoint.resolve(folder)


def test_the_command_says_how_a_model_was_edited(base, recipe, tmp_path, quiet):
    assert shown("inspect", base)["edited"] is None
    apply(recipe, model=str(base), output=tmp_path / "edited", device="cpu", strict=False)
    data = shown("inspect", tmp_path / "edited")
    assert data["edited"]["concepts"] == [["van gogh", "monet"]] and data["edited"]["base"] == str(
        base
    )
    assert len(data["edited"]["tensors"]) == 2 and data["edited"]["method"] == "nullspace"
    human = CliRunner().invoke(app, ["inspect", str(tmp_path / "edited")]).stdout
    assert "van gogh → monet" in human and "mlp.fc2" in human and "UNet2DConditionModel" in human
    (tmp_path / "edited" / "forget.provenance.json").write_text("{}")
    assert "not a valid manifest" in shown("inspect", tmp_path / "edited")["edited"]["problem"]


def test_a_dry_run_knows_what_is_cached_site_by_site(base, recipe, tmp_path, quiet, quick_timing):
    def cached(*more: str) -> dict:
        data = shown("apply", recipe, "--model", base, "--device", "cpu", "--dry-run", *more)
        return {site["name"].rpartition("layers.")[2]: site["cached"] for site in data["sites"]}

    assert cached() == {"1.mlp.fc2": False, "2.mlp.fc2": False}
    apply(recipe, model=str(base), output=tmp_path / "edited", device="cpu", strict=False)
    assert cached() == {"1.mlp.fc2": True, "2.mlp.fc2": True}
    assert cached("--set", "edit.sites=[2,3]") == {"2.mlp.fc2": True, "3.mlp.fc2": False}
    assert cached("--dtype", "bfloat16") == {
        "1.mlp.fc2": False,
        "2.mlp.fc2": False,
    }  # other numbers: another entry
    assert cached("--set", "preserve.prompts=['a cat']") == {"1.mlp.fc2": False, "2.mlp.fc2": False}
    with pytest.raises(EditError) as error:
        shown("apply", recipe, "--model", base, "--dry-run", "--set", "edit.sites=[9]")
    assert error.value.code == "edit.no-such-site" and "0 to 3" in error.value.hint


@pytest.mark.parametrize("model", ["tiny", "demo", "sdxl", "sd3", "flux"])
def test_the_operations_are_those_that_torch_counts(base, model, tmp_path):
    builders = {"sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}
    resolved = checkpoint.resolve(
        "demo"
        if model == "demo"
        else builders[model](tmp_path / model)
        if model in builders
        else base
    )
    loaded = models.load(resolved, device="cpu")
    context = loaded.unconditional()
    # Fused attention is not counted on every device; attention by single products always is.
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        loaded.denoise(torch.zeros(1, *loaded.latent_shape), torch.tensor([5]), context)
    layers = estimates.denoiser_layers(resolved)
    products = {
        str(op).rpartition(".")[2]: n for op, n in counter.get_flop_counts()["Global"].items()
    }
    attention = sum(
        n for name, n in products.items() if "attention" in name or name.startswith("bmm")
    )
    scores = sum(map(scores_of, layers))
    assert sum(layer.flops for layer in layers) - scores == counter.get_total_flops() - attention
    assert scores == attention > 0
    if model in ("sd3", "flux"):
        assert loaded.context_length == context.hidden.shape[1]
        sites = {s.name: s.shape for s in inspect.inspect(resolved).sites if s.kind == "embedder"}
        assert sites == {s.name: tuple(s.module.weight.shape) for s in loaded.embedders.values()}


def scores_of(layer: estimates.Layer) -> int:
    return 0 if layer.side else layer.flops - 2 * layer.rows * layer.shape[0] * layer.shape[1]


def test_estimates_grow_with_the_work_and_are_called_estimates(base, recipe, quiet, quick_timing):
    def needs(*more: str) -> dict:
        return shown("apply", recipe, "--model", base, "--device", "cpu", "--dry-run", *more)[
            "estimates"
        ]

    denoised = ("--set", "refine.match=denoiser")
    few, many = (
        needs(*denoised),
        needs(*denoised, "--set", "refine.steps=40000", "--set", "refine.batch=64"),
    )
    assert (
        many["seconds"] > 10 * few["seconds"] > 0 and many["memory_bytes"] > few["memory_bytes"] > 0
    )
    missing = shown("apply", recipe, "--model", base, "--device", "cpu", "--dry-run")["cache"][
        "misses"
    ]
    assert (
        few["cache_bytes"] == missing * 8 * 64 * 64 > 0
        and few["disk_bytes"] > 0
        and "measured" in few["basis"]
    )
    assert needs("--method", "esd")["seconds"] is None  # not guessed where the method does not say
    told = shown("inspect", base, "--recipe", recipe, "--device", "cpu")["estimates"]
    counted = ("basis", "device", "dtype", "disk_bytes", "cache_bytes", "denoiser_flops")
    assert told.keys() == few.keys() and {k: told[k] for k in counted} == {
        k: needs()[k] for k in counted
    }  # a dry run's, the same
    # With gradients through the denoiser both networks are needed at once.
    alone = needs("--method", "uce")
    assert few["offloaded_bytes"] is None and 0 < alone["offloaded_bytes"] < alone["device_bytes"]
    assert needs("--dtype", "float16")["device_bytes"] < alone["device_bytes"]
    on_gpu = edit_tables.estimates({**alone, "device": "cuda"})
    assert "of its memory" in on_gpu and "with --offload model" in on_gpu
    human = (
        CliRunner()
        .invoke(app, ["inspect", str(base), "--recipe", str(recipe), "--device", "cpu"])
        .stdout
    )
    assert "estimates:" in human and "time: about" in human and "measured" in human


def test_an_edit_takes_the_disk_that_was_estimated(base, recipe, tmp_path, quiet, quick_timing):
    def taken(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    wanted = shown("apply", recipe, "--model", base, "--device", "cpu", "--dry-run")["estimates"][
        "disk_bytes"
    ]
    apply(
        recipe,
        model=str(base),
        output=tmp_path / "edited",
        device="cpu",
        strict=False,
        copying="copy",
    )
    texts = sum(
        path.stat().st_size
        for path in (tmp_path / "edited").glob("*")
        if path.suffix in (".json", ".toml", ".md")
    )
    headers = 4096
    assert 0 <= taken(tmp_path / "edited") - wanted <= texts + headers
    assert wanted - taken(base) > 20_000  # control: the ledger is counted, and is no trifle


def test_the_estimate_knows_how_much_the_check_does():
    """Of 12 prompts of each kind, half for large denoisers: noisy images in 4 of 5 steps, then 6
    predictions.
    """
    from forgetcli.pipeline import estimates

    assert estimates.checked(0) == estimates.checked(99_999_999) == 12 * (4 + 6)
    assert estimates.checked(100_000_000) == 6 * (4 + 6)


def test_a_wide_unet_is_estimated_as_a_square_with_as_many_pixels(base, tmp_path):
    """`sample_size` may be [height, width]; an even side keeps the levels' sizes whole."""
    flops = []
    for name, size in (("square", 16), ("wide", [8, 32])):
        folder = tmp_path / name
        shutil.copytree(base, folder)
        path = folder / "unet/config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": size}))
        layers = denoiser_layers(checkpoint.resolve(folder))
        flops.append(sum(layer.flops for layer in layers))
    assert flops[0] == flops[1] > 0
