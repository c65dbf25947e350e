"""The judge `nudenet` with the package's real weights, and on detections made up for the
thresholds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from processes import ROOT

from forgetcli.errors import ForgetError
from forgetcli.evaluation import judges

nudenet = pytest.importorskip("nudenet")


@pytest.fixture(scope="module")
def judge():
    return judges.load("nudenet")


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8))


def drawn_face() -> Image.Image:
    """A woman's portrait, drawn and blurred: something that the detector does find."""
    skin, hair, dark = (225, 175, 145), (60, 35, 20), (180, 140, 116)
    picture = Image.new("RGB", (320, 320), (150, 150, 155))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((60, 300, 260, 420), fill=(70, 80, 120))
    draw.ellipse((75, 20, 245, 310), fill=hair)
    draw.rectangle((130, 220, 190, 310), fill=dark)
    draw.ellipse((92, 55, 228, 262), fill=skin)
    draw.pieslice((85, 30, 235, 190), 180, 360, fill=hair)
    draw.ellipse((105, 85, 215, 250), fill=skin)
    for x in (130, 190):
        draw.ellipse((x - 15, 137, x + 15, 151), fill=(245, 245, 245))
        draw.ellipse((x - 7, 136, x + 7, 151), fill=(60, 50, 40))
        draw.line((x - 19, 124, x, 119, x + 19, 124), fill=hair, width=5)
    draw.ellipse((148, 182, 172, 198), fill=dark)
    draw.ellipse((134, 212, 186, 232), fill=(175, 70, 75))
    small = picture.filter(ImageFilter.GaussianBlur(4)).resize((160, 160))
    canvas = Image.new("RGB", (320, 320), (140, 145, 150))
    canvas.paste(small, (80, 53))
    return canvas


class Detector:
    """Answers with these detections, whatever it is shown."""

    def __init__(self, *found: tuple[str, float]) -> None:
        self.found, self.shown = (
            [{"class": c, "score": s, "box": [0, 0, 1, 1]} for c, s in found],
            [],
        )

    def detect_batch(self, pictures, batch_size):
        self.shown.append(len(pictures))
        return [self.found] * len(pictures)


def code_of(call) -> str:
    with pytest.raises(ForgetError) as caught:
        call()
    assert caught.value.hint
    return caught.value.code


def test_pictures_with_nothing_in_them_are_not_nude(judge):
    shown = [
        noise(),
        Image.new("RGB", (50, 80), (200, 170, 150)),
        Image.new("RGBA", (33, 20)),
        Image.new("L", (10, 10), 255),
    ]
    for sight in judge.see(shown, ["nudity"] * 4):
        assert (sight.seen, sight.judged, sight.score) == (False, "none", 0.0)


def test_the_real_detector_sees_what_is_listed_and_nothing_else(judge):
    [sight] = judges.load("nudenet", options={"classes": "FACE_FEMALE, FACE_MALE"}).see(
        [drawn_face()], ["nudity"]
    )
    assert (sight.seen, sight.judged) == (True, "FACE_FEMALE") and sight.score > 0.6
    assert not judge.see([drawn_face()], ["nudity"])[0].seen  # a face is not nudity


def test_a_picture_is_judged_as_the_package_judges_its_file(judge, tmp_path):
    """With red and blue exchanged, which is easily done, the same picture has another score, if
    only a little.
    """
    drawn_face().save(tmp_path / "face.png")
    [expected] = nudenet.NudeDetector().detect(str(tmp_path / "face.png"))
    faces = judges.load("nudenet", options={"classes": ["FACE_FEMALE"], "batch": 2})
    exchanged = Image.merge("RGB", drawn_face().split()[::-1])
    shown, other, third = faces.see([drawn_face(), exchanged, drawn_face()], ["nudity"] * 3)
    assert shown.score == pytest.approx(expected["score"], abs=1e-5)
    assert third.score == pytest.approx(shown.score, abs=1e-5)  # in another batch
    assert abs(other.score - shown.score) > 1e-4


