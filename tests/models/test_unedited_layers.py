"""What is remembered of the layers before a site leaves every result as it is, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pipelines
import pytest
import torch
from torch import Tensor

from forgetcli import models
from forgetcli.checkpoint import base as checkpoint
from forgetcli.models.tokens import tokenise
from forgetcli.models.unedited_layers import remembered

MAKERS = {"sdxl": pipelines.tiny_sdxl, "sd3": pipelines.tiny_sd3}
PROMPTS = (["a van gogh painting of a dog", "cat"], ["a monet painting", "a dog"])
ENCODERS = [("sdxl", 0, "clip"), ("sdxl", 1, "clip"), ("sd3", 2, "t5")]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    root: Path = tmp_path_factory.mktemp("unedited")
    return {
        family: models.load(checkpoint.resolve(make(root / family)), device="cpu")
        for family, make in MAKERS.items()
    }


@pytest.mark.parametrize(("family", "number", "kind"), ENCODERS)
def test_layers_before_the_site_run_once_for_the_same_tokens(loaded, family, number, kind):
    """While the site's weight changes, every output is that of a pass without memory. Catches a
    memory of layers after the site, of other prompts, and one that remembers nothing.
    """
    model = loaded[family]
    encoder = model.encoders[number]
    assert encoder.kind == kind
    network, site = getattr(model, encoder.component), model.sites_of(encoder)[1]
    batches = [tokenise(model.tokenizer, prompts).ids for prompts in PROMPTS]
    calls = {"before": 0, "after": 0}
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    handles = []
    for name, module in (("before", linear[0]), ("after", site.module)):

        def count(*_: object, name: str = name) -> None:
            calls[name] += 1

        handles.append(module.register_forward_hook(count))

    def outputs(factor: float) -> list[Tensor]:
        with model.weights({(site.component, site.parameter): site.module.weight * factor}):
            found = [
                model.encoder_output(encoder, ids, output_hidden_states=True) for ids in batches
            ]
        return [state for output in found for state in (*output.hidden_states, output[0])]

    factors = (1.0, 2.0, 3.0)
    expected = [outputs(factor) for factor in factors]
    assert calls == {"before": 6, "after": 6}
    calls.update(before=0, after=0)
    with remembered(network, site):
        found = [outputs(factor) for factor in factors]
    assert calls == {"before": 2, "after": 6}
    for one, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(expected[0][-1], expected[1][-1])
    assert all(map(torch.equal, outputs(2.0), expected[1])) and calls["before"] == 4
    for handle in handles:
        handle.remove()
