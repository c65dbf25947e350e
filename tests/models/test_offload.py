"""Networks that leave the GPU: when that is chosen, what is moved when, and that nothing else
changes. Without a GPU: the decision is a function, and moves are recorded.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from pipelines import tiny_sd, tiny_sdxl
from recipe_example import EXAMPLE

from forgetcli import models, recipe
from forgetcli.checkpoint import base
from forgetcli.generation.generate import Sampler
from forgetcli.generation.images import ImageRequest
from forgetcli.models import offload
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.apply import apply
from forgetcli.progress import Silent

GIB = 2**30
# Parameters of the published networks.
SDXL = {
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
    "unet": 2_567_463_684,
    "vae": 83_653_863,
}
FLUX = {
    "text_encoder": 123_060_480,
    "text_encoder_2": 4_762_310_656,
    "transformer": 11_901_408_320,
    "vae": 83_819_683,
}


def needs(parameters: dict[str, int], encoders: int, others: int) -> offload.DeviceNeeds:
    """With so many bytes for each parameter."""
    return offload.DeviceNeeds.of(
        {
            name: count * (encoders if name.startswith("text_encoder") else others)
            for name, count in parameters.items()
        }
    )


@pytest.mark.parametrize(
    ("what", "free", "offloaded", "fits_then"),
    [
        (needs(SDXL, 2, 2), 24 * GIB, False, True),  # images in float16
        (needs(SDXL, 4, 4), 24 * GIB, False, True),  # an edit in float32
        (needs(SDXL, 2, 2), 10 * GIB, True, True),
        (needs(FLUX, 2, 2), 48 * GIB, False, True),  # images in bfloat16
        (needs(FLUX, 4, 2), 48 * GIB, False, True),  # an edit in mixed
        (needs(FLUX, 4, 4), 48 * GIB, True, False),  # the transformer alone is too large
        (needs(FLUX, 2, 2), 32 * GIB, True, True),
        (needs(FLUX, 2, 2), 24 * GIB, True, False),
    ],
)
def test_networks_leave_a_gpu_on_which_they_do_not_fit(what, free, offloaded, fits_then):
    assert offload.is_offloaded("auto", "cuda", what, free) == offloaded
    assert (what.offloaded <= free) == fits_then
    assert offload.is_offloaded("model", "cuda", what, free)
    assert not offload.is_offloaded("none", "cuda", what, free)
    assert not any(
        offload.is_offloaded(c, p, what, 0) for c in offload.CHOICES for p in ("cpu", "mps")
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {"sd": tiny_sd(root / "sd"), "sdxl": tiny_sdxl(root / "sdxl")}


def test_the_size_of_a_network_is_that_of_its_weights(folders):
    model = models.load(base.resolve(folders["sdxl"]), device="cpu", dtype="mixed")
    names = [*offload.edited_networks(model), "vae"]
    assert names == ["text_encoder", "text_encoder_2", "unet", "vae"]
    for name, size in offload.network_bytes(model, names).items():
        loaded = getattr(model, name).parameters()
        assert size == sum(p.numel() * p.element_size() for p in loaded), name


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every move of a network as (class, device). "cuda" is the CPU under another name."""
    found: list[tuple[str, str]] = []
    real = torch.nn.Module.to

    def to(self, *where, **options):
        if where and str(where[0]) in ("cpu", "cuda"):
            found.append((type(self).__name__, str(where[0])))
            return self
        return real(self, *where, **options)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    return found


