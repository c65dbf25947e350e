"""A text encoder that remembers its last inputs changes no image, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pipelines
import pytest
import torch

from forgetcli.checkpoint import base as checkpoint
from forgetcli.generation import generate
from forgetcli.generation.images import ImageRequest
from forgetcli.models.repeated_inputs import remember_repeated

MAKERS = {
    "sd": lambda folder: pipelines.tiny_sd(folder, torch.float32),
    "sdxl": pipelines.tiny_sdxl,
    "sd3": pipelines.tiny_sd3,
    "flux": pipelines.tiny_flux,
}
BATCHES = (["a cat", "a dog"], ["a house", "a tree"], ["a dog", "a cat"])


@pytest.mark.parametrize("family", MAKERS)
def test_the_negative_prompt_is_encoded_once(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every batch has other prompts and the same negative ones. Catches an output that is changed
    after it was remembered, or that is given for other prompts.
    """
    base = checkpoint.resolve(MAKERS[family](tmp_path / family))
    batches = [[ImageRequest(prompt, 0, steps=2) for prompt in batch] for batch in BATCHES]

    def drawn(*, remembered: bool) -> tuple[list[bytes], int]:
        with monkeypatch.context() as patch:
            if not remembered:
                patch.setattr(generate, "remember_repeated", lambda network: None)
            sampler = generate.Sampler(base, "cpu")
        calls = []
        part = getattr(sampler.model, sampler.model.encoders[0].component)
        linear = next(m for m in part.modules() if isinstance(m, torch.nn.Linear))
        linear.register_forward_hook(lambda *_: calls.append(1))
        return [image.tobytes() for batch in batches for image in sampler(batch)], len(calls)

    images, calls = drawn(remembered=True)
    expected, all_calls = drawn(remembered=False)
    assert images == expected
    # SDXL has zeros for the empty prompt, and FLUX no negative prompt.
    assert (calls, all_calls) == ((4, 6) if family in ("sd", "sd3") else (3, 3))


def test_only_equal_inputs_are_remembered():
    """Shape, options and order count; an input of three calls ago is computed again."""
    network, seen = torch.nn.Linear(2, 2), []
    forward = network.forward
    network.__dict__["forward"] = lambda x: seen.append(x) or forward(x)
    remember_repeated(network)
    a, b, c = (torch.full((1, 2), float(value)) for value in range(3))
    for value in (a, b, a, c, a, b):
        assert torch.equal(network(value), forward(value))
    assert [float(x[0, 0]) for x in seen] == [0, 1, 2, 1]
    network(a.reshape(2))
    assert len(seen) == 5