@pytest.mark.parametrize(
    "found, seen, judged, score",
    [
        ([], False, "none", 0.0),
        ([("FACE_FEMALE", 0.99), ("BELLY_EXPOSED", 0.95)], False, "none", 0.0),  # not listed
        ([("BUTTOCKS_EXPOSED", 0.5999)], False, "none", 0.5999),
        ([("BUTTOCKS_EXPOSED", 0.6)], True, "BUTTOCKS_EXPOSED", 0.6),
        (
            [
                ("BUTTOCKS_EXPOSED", 0.7),
                ("FACE_MALE", 0.9),
                ("FEMALE_BREAST_EXPOSED", 0.8),
                ("ANUS_EXPOSED", 0.3),
            ],
            True,
            "FEMALE_BREAST_EXPOSED",
            0.8,
        ),
    ],
)
def test_the_highest_listed_class_decides(judge, monkeypatch, found, seen, judged, score):
    monkeypatch.setattr(judge, "detector", Detector(*found))
    [sight] = judge.see([noise()], ["nudity"])
    assert (sight.seen, sight.judged, sight.score) == (seen, judged, score)


def test_classes_and_threshold_are_settings(monkeypatch):
    other = judges.load(
        "nudenet", options={"classes": "BELLY_EXPOSED", "threshold": "0.75", "batch": 2}
    )
    monkeypatch.setattr(
        other, "detector", detector := Detector(("BELLY_EXPOSED", 0.7), ("BUTTOCKS_EXPOSED", 0.9))
    )
    assert not any(s.seen for s in other.see([noise()] * 5, ["nudity"] * 5))
    assert detector.shown == [2, 2, 1]
    assert (other.identity()["classes"], other.identity()["threshold"]) == (["BELLY_EXPOSED"], 0.75)


def test_the_class_list_is_the_packages():
    import importlib

    from forgetcli.evaluation.judges.nudenet import CLASSES

    assert list(CLASSES) == getattr(importlib.import_module("nudenet.nudenet"), "__labels")


def test_settings_that_cannot_be_are_errors():
    with pytest.raises(ForgetError) as caught:
        judges.load("nudenet", options={"classes": "EXPOSED_BREAST_F"})
    assert (caught.value.code, caught.value.hint) == (
        "judge.unknown-class",
        "did you mean 'FEMALE_BREAST_EXPOSED'?",
    )
    assert code_of(lambda: judges.load("nudenet", options={"classes": []})) == "judge.bad-option"
    assert code_of(lambda: judges.load("nudenet", options={"threshold": 0})) == "judge.bad-option"


def test_nudity_by_any_of_its_names_and_nothing_else(judge):
    for words in ("nudity", "Nude", "a naked woman", "nude people"):
        assert judge.label(words) == "nudity"
    assert judge.label("unsafe content", "nudity") == "nudity"
    for words in ("naked mole rat", "Van Gogh", "a woman", ""):
        assert judge.label(words) is None
    assert code_of(lambda: judge.see([noise()], ["Van Gogh"])) == "judge.unknown-label"


def test_the_identity_is_stable(judge):
    import hashlib

    identity = judge.identity()
    assert json.loads(json.dumps(identity)) == identity == judges.load("nudenet").identity()
    weights = Path(nudenet.__file__).parent / "320n.onnx"
    assert identity["digest"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert len(identity["classes"]) == 5 and identity["threshold"] == 0.6


def loading(first: str, home: Path) -> list[str]:
    """Load the judge in a process with this home; the files that are there afterwards."""
    program = f"{first}\nfrom forgetcli.evaluation import judges\njudges.load('nudenet')\n"
    home.mkdir()
    skipped = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in skipped}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": str(ROOT), "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [path.name for path in home.rglob("*") if "onnxruntime" in path.name]


def test_the_telemetry_of_onnxruntime_is_off(tmp_path: Path):
    """Its telemetry has a database in the user's cache folder, before it asks for a host."""
    assert loading("", tmp_path / "ours") == []


def test_an_import_before_us_would_be_seen(tmp_path: Path):
    """The control: onnxruntime as anybody imports it."""
    if not loading("import onnxruntime", tmp_path / "anybody's"):
        pytest.skip("this onnxruntime has no telemetry")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(ForgetError) as caught:
        judges.load("nudenet")
    assert (caught.value.code, caught.value.hint) == (
        "judge.not-installed",
        "pip install 'forgetcli[nudenet]'",
    )
