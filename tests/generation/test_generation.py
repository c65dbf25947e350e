"""Claims: a picture says what made it, depends on nothing else, and is drawn once; a run that has
drawn part goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from pipelines import tiny_sd

from forgetcli.checkpoint import base
from forgetcli.errors import ForgetError
from forgetcli.generation.draw import Sampler, generate
from forgetcli.generation.images import METADATA

PROMPTS = ["a cat", "a house", "a dog by monet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("model") / "sd", torch.float32)


@pytest.fixture
def draw(model: Path, tmp_path: Path):
    def run(prompts=PROMPTS, **options):
        return generate(
            prompts,
            **{
                "model": model,
                "output": tmp_path / "images",
                "steps": 2,
                "batch": 2,
                "device": "cpu",
                **options,
            },
        )

    return run


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures are computed, call by call."""
    sizes, real = [], Sampler.__call__
    monkeypatch.setattr(
        Sampler,
        "__call__",
        lambda self, requests: sizes.append(len(requests)) or real(self, requests),
    )
    return sizes


def contents(result) -> list[bytes]:
    return [picture.path.read_bytes() for picture in result.images]


def test_a_png_says_what_made_it(draw, model: Path):
    result = draw(count=2, seed=7, guidance=3.0)
    assert [(i.prompt, i.seed) for i in result.images] == [
        (prompt, seed) for prompt in PROMPTS for seed in (7, 8)
    ]
    digest = base.resolve(model).digest
    for picture in result.images:
        said = json.loads(Image.open(picture.path).text[METADATA])
        assert said == {
            "prompt": picture.prompt,
            "seed": picture.seed,
            "model": digest,
            "steps": 2,
            "guidance": 3.0,
        }
    with open(
        model / "vae/config.json", "a"
    ) as file:  # the control: the digest is of the very model
        file.write(" ")
    try:
        assert base.resolve(model).digest != digest
    finally:
        os.truncate(model / "vae/config.json", (model / "vae/config.json").stat().st_size - 1)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(draw, tmp_path: Path):
    first = contents(draw())
    assert contents(draw(output=tmp_path / "again")) == first
    pixels = [
        hashlib.sha256(Image.open(p.path).tobytes()).digest()
        for p in (*draw().images, *draw(output=tmp_path / "other", seed=1).images)
    ]
    assert len(set(pixels)) == 6  # prompts and seeds: each picture is another


def test_what_is_there_is_kept_and_the_rest_is_drawn(draw, counted: list[int]):
    whole = draw()
    first, numbers = contents(whole), [p.path.stat().st_ino for p in whole.images]
    assert counted == [2, 1] and whole.reused == 0
    assert draw().reused == 3 and counted == [2, 1]  # nothing was computed
    whole.images[2].path.unlink()
    again = draw()
    assert (again.reused, counted) == (2, [2, 1, 1]) and contents(again) == first
    assert [p.path.stat().st_ino for p in again.images][:2] == numbers[:2]  # not written again
    torn = whole.images[0].path
    torn.write_bytes(first[0][:-30])
    assert (
        draw().reused == 2 and contents(whole) == first
    )  # its block is computed anew, to the same bytes
    assert (
        draw([PROMPTS[0], "starry night"]).reused == 1
    )  # another list goes on from what both have


@pytest.mark.parametrize("other", [{"steps": 3}, {"guidance": 2.0}, {"seed": 1}])
def test_other_settings_are_other_pictures(draw, other: dict):
    first = draw()
    assert draw(**other).reused == 0
    assert draw().reused == 3 and all(
        picture.path.exists() for picture in first.images
    )  # and the old ones stay


def test_another_model_is_another_picture(draw, tmp_path: Path):
    first = draw()
    other = tiny_sd(tmp_path / "other", torch.float32, seed=1)
    second = draw(model=other)
    assert second.reused == 0 and set(contents(first)).isdisjoint(contents(second))


def test_a_grid_has_a_row_for_each_prompt(draw):
    assert draw(count=2).grid is None
    sheet = draw(count=2, grid=True).grid
    width, height = Image.open(sheet).size
    side = Image.open(draw(count=2).images[0].path).size[0]
    assert 2 * side < width < 3 * side and 3 * side < height < 4 * side


def test_nothing_is_drawn_beside_a_base_that_there_is_not(draw, counted: list[int], tmp_path: Path):
    with pytest.raises(ForgetError) as caught:
        draw(compare_base=True)  # not an edited folder
    assert (
        caught.value.code == "model.not-edited"
        and counted == []
        and not (tmp_path / "images").exists()
    )


def test_a_model_that_cannot_be_loaded_leaves_no_folder(
    draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ForgetError) as caught:
        draw(device="tpu")
    assert caught.value.code == "model.no-device" and not (tmp_path / "images").exists()
    with pytest.raises(ForgetError) as caught:
        draw([" ", ""])
    assert caught.value.code == "generate.no-prompt" and not (tmp_path / "images").exists()


def test_a_device_with_little_memory_draws_in_halves(draw, monkeypatch: pytest.MonkeyPatch):
    whole, real, tried = contents(draw(batch=1)), Sampler.__call__, []

    def cramped(self, requests):
        tried.append(len(requests))
        if len(requests) > 1:
            raise RuntimeError("CUDA out of memory.")
        return real(self, requests)

    monkeypatch.setattr(Sampler, "__call__", cramped)
    for picture in draw(batch=1).images:
        picture.path.unlink()
    assert contents(draw(batch=3)) == whole and tried == [3, 1, 2, 1, 1]
    monkeypatch.setattr(
        Sampler,
        "__call__",
        lambda self, requests: (_ for _ in ()).throw(RuntimeError("CUDA out of memory.")),
    )
    with pytest.raises(ForgetError) as caught:
        draw(seed=5)
    assert caught.value.code == "generate.out-of-memory"
