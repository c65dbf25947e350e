"""Images from contexts are those of diffusers' own pipeline; noise and early steps change them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from forgetcli import generation, models
from forgetcli.checkpoint import base as checkpoint
from forgetcli.generation.generate import generate_images
from forgetcli.generation.images import ImageRequest
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Silent
from forgetcli.robustness.sampling import Early, Sampling, sample_images

assert generation
PROMPTS = ["a picture of a dog", "van gogh painting of a fish"]
SAMPLING = Sampling(steps=6, guidance=4.5, batch=2)


@pytest.fixture(scope="module")
def demo():
    return models.load(checkpoint.resolve("demo"), device="cpu")


def contexts(model, prompts=PROMPTS):
    with torch.no_grad():
        return model.encode(tokenise(model.tokenizer, prompts).ids)


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=int) for image in images])


def test_the_same_images_as_the_pipeline(demo, tmp_path: Path) -> None:
    ours, latents = sample_images(demo, contexts(demo), [3, 4], SAMPLING)
    assert latents.shape == (2, *demo.latent_shape)
    requests = [ImageRequest(p, s, steps=6) for p, s in zip(PROMPTS, (3, 4))]
    paths, _ = generate_images(
        demo.base, requests, tmp_path, device="cpu", batch=2, observer=Silent()
    )
    theirs = pixels([Image.open(path) for path in paths])
    assert np.abs(pixels(ours) - theirs).max() <= 1
    # The negative control: other noise gives other images.
    others, _ = sample_images(demo, contexts(demo), [4, 3], SAMPLING)
    assert np.abs(pixels(others) - theirs).mean() > 10


def test_an_image_does_not_depend_on_its_batch(demo) -> None:
    both, _ = sample_images(demo, contexts(demo), [3, 4], SAMPLING)
    alone, _ = sample_images(demo, contexts(demo)[[1]], [4], SAMPLING)
    assert np.abs(pixels(both)[1] - pixels(alone)[0]).max() <= 1


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.85])
def test_noise_in_the_steps_stays_finite(demo, eta: float) -> None:
    """The scheduler's noise schedule ends at zero signal: above η = 1 DDIM's formula has the root
    of a negative number there.
    """
    _, latents = sample_images(demo, contexts(demo), [3, 4], SAMPLING, eta=eta, noise_scale=1.04)
    plain, without = sample_images(demo, contexts(demo), [3, 4], SAMPLING)
    assert torch.isfinite(latents).all() and plain
    assert (latents - without).abs().mean() > 0.1


def test_early_steps_are_the_other_models(demo) -> None:
    dog, fish = contexts(demo, ["a dog"]), contexts(demo, ["a fish"])
    whole, _ = sample_images(demo, dog, [1], SAMPLING)
    none_left, _ = sample_images(demo, fish, [1], SAMPLING, early=Early(demo, dog, 6))
    assert (pixels(none_left) == pixels(whole)).all()
    half, _ = sample_images(demo, fish, [1], SAMPLING, early=Early(demo, dog, 3))
    assert (pixels(half) != pixels(whole)).any()
