"""Claim: a method needs a task and a model, no recipe and no folder of earlier edits."""

from __future__ import annotations

import pytest
import torch
from pipelines import tiny_sd

from forgetcli import models
from forgetcli.checkpoint import base
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.editing.task import Task
from forgetcli.linalg import Moment
from forgetcli.methods import nullspace, uce
from forgetcli.progress import Silent

PAIRS = (("a dog", "a cat"),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("task") / "sd", torch.float32)
    return models.load(base.resolve(folder), device="cpu")


def test_a_method_runs_on_a_task_alone(model):
    result = uce.edit(model, Task(PAIRS), uce.Parameters(), Silent())
    assert set(result.weights) == {
        (site.component, site.parameter) for site in model.cross_attention.values()
    }
    assert all(report.delta_rel > 0 for report in result.sites)
    assert all(report.heldout_drift is None for report in result.sites)
    measured = uce.edit(model, Task(PAIRS, heldout=("a house",)), uce.Parameters(), Silent())
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
    free = nullspace.edit(model, Task(PAIRS, moments=cache), parameters, Silent())
    task = Task(PAIRS, moments=cache, earlier=earlier)
    held = nullspace.edit(model, task, parameters, Silent())
    assert asked == [[site.name]]
    assert free.sites[0].held is None and held.sites[0].held == 5
    assert held.sites[0].delta_rel < 0.5 * free.sites[0].delta_rel
    names = [material["name"] for material in held.moments]
    assert names == [*(material["name"] for material in free.moments), f"kp/{site.name}"]
