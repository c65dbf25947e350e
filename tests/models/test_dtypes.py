"""The dtype that is chosen reaches the loaders, and models in `mixed` precision run in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pipelines import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl
from recipe_example import EXAMPLE

from forgetcli import models, recipe
from forgetcli.artifact import manifest
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import base
from forgetcli.generation import generate as generation
from forgetcli.generation.images import ImageRequest
from forgetcli.models import components
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.apply import apply
from forgetcli.process import device
from forgetcli.progress import Silent
from forgetcli.verification import rebuild

MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd": tiny_sd,
    "sdxl": tiny_sdxl,
    "sd3": tiny_sd3,
    "flux": tiny_flux,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: make(root / family) for family, make in MAKERS.items()}


@pytest.mark.parametrize(
    ("family", "images", "edits"),
    [
        ("sd", ("float16", "float16"), ("float32", "float32")),
        ("flux", ("bfloat16", "bfloat16"), ("float32", "bfloat16")),
        ("sd3", ("bfloat16", "bfloat16"), ("float32", "bfloat16")),
    ],
)
def test_on_cuda_the_choice_reaches_the_loaders(folders, monkeypatch, family, images, edits):
    loaded: dict[str, str] = {}

    def network(base, name, cls, dtype):
        loaded[name] = str(dtype).removeprefix("torch.")
        return SimpleNamespace(to=lambda place: None)

    monkeypatch.setattr(components, "network", network)
    monkeypatch.setattr(models, "pick_device", lambda name: SimpleNamespace(type=name))
    monkeypatch.setattr(device, "LARGE_DENOISER", 0)  # as if the tiny models were large
    here = base.resolve(folders[family])
    for editable, expected in ((False, images), (True, edits)):
        for place, wanted in (("cuda", expected), ("cpu", ("float32", "float32"))):
            model = models.load(here, device=place, editable=editable)
            _ = model.text_encoder, model.denoiser, model.vae
            assert (loaded["text_encoder"], loaded[model.DENOISER]) == wanted
            assert loaded["vae"] == wanted[1]
    assert models.load(here, device="cuda", dtype="float32").dtype_name == "float32"  # --dtype
    assert models.image_dtype(here, "cuda", "mixed") == "bfloat16"


def test_on_cuda_images_record_their_dtype_and_on_the_cpu_nothing_changes(folders, monkeypatch):
    asked = []
    real = ImageRequest.origin
    monkeypatch.setattr(
        ImageRequest, "origin", lambda self, *a: asked.append(real(self, *a)) or asked[-1]
    )
    monkeypatch.setattr(generation, "has_origin", lambda path, origin: True)  # nothing to generate
    here, request = base.resolve(folders["flux"]), ImageRequest("a dog", 0)
    options = {"batch": 1, "observer": Silent()}
    generation.generate_images(here, [request], Path(), device="cpu", **options)
    monkeypatch.setattr(models, "pick_device", lambda name: SimpleNamespace(type=name))
    monkeypatch.setattr(device, "LARGE_DENOISER", 0)
    generation.generate_images(here, [request], Path(), device="cuda", **options)
    assert [origin.get("dtype") for origin in asked] == [None, "bfloat16"]


@pytest.mark.parametrize("family", MAKERS)
def test_a_mixed_model_predicts_what_a_float32_model_does(folders, family):
    here = base.resolve(folders[family])
    exact, mixed, half = (
        models.load(here, device="cpu", dtype=name) for name in ("float32", "mixed", "bfloat16")
    )
    assert mixed.text_encoder.dtype == torch.float32 and mixed.denoiser.dtype == torch.bfloat16
    ids = tokenise(exact.tokenizer, ["a van gogh painting of a dog"]).ids
    contexts = [model.encode(ids) for model in (exact, mixed, half)]
    assert torch.equal(contexts[0].hidden, contexts[1].hidden)  # the encoders are the same
    assert not torch.equal(contexts[0].hidden, contexts[2].hidden.float())  # the control
    noisy, t = torch.randn(1, *exact.latent_shape, generator=torch.Generator()), torch.tensor(500)
    with torch.no_grad():
        expected = exact.denoise(noisy, t, contexts[0])
        found = mixed.denoise(noisy.to(mixed.dtype), t, contexts[1])
    assert found.dtype == torch.bfloat16
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_an_edit_in_mixed_precision_is_recorded_and_repeated(folders, tmp_path):
    read = recipe.parse(EXAMPLE)
    edited = tmp_path / "edited"
    apply(
        read, model=str(folders["flux"]), output=edited, device="cpu", dtype="mixed", strict=False
    )
    details = manifest.load(edited).run_details["metadata"]
    assert details["dtype"] == "mixed"
    finding = rebuild.rebuilt(EditedModel(edited), Silent())
    assert not finding.problems and "byte for byte" in finding.proved[0]
