"""The notebook's cells run in order, show what they promise, and print nothing of libraries."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT

import forgetcli
from forgetcli.errors import ForgetError

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def smaller(source: str) -> str:
    """The cell with fewer steps and images, so that the test is short."""
    for usual, small in (
        ("steps=10", "steps=4"),
        ('features="none"', 'features="none", near_concepts=0'),
    ):
        source = source.replace(usual, small)
    return source


def shown(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def test_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert sum(smaller(cell) != cell for cell in cells) == 2  # both are there to be made smaller
    assert not any(c.get("outputs") for c in notebook["cells"])  # committed without outputs
    names: dict[str, Any] = {}
    values = [shown(smaller(cell), names) for cell in cells]
    assert capfd.readouterr().err == ""

    edited, images, scores = values[1:4]
    for value in (edited, images, scores):
        assert len(repr(value)) < 200 and "\n" not in repr(value)
    assert repr(edited).startswith("ApplyResult(edited: demo edited by nullspace, moved ")
    assert repr(images).startswith("GenerateResult(4 images in ")
    assert repr(scores).startswith("Evaluation(edited: forget 100 %, retain ")
    html = images._repr_html_()
    assert html.count("<img src=") == 4 and "a loyal canine (base model)" in html
    table = scores._repr_html_()
    assert "<tr><td>unedited</td><td>0 % (" in table and table.count("<img src=") == 4
    assert "moved to the target" in edited._repr_html_()
    assert values[4] == (1.0, 1.0)


def test_dir_lists_the_functions_and_nothing_else() -> None:
    public = [name for name in dir(forgetcli) if not name.startswith("_")]
    assert public == sorted(forgetcli.__all__)
    assert {"tune", "export", "inspect", "attack"} <= set(public)
    assert all(callable(getattr(forgetcli, name)) for name in public)
    # Importing the package of the same name leaves something that can be called.
    importlib.import_module("forgetcli.export")

    with pytest.raises(ForgetError):
        forgetcli.export("nowhere", "delta")
