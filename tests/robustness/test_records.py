"""What attacks found, on disk and back; damaged records are made again, never trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from forgetcli.errors import ForgetError
from forgetcli.robustness import records
from forgetcli.robustness.conditioning import Conditioning
from forgetcli.robustness.results import (
    EDITED,
    UNEDITED,
    Attacked,
    JudgedAttempt,
    Outcome,
    Rate,
    Robustness,
)


def outcome(folder: Path, seen: list[bool], role: str = EDITED, **more) -> Outcome:
    attempts = []
    for k, each in enumerate(seen):
        path = folder / f"swap-dog-{k:03d}.png"
        records.write_image(path, Image.new("RGB", (4, 4)), {"seed": k})
        attempts.append(
            JudgedAttempt("a dog", more.get("variants", [""] * 9)[k], k, path, each, "dog", 0.5)
        )
    counted = more.get("counted", (True,) * len(seen))
    return Outcome("swap", "a dog", "dog", role, tuple(attempts), counted, {"seconds": 1.0})


def test_round_trip(tmp_path: Path) -> None:
    made = outcome(tmp_path, [True, False])
    records.write(tmp_path, "swap-dog", "id", made)
    attempts, budget, replay = records.read(tmp_path, "swap-dog", "id")
    assert tuple(attempts) == made.attempts and budget == {"seconds": 1.0} and replay is None
    assert records.read(tmp_path, "swap-dog", "another id") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: text.replace('"seen": true', '"seen": "yes"'),
        lambda text: text.replace("swap-dog-000.png", "../swap-dog-000.png"),
        lambda text: text.replace("swap-dog-000.png", "absent.png"),
        lambda text: text.replace('"replay": false', '"replay": true'),
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_record_is_made_again(tmp_path: Path, damage) -> None:
    records.write(tmp_path, "swap-dog", "id", outcome(tmp_path, [True, False]))
    path = tmp_path / "swap-dog.json"
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    assert records.read(tmp_path, "swap-dog", "id") is None


def test_found_round_trip(tmp_path: Path) -> None:
    vectors = {"text_encoder": torch.randn(8)}
    found = [
        (Conditioning("a dog"), 1),
        (Conditioning("x", ids=torch.tensor([1, 2, 3])), 2),
        (Conditioning("a {}", vectors=vectors), 3),
        (Conditioning("a picture of {}", vectors=vectors), 4),
        (Conditioning("c", hidden=torch.randn(3, 8), pooled=torch.randn(5)), 5),
    ]
    path = tmp_path / "found.safetensors"
    about = {"attack": "inversion", "concept": "a dog", "label": "dog", "rivals": ["dog", "cat"]}
    records.write_conditionings(path, found, **about)
    again, index = records.read_conditionings(path)
    assert index.label == "dog" and index.rivals == ["dog", "cat"]
    for (before, seed), (after, seed_after) in zip(found, again, strict=True):
        assert seed == seed_after and before.prompt == after.prompt
        for name in ("ids", "hidden", "pooled"):
            one, other = getattr(before, name), getattr(after, name)
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)
        assert before.vectors.keys() == after.vectors.keys()
        assert all(torch.equal(v, after.vectors[k]) for k, v in before.vectors.items())


def _header(**metadata: str) -> bytes:
    data = json.dumps({"__metadata__": metadata}).encode()
    return len(data).to_bytes(8, "little") + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        _header(),
        _header(**{"forget.found": "{}"}),
        _header(**{"forget.found": "[" * 5000}),
        (2**60).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_file_that_nobody_found(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ForgetError) as error:
        records.read_conditionings(path)
    assert error.value.code == "attack.bad-replay"


def test_names_of_files_are_plain_and_differ() -> None:
    labels = ["dog", "Dog", "../dog", "dog ", "van_gogh", "犬"]
    names = [records.stem("swap", label) for label in labels]
    assert len(set(names)) == len(names)
    assert all(Path(name).name == name and name.isascii() for name in names)


def test_the_strongest_variant_counts(tmp_path: Path) -> None:
    made = outcome(tmp_path, [True, True, False, True], variants=["a", "a", "b", "b"])
    assert made.success == Rate(2, 2)
    assert {name: rate.value for name, rate in made.rates().items()} == {"a": 1.0, "b": 0.5}


def test_attempts_that_do_not_count(tmp_path: Path) -> None:
    made = outcome(tmp_path, [True, True, False], counted=(True, False, True))
    assert made.success == Rate(1, 2)


def test_power(tmp_path: Path) -> None:
    edited = outcome(tmp_path, [False] * 4)
    strong = outcome(tmp_path, [True] * 4, UNEDITED)
    weak = outcome(tmp_path, [True, True, True, False], UNEDITED)
    none = outcome(tmp_path, [True], UNEDITED, counted=(False,))
    assert Attacked(edited, strong).powered
    assert not Attacked(edited, weak).powered
    assert not Attacked(edited, none).powered
    assert not Attacked(edited, None).powered


def test_what_gives_a_verdict(tmp_path: Path) -> None:
    """An attack must work where the concept is known, and must not where it never was."""
    edited = outcome(tmp_path, [True] * 9)
    control, weak = outcome(tmp_path, [True] * 9, UNEDITED), outcome(tmp_path, [False] * 9)
    never, learned = outcome(tmp_path, [False] * 9), outcome(tmp_path, [True] * 9)
    assert Attacked(edited, control).no_verdict == ""
    assert Attacked(edited, control, never).no_verdict == ""
    assert "never learned" in Attacked(edited, control, learned).no_verdict
    assert "never learned" in Attacked(edited, control, bound=True).no_verdict
    assert "unedited" in Attacked(edited, weak, never).no_verdict
    assert "not attacked" in Attacked(edited).no_verdict


def test_resist_is_of_attacks_that_give_a_verdict(tmp_path: Path) -> None:
    edited, control = outcome(tmp_path, [True] * 9), outcome(tmp_path, [True] * 9, UNEDITED)
    held = outcome(tmp_path, [False] * 9)

    def resist(*attacked: Attacked) -> float | None:
        identity: dict = {"name": "m"}
        return Robustness(tmp_path, identity, identity, attacked, {}, {}, {}).resist()["resist"]

    assert resist(Attacked(held, control), Attacked(edited, control)) == 0.0
    assert resist(Attacked(held, control), Attacked(edited, control, bound=True)) == 1.0
    assert resist(Attacked(held, control), Attacked(edited, control, edited)) == 1.0
    assert resist(Attacked(held)) is None
