"""Claims: the ML-BOM fits CycloneDX's schema; every digest in it is that of a file or a tensor;
every measured figure is in it with its interval and n; what was not measured is named; the same
folder and results give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import single_files
from evidence_runs import ATTACKS, SCORES, measured
from faults import tree
from forked import Forks
from pipelines import tiny_sd
from processes import ERROR_LINE, Run
from tiny_runs import RECIPE

from forgetcli import export
from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import base as checkpoint
from forgetcli.export.evidence import gather
from forgetcli.pipeline.apply import apply
from forgetcli.progress import Silent

if TYPE_CHECKING:
    from cyclonedx.validation.json import JsonStrictValidator

ARGUMENTS = ("export", "edited", "--format", "cyclonedx", "-o", "bom.json")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured(tmp_path_factory.mktemp("bom"))


@pytest.fixture
def forget(forked: Forks, tmp_path: Path) -> Callable[..., Run]:
    return partial(forked, tmp_path)


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """The edited folder alone, where `forget` runs."""
    shutil.copytree(original / "edited", tmp_path / "edited")
    return tmp_path


@cache
def schema() -> JsonStrictValidator:
    """The validator: it reads its schemas once."""
    # Imported here: it takes seconds, which every process that collects the tests would spend.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6)


def faults_of(text: str) -> object:
    """What the schema says against a document; None if it fits."""
    return schema().validate_str(text)


def component_of(place: Path) -> dict:
    text = (place / "bom.json").read_text()
    assert faults_of(text) is None and text.isascii()
    return json.loads(text)["metadata"]["component"]


def metrics_of(component: dict) -> dict[tuple[str, str], dict]:
    """(type, slice) → metric; no metric is there twice."""
    metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    found = {(metric["type"], metric["slice"]): metric for metric in metrics}
    assert len(found) == len(metrics)
    return found


def property_of(part: dict, name: str) -> str:
    return next(entry["value"] for entry in part["properties"] if entry["name"] == name)


def test_the_schema_refuses_what_does_not_fit(original: Path, place: Path, forget: Callable):
    assert forget(*ARGUMENTS, "-q").code == 0
    text = (place / "bom.json").read_text()
    assert faults_of(text) is None
    assert faults_of(text.replace('"performanceMetrics"', '"metrics"')) is None  # there are none
    assert faults_of(text.replace('"technicalLimitations"', '"limits"')) is not None
    assert faults_of(text.replace('"unofficial"', '"edit"')) is not None


def test_without_measurements_it_says_so_and_has_every_digest(place: Path, forget: Callable):
    run = forget(*ARGUMENTS)
    assert run.code == 0 and "missing: No evaluation" in run.stdout
    component, made = component_of(place), manifests.load(place / "edited")
    listed = {file["name"]: file["hashes"][0]["content"] for file in component["components"]}
    assert listed == {
        path.relative_to(place / "edited").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (place / "edited").rglob("*")
        if path.is_file()
    }
    (base,) = component["pedigree"]["ancestors"]
    assert property_of(base, "forget:filesDigest") == made.base_digest and base["name"] == "sd"
    assert {file["name"]: file["hashes"][0]["content"] for file in base["components"]} == (
        made.base_files
    )
    assert str(place) not in (place / "bom.json").read_text()
    patches = [
        json.loads(patch["diff"]["text"]["content"]) for patch in component["pedigree"]["patches"]
    ]
    assert patches == [tensor.model_dump(exclude_none=True) for tensor in made.edited]
    assert len({patch["before"] for patch in patches} & {p["after"] for p in patches}) == 0
    digest = checkpoint.resolve(place / "edited").digest
    assert component["version"] == property_of(component, "forget:filesDigest") == digest
    assert component["type"] == "machine-learning-model"
    assert component["name"] == "sd without van gogh"
    card = component["modelCard"]
    assert "quantitativeAnalysis" not in card
    limits = card["considerations"]["technicalLimitations"]
    assert "No attack was run: nothing is known about hidden knowledge." in limits
    assert limits[0].startswith("No evaluation: ")
    assert card["considerations"]["ethicalConsiderations"]
    assert property_of(card, "forget:concept:1") == "van gogh → monet"


def test_every_figure_is_there_with_its_interval_and_n(
    original: Path, place: Path, forget: Callable
):
    run = forget(*ARGUMENTS, "--eval", original / SCORES, "--attack-results", original / ATTACKS,
                 "--json")  # fmt: skip
    assert run.code == 0, run.stderr
    metrics = metrics_of(component_of(place))
    assert run.json["metrics"] == len(metrics)
    scores = json.loads((original / SCORES).read_text())["models"][0]
    for model, side in (("edited", scores["edited"]), ("unedited", scores["baseline"])):
        for key in ("forget", "forget_direct", "retain", "h"):
            (metric,) = [
                metric
                for (kind, where), metric in metrics.items()
                if kind == key and where.startswith(f"model: {model};") and "concept: " not in where
            ]
            assert float(metric["value"]) == side[key]
            assert [float(bound) for bound in metric["confidenceInterval"].values()] == side[
                f"{key}_ci"
            ]
            assert f"n: {side[f'{key}_n']};" in metric["slice"]
    attacks = json.loads((original / ATTACKS).read_text())["attacks"]
    for row in attacks:
        for role in ("edited", "unedited"):
            (metric,) = [
                metric
                for (kind, where), metric in metrics.items()
                if kind == "attack success" and where.startswith(f"model: {role};")
            ]
            assert float(metric["value"]) == row[role]["success"]
            assert f"n: {row[role]['success_n']};" in metric["slice"]
            assert f"{row['attack']} on {row['concept']}" in metric["slice"]
    assert [where for kind, where in metrics if kind == "judge error"]


def test_results_in_their_usual_place_are_found_and_others_are_not_used(
    original: Path, place: Path, forget: Callable
):
    for name in (SCORES, ATTACKS):
        (place / name).parent.mkdir()
        shutil.copy(original / name, place / name)
    assert forget(*ARGUMENTS).code == 0
    assert {kind for kind, _ in metrics_of(component_of(place))} >= {"forget", "attack success"}
    data = json.loads((place / SCORES).read_text())
    data["models"][0]["digest"] = "0" * 64
    (place / SCORES).write_text(json.dumps(data))
    (place / ATTACKS).write_text("{")
    run = forget(*ARGUMENTS, "--force")
    assert run.code == 0 and run.stderr.count("not used: ") == 2, run.stderr
    assert "quantitativeAnalysis" not in component_of(place)["modelCard"]


def test_the_same_folder_and_results_give_the_same_bytes(
    original: Path, place: Path, forget: Callable
):
    def written(*more: object) -> bytes:
        assert forget(*ARGUMENTS, "--force", "-q", *more).code == 0
        return (place / "bom.json").read_bytes()

    first = written()
    assert written() == first
    serial, other = (
        json.loads(text)["serialNumber"] for text in (first, written("--eval", original / SCORES))
    )
    assert serial != other  # a document with other content is another document
    finished = manifests.load(place / "edited").run_details["metadata"]["finishedOn"]
    assert json.loads(first)["metadata"]["timestamp"] == finished


@pytest.mark.parametrize(
    ("change", "arguments", "code"),
    [
        (None, ("--eval", "missing.json"), "evidence.results"),
        ("other model", ("--eval", "results.json"), "evidence.other-model"),
        ("not json", ("--eval", "results.json"), "evidence.results"),
        ("no share", ("--eval", "results.json"), "evidence.results"),
        ("no list", ("--eval", "results.json"), "evidence.results"),
        ("scores", ("--attack-results", "results.json"), "evidence.results"),
        (None, ("--error", "0.1"), "export.unknown-option"),
        (None, ("-o", "edited/bom.json"), "output.overlaps-base"),
        ("weights", (), "model.changed"),
        ("recipe", (), "model.changed"),
        ("output", (), "output.exists"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    original: Path, place: Path, forget: Callable, change: str | None, arguments: tuple, code: str
):
    data = json.loads((original / SCORES).read_text())
    results = place / "results.json"
    match change:
        case "other model":
            data["models"][0]["digest"] = "0" * 64
            results.write_text(json.dumps(data))
        case "not json":
            results.write_text("{")
        case "no share":
            data["models"][0]["edited"]["forget"] = 1.5
            results.write_text(json.dumps(data))
        case "no list":
            results.write_text(json.dumps({"command": "eval", "models": 3}))
        case "scores":
            results.write_text(json.dumps(data))
        case "weights":
            weights = place / "edited/unet/diffusion_pytorch_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
        case "recipe":
            (place / "edited/recipe.toml").write_text("[[concepts]]\n")
        case "output":
            (place / "bom.json").write_text("mine")
    before = tree(place)
    run = forget(*ARGUMENTS, *arguments)
    assert (run.code, run.stdout) == (2, "")
    errors = run.stderr[run.stderr.index("error[") :]
    assert ERROR_LINE.fullmatch(errors) and f"error[{code}]" in errors and "hint: " in errors
    assert tree(place) == before


def test_results_that_nobody_named_are_not_needed(original: Path, place: Path):
    evidence = gather(EditedModel.open(place / "edited"), original / SCORES, None, Silent())
    assert evidence.scores and evidence.scores.edited["forget"].count > 0
    assert evidence.attacks is None and evidence.missing()[-1].startswith("No attack was run")


def test_an_edited_single_file_is_described_by_its_file(tmp_path: Path):
    tiny_sd(tmp_path / "sd")
    file = single_files.ldm(tmp_path / "sd", tmp_path / "one.safetensors")
    (tmp_path / "art.toml").write_text(RECIPE)
    apply(
        tmp_path / "art.toml",
        model=str(file),
        config=str(tmp_path / "sd"),
        output=tmp_path / "edited",
        device="cpu",
        strict=False,
    )
    export.export(tmp_path / "edited", "cyclonedx", output=tmp_path / "bom.json")
    component = component_of(tmp_path)
    (base,) = component["pedigree"]["ancestors"]
    assert [part["name"] for part in base["components"]] == ["one.safetensors"]
    assert {json.loads(patch["diff"]["text"]["content"])["file"] for patch in
            component["pedigree"]["patches"]} == {"one.safetensors"}  # fmt: skip
    assert component["version"] == checkpoint.resolve(tmp_path / "edited").digest
    assert str(tmp_path) not in (tmp_path / "bom.json").read_text()
