"""``forget demo`` goes on with a finished edit of an earlier run, and only with that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pipelines import tiny_sd

from forgetcli.experiments import demo
from forgetcli.pipeline.apply import apply

CONCEPT = '[[concepts]]\nconcept = "van gogh"\ntarget = "monet"\n'


def test_a_finished_edit_is_used_again_unless_it_or_the_recipe_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = tiny_sd(tmp_path / "sd", torch.float32)
    # The control: an edit that changes nothing is soon made.
    head = f'model = "{model.as_posix()}"\nmethod = "none"\n'
    recipe = tmp_path / "art.toml"
    recipe.write_text(f"seed = 1\n{head}{CONCEPT}")
    edits: list[Path] = []

    def counted(*positional, output: Path, **named):
        edits.append(output)
        return apply(*positional, output=output, strict=False, **named)

    monkeypatch.setattr(demo, "apply", counted)
    monkeypatch.setattr(demo, "evaluate", lambda *positional, **named: None)

    def run(**named) -> int:
        before = len(edits)
        demo.run(tmp_path / "demo", recipe=str(recipe), device="cpu", **named)
        return len(edits) - before

    assert [run(), run()] == [1, 0]
    weights = tmp_path / "demo/edited/text_encoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert run() == 1  # changed by somebody: edited again
    recipe.write_text(f"seed = 2\n{head}{CONCEPT}")
    assert [run(), run()] == [1, 0]
    assert run(force=True) == 1
