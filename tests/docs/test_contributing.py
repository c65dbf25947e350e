"""The method that CONTRIBUTING.md writes from beginning to end is real code: it is run here."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pipelines import tiny_sd
from processes import ROOT

from forgetcli import methods, models, plugins
from forgetcli.checkpoint import base
from forgetcli.editing.closed_form import stored_weight
from forgetcli.editing.context_columns import pair_columns, prompt_columns
from forgetcli.editing.context_sources import token_states
from forgetcli.editing.task import Task
from forgetcli.progress import Silent

PAIRS = (("a dog", "a cat"),)
PACKAGE = "forget_values"


class Installed:
    """The entry point that the method's pyproject.toml declares."""

    group, name, value = methods.GROUP, "values", PACKAGE

    def load(self) -> ModuleType:
        return importlib.import_module(PACKAGE)


@pytest.fixture
def parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """The documented package, written to a folder and installed; its Parameters."""
    document = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    described, algorithm = re.findall(r"^```python\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    package = tmp_path / PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text(described, encoding="utf-8")
    (package / "edit.py").write_text(algorithm, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [Installed()])
    yield methods.get("values").Parameters
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("contributing") / "sd", torch.float32)
    return models.load(base.resolve(folder), device="cpu")


def test_the_documented_method_moves_the_concept_and_keeps_the_rest(model, parameters) -> None:
    settings = parameters.model_validate({"edit": {"lam": 1e-9}})
    preserved = ("", "a house", "a tree")
    edit = methods.load_edit("values")
    result = edit(model, Task(PAIRS, preserve=preserved), settings, Silent())
    assert {name.split(".")[-2] for _, name in result.weights} == {"to_v"}

    pairs = pair_columns(token_states(model), PAIRS, "last")
    keep = prompt_columns(token_states(model), preserved, "last", pairs)
    for site in model.cross_attention.values():
        if (site.component, site.parameter) not in result.weights:
            continue
        W = stored_weight(model.base, site)
        delta = result.weights[site.component, site.parameter] - W
        wanted = W @ (pairs.targets - pairs.concepts)
        assert (delta @ pairs.concepts - wanted).norm() < 1e-3 * wanted.norm()
        assert (delta @ keep).norm() < 1e-3 * (W @ keep).norm()

    # A large ridge changes hardly anything, so the two bounds above say something.
    gentle = parameters.model_validate({"edit": {"lam": 1e9}})
    unchanged = edit(model, Task(PAIRS, preserve=preserved), gentle, Silent())
    assert all(report.fit > 0.99 for report in unchanged.sites)


def test_it_needs_no_torch_to_be_described(parameters) -> None:
    described = methods.get("values")
    cost = described.cost(Task(PAIRS), parameters())
    assert cost.encoded == 3
    assert "torch" not in vars(described)
