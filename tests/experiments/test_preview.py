"""``--dry-run`` of the long commands: it counts what they would make, and writes nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from forgetcli import recipe as recipes
from forgetcli.cli import edit_tables
from forgetcli.errors import ForgetError
from forgetcli.experiments import preview

TEXT = """
[[concepts]]
concept = "a dog"
target = "a cat"
direct = ["a dog in the rain", "a drawing of a dog"]
indirect = ["a loyal canine"]
[[retain]]
concept = "a bird"
direct = ["a bird"]
"""


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A recipe in an empty folder; estimates are not measured."""
    monkeypatch.chdir(tmp_path)
    base, estimates = SimpleNamespace(id="demo"), SimpleNamespace(seconds=3.0)
    planned = SimpleNamespace(base=base, estimates=estimates)
    monkeypatch.setattr(preview, "plan", lambda *positional, **named: planned)
    path = tmp_path / "dog.toml"
    path.write_text(TEXT)
    return path


def test_a_comparison_counts_the_control_and_every_method(recipe: Path):
    found = preview.of_comparison([recipe], methods="uce,esd", images=2)
    assert [edit.method for edit in found.edits] == ["none", "uce", "esd"]
    assert (found.prompts, found.images) == (4, 4 * 2 * 3)
    assert preview.of_comparison([recipe], methods="uce", quick=True).images == 4 * 2
    for wrong in ({"methods": "nope"}, {"judge": "nope"}, {"images": 10**9}):
        with pytest.raises(ForgetError):
            preview.of_comparison([recipe], **wrong)
    assert list(recipe.parent.iterdir()) == [recipe]


def test_what_is_finished_is_not_to_be_made_again(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        preview.edits, "existing", lambda use, base, folder: use.method == "uce" or None
    )
    found = preview.of_comparison([recipe], methods="uce,esd")
    assert [(e.finished, e.seconds) for e in found.edits] == [
        (False, 3.0), (True, None), (False, 3.0),
    ]  # fmt: skip
    assert not any(
        e.finished for e in preview.of_comparison([recipe], methods="uce", force=True).edits
    )
    text = "".join(map(str, edit_tables.preview(found.as_dict())))
    assert "12 images; 4 evaluation prompts" in text


def test_a_search_and_the_demo(recipe: Path):
    search = preview.of_search(recipe, trials=5)
    assert search.images == 4 * 6 and "refine.damping" in search.searched
    with pytest.raises(ForgetError, match="no search space"):
        preview.of_search(recipe, method="none")
    found = preview.of_demo(Path("demo"), recipe=str(recipe))
    assert (found.images, found.edits[0].finished) == (8, False)
    assert recipes.load(recipe).name == found.edits[0].recipe
    assert list(recipe.parent.iterdir()) == [recipe]