def test_one_network_is_on_the_device_at_a_time_but_while_gradients_are_computed(folders, moves):
    model = models.load(base.resolve(folders["sd"]), device="cpu")
    offload.enable(model)
    model.offload.device = "cuda"
    ids = tokenise(model.tokenizer, ["a dog"]).ids
    with torch.no_grad():
        context = model.encode(ids)
        noisy = torch.zeros(1, *model.latent_shape)
        model.denoise(noisy, torch.tensor(5), context)
        model.encode(ids)
    encoder, unet = "CLIPTextModel", "UNet2DConditionModel"
    assert moves == [
        (encoder, "cpu"), (encoder, "cuda"),  # loaded; used
        (unet, "cpu"), (encoder, "cpu"), (unet, "cuda"),
        (unet, "cpu"), (encoder, "cuda"),
    ]  # fmt: skip
    moves.clear()
    model.denoise(noisy, torch.tensor(5), model.encode(ids))
    assert moves == [(encoder, "cuda"), (unet, "cuda")]  # both stay for the backward pass


@pytest.mark.parametrize(
    ("method", "is_offloaded"), [("nullspace", True), ("uce", True), ("esd", False)]
)
def test_an_edit_is_the_same_with_its_networks_offloaded(
    folders, tmp_path, monkeypatch, method, is_offloaded
):
    read = recipe.parse(EXAMPLE).model_copy(update={"method": method, "parameters": {}})
    notes, enabled, real = [], [], offload.enable
    observer = Silent()
    monkeypatch.setattr(observer, "note", notes.append, raising=False)
    options = {"model": str(folders["sd"]), "device": "cpu", "strict": False}
    if is_offloaded:
        apply(read, output=tmp_path / "plain", **options)
    monkeypatch.setattr(offload, "chosen", lambda *_: True)
    monkeypatch.setattr(offload, "enable", lambda model: enabled.append(model) or real(model))
    if not is_offloaded:
        # It is refused before anything is computed.
        monkeypatch.setattr("forgetcli.methods.load_edit", lambda name: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            apply(read, output=tmp_path / "moved", observer=observer, **options)
        assert not enabled and "stay on the GPU" in notes[-1]
        return
    apply(read, output=tmp_path / "moved", observer=observer, **options)
    assert len(enabled) == 1 and len(enabled[0].offload.networks) == 2
    assert offload.NOTE in notes
    for file in sorted((tmp_path / "plain").glob("*/*.safetensors")):
        moved = tmp_path / "moved" / file.relative_to(tmp_path / "plain")
        assert file.read_bytes() == moved.read_bytes(), file


def test_images_are_left_to_diffusers(folders, monkeypatch):
    request = ImageRequest("a dog", 0, steps=2)
    here = base.resolve(folders["sd"])
    (plain,) = Sampler(here, "cpu")([request])
    installed = []
    real = diffusers.StableDiffusionPipeline.enable_model_cpu_offload

    def install(self, device):
        installed.append(device)
        real(self, device=device)

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "enable_model_cpu_offload", install)
    Sampler(here, "cpu", offload="model")
    assert not installed  # there is nothing to offload from the CPU
    seen = []

    def chosen(model, choice, names):
        seen.extend(names)
        return offload.is_offloaded(
            choice, "cuda", offload.DeviceNeeds.of(offload.network_bytes(model, names)), 1_000_000
        )

    monkeypatch.setattr(offload, "chosen", chosen)
    sampler = Sampler(here, "cpu", offload="auto")
    assert installed == [torch.device("cpu")] and sampler.model.home == torch.device("cpu")
    assert seen == ["text_encoder", "unet", "vae"]
    networks = (sampler.model.text_encoder, sampler.model.unet, sampler.model.vae)
    assert all(hasattr(network, "_hf_hook") for network in networks)  # accelerate's
    (offloaded,) = sampler([request])
    assert offloaded.tobytes() == plain.tobytes()
    installed.clear()
    Sampler(here, "cpu", offload="none")
    assert not installed


def test_on_cuda_the_free_memory_decides(monkeypatch):
    model = SimpleNamespace(device=torch.device("cuda", 1))
    monkeypatch.setattr(offload, "network_bytes", lambda *_: {"unet": 10 * GIB, "vae": GIB})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (16 * GIB, 24 * GIB))
    assert not offload.chosen(model, "auto", ())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (12 * GIB, 24 * GIB))
    assert offload.chosen(model, "auto", ()) and not offload.chosen(model, "none", ())
