"""Claims about the embedded model's data: what heldout.json lists is kept out of training, and the
judge learns from other drawings.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "forgetcli/bundled"
SAMPLES = 5000


@pytest.fixture(scope="module")
def scripts():
    """`captions` and `drawings` of the training scripts, without what only drawing needs."""
    kept = {name: sys.modules.get(name) for name in ("resvg_py", "captions", "drawings")}
    sys.modules.setdefault("resvg_py", ModuleType("resvg_py"))
    sys.path.insert(0, str(ROOT / "scripts/demo_model"))
    try:
        import captions
        import drawings

        yield captions, drawings
    finally:
        sys.path.remove(str(ROOT / "scripts/demo_model"))
        for name, module in kept.items():
            sys.modules.pop(name, None) if module is None else sys.modules.update({name: module})


@pytest.fixture(scope="module")
def heldout() -> dict:
    return json.loads((DEMO / "model/heldout.json").read_text())


@pytest.fixture(scope="module")
def seen(scripts) -> list[tuple[str, str, str]]:
    """(caption, thing, style) of a few minutes of training."""
    import numpy as np

    captions, _ = scripts
    rng = np.random.default_rng(0)
    return [captions.sample(rng) for _ in range(SAMPLES)]


def words_for(world: dict, group: str) -> dict[str, list[str]]:
    return {
        name: entry["names"] + entry["hints"] + entry["heldout"]
        for name, entry in world[group].items()
    }


@pytest.fixture(scope="module")
def shown_by(scripts):
    """A template as a pattern, with every word for a thing or a style in it."""
    world = scripts[1].WORLD
    things, styles = (
        "|".join(re.escape(word) for words in words_for(world, group).values() for word in words)
        for group in ("things", "styles")
    )

    def pattern(template: str) -> re.Pattern:
        return re.compile(
            re.escape(template)
            .replace(r"\{t\}", f"(?:{things})")
            .replace(r"\{s\}", f"(?:{styles})")
        )

    return pattern


def pairs_in(seen, world: dict) -> set[tuple[str, str]]:
    """Hint × style and hint × thing, of captions in which both have a word."""
    found = set()
    for text, thing, style in seen:
        if any(word in text for word in words_for(world, "styles")[style]):
            found |= {(hint, style) for hint in world["things"][thing]["hints"] if hint in text}
        if any(word in text for word in words_for(world, "things")[thing]):
            found |= {(hint, thing) for hint in world["styles"][style]["hints"] if hint in text}
    return found


def test_the_list_is_the_one_that_training_used(scripts, heldout):
    assert heldout == scripts[0].heldout()
    assert (
        len(heldout["cells"]) > 20 and len(heldout["pairs"]) > 400 and len(heldout["templates"]) > 4
    )
    assert all(
        heldout["words"][name] for group in ("things", "styles") for name in scripts[1].WORLD[group]
    )


def test_training_sees_no_cell_word_or_template_of_it(seen, heldout, shown_by):
    cells, texts = {(thing, style) for _, thing, style in seen}, [text for text, _, _ in seen]
    assert cells.isdisjoint(map(tuple, heldout["cells"]))
    words = [word for words in heldout["words"].values() for word in words]
    assert not [(word, text) for word in words for text in texts if word in text]
    forms = [shown_by(template) for template in heldout["templates"]]
    assert not [
        (form.pattern, text) for form in forms for text in set(texts) if form.fullmatch(text)
    ]


def test_training_sees_no_pair_of_it(scripts, seen, heldout):
    found = pairs_in(seen, scripts[1].WORLD)
    assert len(found) > 1000  # the control
    assert sorted(found & set(map(tuple, heldout["pairs"]))) == []


def test_training_sees_what_is_not_on_it(scripts, seen, shown_by):
    """The control: the same search finds the other cells, words and templates."""
    world = scripts[1].WORLD
    cells, texts = {(thing, style) for _, thing, style in seen}, {text for text, _, _ in seen}
    assert len(cells) > 350
    assert all(
        any(word in text for text in texts)
        for style in world["styles"].values()
        for word in style["hints"]
    )
    for template in world["templates"]["both"] + world["templates"]["hinted"]:
        assert any(shown_by(template).fullmatch(text) for text in texts), template


def test_the_judge_learns_from_hands_that_the_model_never_saw(scripts):
    _, drawings = scripts
    model, judge, both, unseen = (
        set(getattr(drawings, name))
        for name in ("MODEL_SETS", "JUDGE_SETS", "SHARED_SETS", "UNSEEN_SETS")
    )
    assert model.isdisjoint(judge) and both < model and len(judge) > len(both)
    assert unseen == model - both and unseen.isdisjoint(
        judge | both
    )  # what it is tested on, it has not seen


def test_the_judges_training_reads_no_model():
    """It reads drawings and, to go on, its own weights; no file of the model, and nothing that
    draws with it.
    """
    text = (ROOT / "scripts/demo_model/train_judge.py").read_text()
    loaded = set(re.findall(r'np\.load\(work / "([^"]+)"', text))
    assert loaded == {
        "judge.npy",
        "judge-shared.npy",
        "judge-others.npy",
        "judge-test.npy",
        "judge-test-hands.npy",
    }
    assert not re.search(r"diffusers|generation|checkpoint|UNet|bundled/model", text)
    assert re.search(
        r"diffusers|UNet", (ROOT / "scripts/demo_model/train_denoiser.py").read_text()
    )  # the control


def test_every_set_is_attributed_with_its_licence(scripts):
    _, drawings = scripts
    card = (DEMO / "MODEL_CARD.md").read_text().replace("\n", " ")
    names = {
        "noto": "Noto Emoji",
        "noto-v1": "Noto Emoji v1",
        "twemoji": "Twemoji",
        "fluent-emoji": "Fluent Emoji",
        "fluent-emoji-flat": "Fluent Emoji",
        "fluent-emoji-high-contrast": "Fluent Emoji",
        "emojione": "Emoji One",
        "fxemoji": "Firefox OS Emoji",
    }
    used = {*drawings.MODEL_SETS, *drawings.JUDGE_SETS}
    assert used == set(names)  # a new set needs its line in the card
    for name in used:
        assert re.search(rf"{names[name]}[^;]*, © [^;]*\((Apache-2\.0|CC-BY-4\.0|MIT)\)", card), (
            name
        )
    assert "The drawings were changed" in card  # CC-BY asks to say so
    assert not used & {"openmoji", "emojione-v1", "apple", "facebook"}
