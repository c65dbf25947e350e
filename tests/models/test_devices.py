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
    assert device.pick_dtype(None) == torch.float32
    assert [device.pick_dtype(name) for name in device.DTYPES] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]
    with pytest.raises(ModelError) as caught:
        device.pick_dtype("float8")
    assert caught.value.code == "model.no-dtype" and "bfloat16" in caught.value.hint
