"""Claims: the best device is found, the one asked for is used or refused in words; so with the
dtype.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from forgetcli.errors import ModelError
from forgetcli.process import device


@pytest.mark.parametrize(
    ("cuda", "mps", "found"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_detected(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, found: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: mps))
    monkeypatch.setattr(torch, "empty", lambda *shape, device: None)  # as if it were here
    assert device.pick_device(None).type == found
    assert device.pick_device("cpu").type == "cpu"  # --device overrides


@pytest.mark.parametrize(
    "name", ["tpu", "cuda:x", "meta", *([] if torch.cuda.is_available() else ["cuda"])]
)
def test_a_device_that_is_not_here_is_refused(name: str):
    with pytest.raises(ModelError) as caught:
        device.pick_device(name)
    assert (
        caught.value.code == "model.no-device"
        and name in caught.value.message
        and caught.value.hint
    )


def test_the_dtype_is_the_one_asked_for():
    pairs = [device.pick_dtypes(name) for name in device.DTYPES]
    assert [(found.encoders, found.others) for found in pairs] == [
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
    ]
    assert [found.name for found in pairs] == list(device.DTYPES)
    with pytest.raises(ModelError) as caught:
        device.pick_dtypes("float8")
    assert caught.value.code == "model.no-dtype" and "bfloat16" in caught.value.hint


SD, FLUX = "float16", "bfloat16"  # the families' half precisions
LARGE, SMALL = 860_000_000, 5_000_000


@pytest.mark.parametrize(
    ("place", "half", "stored", "parameters", "images", "edits"),
    [
        ("cpu", SD, "F16", LARGE, "float32", "float32"),
        ("cpu", FLUX, "BF16", LARGE, "float32", "float32"),
        ("mps", SD, "F16", LARGE, "float32", "float32"),
        ("cuda", SD, "F16", LARGE, "float16", "float32"),
        ("cuda", SD, "F32", LARGE, "float16", "float32"),
        ("cuda", SD, "BF16", LARGE, "bfloat16", "mixed"),  # as the checkpoint declares
        ("cuda", FLUX, "BF16", LARGE, "bfloat16", "mixed"),
        ("cuda", FLUX, "F32", LARGE, "bfloat16", "mixed"),
        ("cuda", FLUX, "F16", LARGE, "bfloat16", "mixed"),  # float16 overflows
        ("cuda", SD, "F16", SMALL, "float32", "float32"),  # the embedded model
    ],
)
def test_the_dtype_is_chosen_by_device_family_and_file(
    place: str, half: str, stored: str, parameters: int, images: str, edits: str
):
    assert device.default_dtype(place, half, stored, parameters, exact=False) == images
    assert device.default_dtype(place, half, stored, parameters, exact=True) == edits
