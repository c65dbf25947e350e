"""Claims: a method needs a task and a model, no recipe and no folder of earlier edits; its
algorithm is found by its name.
"""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch
from pipelines import tiny_sd

from forgetcli import methods, models, plugins
from forgetcli.checkpoint import base
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.task import Task
from forgetcli.errors import ForgetError
from forgetcli.linalg import Moment
from forgetcli.methods import nullspace, uce
from forgetcli.progress import Silent

PAIRS = (("a dog", "a cat"),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("task") / "sd", torch.float32)
    return models.load(base.resolve(folder), device="cpu")


def test_a_method_runs_on_a_task_alone(model):
    result = methods.load_edit("uce")(model, Task(PAIRS), uce.Parameters(), Silent())
    assert set(result.weights) == {
        (site.component, site.parameter) for site in model.cross_attention.values()
    }
    assert all(report.delta_rel > 0 for report in result.sites)
    assert all(report.heldout_drift is None for report in result.sites)
    measured = methods.load_edit("uce")(
        model, Task(PAIRS, heldout=("a house",)), uce.Parameters(), Silent()
    )
    assert all(report.heldout_drift > 0 for report in measured.sites)


def test_the_keys_of_earlier_edits_come_from_the_task(model, tmp_path):
    parameters = nullspace.Parameters.model_validate(
        {"edit": {"sites": [1], "prior": 0.0}, "refine": {"mode": "copy"}}
    )
    (site,) = model.pick_sites([1])
    asked = []
    width = site.module.weight.shape[1]
    moment = Moment(1e3 * torch.eye(width, dtype=torch.float64), tokens=5)

    def earlier(sites, observer):
        asked.append([each.name for each in sites])
        return {site.name: moment}

    cache = MomentCache(tmp_path)
    free = methods.load_edit("nullspace")(model, Task(PAIRS, moments=cache), parameters, Silent())
    task = Task(PAIRS, moments=cache, earlier=earlier)
    held = methods.load_edit("nullspace")(model, task, parameters, Silent())
    assert asked == [[site.name]]
    assert free.sites[0].held is None and held.sites[0].held == 5
    assert held.sites[0].delta_rel < 0.5 * free.sites[0].delta_rel
    names = [material["name"] for material in held.moments]
    assert names == [*(material["name"] for material in free.moments), f"kp/{site.name}"]


class Installed:
    """An entry point of a package that is not ours."""

    group = methods.GROUP

    def __init__(self, name: str, module: object) -> None:
        self.name, self.value, self.module = name, f"{name}_package", module

    def load(self) -> object:
        return self.module


@pytest.fixture
def install(monkeypatch):
    """Make a module an installed method."""

    def installed(name: str, **contents: object) -> None:
        module = ModuleType(f"{name}_package")
        vars(module).update(contents)
        monkeypatch.setattr(plugins, "entry_points", lambda group: [Installed(name, module)])

    return installed


def test_a_third_partys_algorithm_is_a_function_or_what_load_edit_returns(install):
    def edit(model, task, parameters, observer):
        return None

    install("theirs", edit=edit)
    assert methods.load_edit("theirs") is edit
    install("theirs", load_edit=lambda: edit)
    assert methods.load_edit("theirs") is edit
    install("theirs")
    with pytest.raises(ForgetError) as caught:
        methods.load_edit("theirs")
    assert caught.value.code == "plugin.broken"
    with pytest.raises(ForgetError) as caught:
        methods.load_edit("nobodys")
    assert caught.value.code == "recipe.unknown-method"


def test_every_method_of_ours_has_an_algorithm_and_is_described_without_torch():
    for name in methods.names():
        assert callable(methods.load_edit(name))
    script = (
        "import sys; from forgetcli import methods; from forgetcli.editing.task import Task;"
        "task = Task((('a dog', 'a cat'),));"
        "found = [(m, m.Parameters()) for m in map(methods.get, methods.names())];"
        "[m.cost(task, p) for m, p in found if hasattr(m, 'cost')];"
        "assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
