"""Claims: the full-size benchmark runs in all its stages (shown on a tiny pipeline); an edit loads
only the components that a stage needs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from forgetcli import methods, models
from forgetcli import recipe as recipes
from forgetcli.checkpoint import base
from forgetcli.checkpoint.base import Base
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.models import components
from forgetcli.pipeline import memory
from forgetcli.pipeline.apply import apply
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import full_size


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("full")
    full_size.build(place / "base", full_size.TINY, 8)
    full_size.write_recipe(place / "recipe.toml", 12, 2)
    return place


def in_this_process(work: Path, stage: str) -> dict:
    bench = full_size.Bench(work)
    getattr(full_size, f"stage_{stage}")(bench)
    return bench.figures | {"peak_rss": memory.peak_rss()}


def test_every_stage_runs_and_the_table_has_them_all(work, monkeypatch, capsys):
    monkeypatch.setattr(full_size, "measured", in_this_process)
    figures = full_size.main(work, tiny=True, prompts=12, batch=2, stages=list(full_size.STAGES))
    shown = capsys.readouterr().out
    assert list(figures) == list(full_size.STAGES)
    for stage, row in figures.items():
        assert row["seconds"] > 0 and row["peak_rss"] > 0 and f"| {stage} |" in shown
    assert "at most 1.3 is wanted" in shown and "safety_checker" in shown
    assert json.loads((work / "figures.json").read_text())["stages"].keys() == figures.keys()


def test_the_pipeline_is_of_the_real_shape(work):
    model = models.load(base.resolve(work / "base"), device="cpu")
    ids = model.tokenizer(["a photo of a cat", ""], padding="max_length", max_length=77).input_ids
    assert ids[1] == [49406] + [49407] * 76 and ids[0][0] == 49406 and ids[0].index(49407) < 12
    assert model.text_encoder.config.vocab_size == 49408
    # Hand-counted sums of the published Stable Diffusion 1.4: 859.5 million parameters in the UNet,
    # 123.1 in the text encoder.
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=32, in_channels=4, out_channels=4, **full_size.REAL["unet"]
        )
        text = CLIPTextModel(
            CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **full_size.REAL["text"])
        )
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in text.parameters()) == 123_060_480


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """Classes of the networks that were loaded, in order."""
    seen: list[str] = []
    load = components.network

    def recorded(base: Base, name: str, cls: type, dtype: torch.dtype) -> torch.nn.Module:
        seen.append(cls.__name__)
        return load(base, name, cls, dtype)

    monkeypatch.setattr(components, "network", recorded)
    return seen


def test_only_what_a_stage_needs_is_loaded(work, tmp_path, loaded):
    recipe = recipes.load(work / "recipe.toml", ["refine.mode=copy"])
    model = models.load(base.resolve(work / "base"), device="cpu")
    assert loaded == []  # opened, nothing read
    method = methods.get(recipe.method)
    methods.load_edit(recipe.method)(
        model,
        task_of(recipe, model.base, MomentCache(tmp_path / "cache")),
        method.Parameters.model_validate(recipe.parameters),
        Silent(),
    )
    assert loaded == ["CLIPTextModel"]  # without refinement the edit has no use for the denoiser
    loaded.clear()
    apply(
        work / "recipe.toml",
        model=str(work / "base"),
        output=tmp_path / "edited",
        device="cpu",
        strict=False,
    )
    assert loaded == [
        "CLIPTextModel",
        "UNet2DConditionModel",
    ]  # no VAE and no safety checker, though the base has them
    _ = model.vae
    assert loaded[-1] == "AutoencoderKL"  # control: it would have been seen
