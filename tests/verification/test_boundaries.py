"""Claims: how far a figure may be from the tensors' is exactly what rounding explains; each record
of an edit that another record contradicts is named.

The golden folder is read, and what it says is changed in memory: no file is written.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from forgetcli import __version__
from forgetcli import recipe as recipes
from forgetcli.artifact import integrity
from forgetcli.artifact.edited import EditedModel
from forgetcli.artifact.ledger import Ledger
from forgetcli.artifact.ledger_files import Material
from forgetcli.artifact.manifest import EditedTensor
from forgetcli.errors import ForgetError
from forgetcli.progress import Silent
from forgetcli.verification import (
    audit,
    differences,
    figures,
    history,
    rebuild,
    recorded_edit,
    signature,
)
from forgetcli.verification import parameters as verification_parameters
from forgetcli.verification.finding import Finding, read_edited

GOLDEN = Path(__file__).parents[1] / "golden" / "format-1" / "edited"


@pytest.fixture
def edited() -> EditedModel:
    return EditedModel(GOLDEN)


def changed(edited: EditedModel, /, **changes: Any) -> EditedModel:
    """The golden folder with another manifest."""
    other = EditedModel(edited.folder)
    other.__dict__["manifest"] = replace(edited.manifest, **changes)
    return other


# the report's figures


@pytest.mark.parametrize(
    ("dtype", "run_error"),
    [("torch.float16", 2**-11), ("bfloat16", 2**-8), ("torch.float32", 0.0), (None, 0.0)],
)
@pytest.mark.parametrize("stored_error", [0.0, 1e-3])
def test_a_reported_size_may_differ_by_what_rounding_explains(
    monkeypatch: pytest.MonkeyPatch, dtype: str | None, run_error: float, stored_error: float
) -> None:
    """|measured − reported| ≤ (stored error + the dtype's rounding + 1e-6) · the larger of both."""
    before = torch.full((2, 2), 4.0, dtype=torch.float64)
    monkeypatch.setattr(figures, "read_edited", lambda tensor, weights: before * 1.25)
    metadata = {"dtype": dtype} if dtype else {}
    folder: Any = SimpleNamespace(
        weight_file=lambda file: None,
        manifest=SimpleNamespace(run_details={"metadata": metadata}),
    )
    tensor: Any = SimpleNamespace(file="x")

    def problem(size: float) -> str | None:
        row = {"delta_rel": size, "stored_error": stored_error}
        return figures._figure_problem(folder, before, tensor, row)

    bound = stored_error + run_error + 1e-6
    assert problem(0.25) is None
    for nearly, beyond in (
        (0.25 * (1 - 0.999 * bound), 0.25 * (1 - 1.001 * bound)),
        (0.25 / (1 - 0.999 * bound), 0.25 / (1 - 1.001 * bound)),
    ):
        assert problem(nearly) is None
        assert (problem(beyond) or "").startswith("‖Δ‖/‖W‖ is 0.2")


def test_a_rounding_error_is_the_manifests_to_six_digits(edited: EditedModel) -> None:
    def problem(error: Any, listed: float, size: Any = 0.5) -> str | None:
        tensor = edited.manifest.edited[0].model_copy(update={"error": listed})
        row = {"stored_error": error, "delta_rel": size}
        return figures._stored_error_problem(tensor, row)

    for error, listed in ((1 + 0.9e-6, 1.0), (1 - 0.9e-6, 1.0), (0.9e-12, 0.0), (0, 0.0)):
        assert problem(error, listed) is None
    for error, listed in ((1 + 1.1e-6, 1.0), (1 - 1.1e-6, 1.0), (1.1e-12, 0.0)):
        assert "stored_error is" in (problem(error, listed) or "")
    for none in (None, True, "0.5", float("nan"), float("inf")):
        assert "no number" in (problem(none, 0.5) or "")
        assert "no number" in (problem(0.5, 0.5, none) or "")


def test_a_report_of_other_types_is_malformed() -> None:
    good = {
        "schema_version": 1,
        "sites": [{"name": "a", "fit": 0.5, "held": None}, {"name": "b", "fit": 1}],
        "check": {"moved": 0.5},
        "losses": [1.0, None],
    }
    assert figures._malformed(good) is None
    assert figures._malformed({key: good[key] for key in ("schema_version", "sites")}) is None
    for key, value, what in (
        ("schema_version", 2, "schema_version"),
        ("schema_version", True, "schema_version"),
        ("schema_version", 1.0, "schema_version"),
        ("schema_version", None, "schema_version"),
        ("sites", [{"name": "a"}, {"name": "a"}], "twice"),
        ("sites", [{"name": "a", "fit": "0.5"}], "number"),
        ("sites", [{"name": "a", "fit": True}], "number"),
        ("sites", [{"name": "a", "fit": float("inf")}], "number"),
        ("check", {"moved": "x"}, "number"),
        ("check", [1.0], "number"),
        ("losses", [1.0, "x"], "number"),
        ("losses", {"a": 1.0}, "number"),
    ):
        assert what in (figures._malformed({**good, key: value}) or "")


def test_a_site_is_named_by_layer_or_parameter_and_stands_for_its_first_form(
    edited: EditedModel,
) -> None:
    first, second = edited.manifest.edited[:2]
    form = first.model_copy(update={"file": "unet/other.safetensors"})
    manifest = replace(edited.manifest, edited=(first, form, second))
    assert list(figures._first_of_each(manifest)) == [first, second]

    def named(name: str) -> EditedTensor | None:
        return figures._tensor_of(name, manifest)

    assert first.parameter.endswith(".weight") and first.component == "unet"
    layer = first.parameter.removesuffix(".weight")
    for name in (first.parameter, layer, f"unet.{first.parameter}", f"unet.{layer}"):
        assert named(name) == first
    assert named(second.parameter) == second
    assert named(f"vae.{layer}") is None and named(layer.removesuffix("_k")) is None


# the ledger


def book_with(ledger: Ledger, /, **changes: Any) -> Ledger:
    """The ledger with another description of its edits."""
    return replace(ledger, book=ledger.book.model_copy(update=changes))


def contradictions(edited: EditedModel, ledger: Ledger) -> list[str]:
    return list(history._against_manifest(edited.manifest, ledger))


def test_what_the_manifest_says_otherwise_than_the_ledger_is_named(edited: EditedModel) -> None:
    ledger, manifest = edited.ledger, edited.manifest
    assert ledger is not None and len(ledger.edits) == 2
    assert contradictions(edited, ledger) == []
    listed = [history._listed(entry) for entry in ledger.edits]
    assert contradictions(changed(edited, edits=listed), ledger) == []
    other = "0" * 64
    config = "unet/config.json"
    for changes, what in (
        ({"method": "rece"}, "method or parameters of its last edit"),
        ({"parameters": {}}, "method or parameters of its last edit"),
        ({"recipe_sha256": other}, "the recipe of its last edit is not the one in"),
        ({"base_digest": other}, "its last edit was made to another model than the base in"),
        ({"materials": {**manifest.materials, "k": other}}, "the second moments of its last edit"),
        ({"edited": manifest.edited[1:]}, "the tensors that it changes are not those in"),
        ({"edits": listed[1:]}, "its edits are not those in"),
        ({"subjects": {**manifest.subjects, config: other}}, f"its digest of '{config}' is not"),
    ):
        (found,) = contradictions(changed(edited, **changes), ledger)
        assert what in found
    # An edit of an edit is listed by its own tensors, a reverted one by those of all edits.
    reverted = changed(edited, base_digest=ledger.book.base.digest)
    (found,) = contradictions(reverted, ledger)
    assert "the tensors that it changes" in found
    # The control of an edited model has no edit of its own to compare.
    assert contradictions(changed(edited, edited=(), method="none"), ledger) == []


def test_what_the_ledger_says_otherwise_than_its_own_parts_is_named(edited: EditedModel) -> None:
    ledger = edited.ledger
    assert ledger is not None
    first, last = ledger.edits
    other = "0" * 64
    weights = last_weights = ledger.book.places[-1].file
    files = {path: sha for path, sha in ledger.book.base.files.items() if path != last_weights}
    origin = ledger.book.base.model_copy(update={"files": files})
    elsewhere = first.model_copy(update={"applied_to": other})
    for changes, what in (
        ({"edits": (last, first)}, "the edits are not in their order"),
        ({"edits": (elsewhere, last)}, "its first edit was made to another model"),
        ({"base": origin}, f"'{weights}' has edited tensors, but is no file of the model"),
    ):
        assert any(what in line for line in contradictions(edited, book_with(ledger, **changes)))
    material = Material(name="k", sha256=other)
    twice = last.model_copy(update={"materials": [material, material]})
    found = contradictions(
        changed(edited, materials={"k": other}), book_with(ledger, edits=(first, twice))
    )
    assert len(found) == 1 and "the second moments of its last edit" in found[0]
    # Without the first edit, the second one is known to have been made to another model.
    later = elsewhere.model_copy(update={"number": 2}), last.model_copy(update={"number": 3})
    found = contradictions(edited, book_with(ledger, edits=later))
    assert not any("first edit" in line for line in found)


def test_a_description_that_is_not_its_recipes_is_named(edited: EditedModel) -> None:
    ledger = edited.ledger
    assert ledger is not None
    entry = ledger.edits[0]
    assert entry.tokens

    def found(**changes: Any) -> list[str]:
        return list(history._entry(edited, ledger, entry.model_copy(update=changes)))

    assert found() == []
    for changes, what in (
        ({"recipe": entry.recipe + "#"}, "the digest of edit 1's recipe"),
        ({"method": "rece"}, "edit 1: method is"),
        ({"concepts": []}, "the concepts of edit 1"),
        ({"tokens": {}}, "the tokens that edit 1 protects"),
        ({"tokens": {key: n + 1 for key, n in entry.tokens.items()}}, "the tokens that edit 1"),
    ):
        lines = found(**changes)
        assert what in lines[0] and (len(lines) == 1 or "method" in changes)
    for text, lines in (('method = "of another package"\n' + entry.recipe, 0), ("x", 1)):
        digest = hashlib.sha256(text.encode()).hexdigest()
        said = found(recipe=text, recipe_sha256=digest)
        assert len(said) == lines and all("cannot be read" in line for line in said)


def test_sizes_and_rounding_errors_are_the_tensors_to_six_digits(edited: EditedModel) -> None:
    ledger = edited.ledger
    assert ledger is not None
    assert list(history._weights(edited, ledger)) == []
    tensor = edited.manifest.edited[0]
    for factor, fits in ((1 + 0.9e-6, True), (1 + 1.1e-6, False), (1 - 1.1e-6, False)):
        off = tensor.model_copy(update={"error": tensor.error * factor})
        said = history._tensor_problem(edited, ledger, off)
        assert said is None if fits else "its rounding error is" in (said or "")
        entry = ledger.edits[-1]
        off = entry.model_copy(update={"delta_rel": entry.delta_rel * factor})
        problems = list(
            history._weights(
                changed(edited, edited=()), book_with(ledger, edits=(ledger.edits[0], off))
            )
        )
        assert [p.what.partition(" by ")[0] for p in problems] == (
            [] if fits else ["edit 2 changes the weights"]
        )
    off = tensor.model_copy(update={"before": "0" * 64})
    assert "its digest in the base" in (history._tensor_problem(edited, ledger, off) or "")
    off = tensor.model_copy(update={"key": "x"})
    assert "no edit of the ledger" in (history._tensor_problem(edited, ledger, off) or "")
    # A second edit alone has no size that could be checked: what it was made to is gone.
    alone = replace(ledger.without([1]))
    assert not any("changes the weights by" in p.what for p in history._weights(edited, alone))
    # ‖Δ‖ / ‖W‖ of the first edit, from the ledger's tensors.
    entry = ledger.edits[0]
    change = weight = 0.0
    for place in {(p.component, p.parameter): p for p in ledger.book.places}.values():
        name = f"edit.1.delta:{place.component}:{place.parameter}"
        if name in ledger.tensors:
            change += float(ledger.tensor(name).double().square().sum())
            weight += float(ledger.original(place).double().square().sum())
    assert history._size(ledger, entry) == pytest.approx((change / weight) ** 0.5, rel=1e-12)
    assert entry.delta_rel == pytest.approx((change / weight) ** 0.5, rel=1e-6)


def test_a_file_with_the_bases_tensors_has_the_bases_digest(
    edited: EditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the bytes between two tensors are read in many pieces."""
    ledger = edited.ledger
    assert ledger is not None
    for size in (1, 4096, 1 << 22):
        monkeypatch.setattr(history, "READ_BYTES", size if size > 1 else 999)
        for path in {place.file for place in ledger.book.places}:
            assert history._restored_digest(GOLDEN, ledger, path) == ledger.book.base.files[path]


def test_without_a_ledger_that_fits_nothing_is_known_of_the_base(edited: EditedModel) -> None:
    ledger = edited.ledger
    assert figures._ledger(edited) is ledger
    first = edited.manifest.edited[0]
    absent = ForgetError("model.not-found", "no base", "")
    values = figures._before(edited, absent, ledger, first)
    assert values.dtype == torch.float64 and len(values) > 1
    for tensor, record in ((first.model_copy(update={"key": "x"}), ledger), (first, None)):
        with pytest.raises(ForgetError) as error:
            figures._before(edited, absent, record, tensor)
        assert error.value.code == "model.changed"
    for differing, fits in (([], True), ([first], False)):
        other: Any = SimpleNamespace(differing=lambda folder, differing=differing: iter(differing))
        edited.__dict__["ledger"] = other
        assert figures._ledger(edited) is (other if fits else None)
    edited.__dict__["ledger"] = None
    assert figures._ledger(edited) is None
    assert "the folder has no ledger" in history.history(edited).not_proved[0]
    none = changed(edited, edited=())
    none.__dict__["ledger"] = None
    assert history.history(none) == Finding()

    class Damaged(EditedModel):
        @property
        def ledger(self) -> Ledger:
            raise ForgetError("ledger.damaged", "it is damaged", "")

    assert [p.what for p in history.history(Damaged(GOLDEN)).problems] == ["it is damaged"]
    assert figures._ledger(Damaged(GOLDEN)) is None


def test_what_is_wrong_with_the_ledger_is_a_problem_of_the_file_that_says_it(
    edited: EditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (claim,) = history.history(edited).proved
    assert claim == "the ledger's 2 edits give the weights, and without them the base's"
    (found,) = history.history(changed(edited, method="rece")).problems
    assert (found.file, found.what[:20]) == ("forget.ledger.json", "method or parameters")
    first = edited.manifest.edited[0]
    off = first.model_copy(update={"before": "0" * 64})
    (found,) = history.history(changed(edited, edited=(off, *edited.manifest.edited[1:]))).problems
    assert (found.file, first.key in found.what) == ("forget.provenance.json", True)
    ledger = edited.ledger
    assert ledger is not None
    one = changed(edited)
    one.__dict__["ledger"] = book_with(ledger, edits=ledger.edits[:1])
    monkeypatch.setattr(history, "_weights", lambda *_: iter(()))
    monkeypatch.setattr(history, "_against_manifest", lambda *_: iter(()))
    (claim,) = history.history(one).proved
    assert claim.startswith("the ledger's edit gives the weights")

    def damaged(*_: object) -> None:
        raise ForgetError("x", "it cannot be read", "")

    monkeypatch.setattr(history, "_weights", damaged)
    (found,) = history.history(edited).problems
    assert found.what == "cannot be compared with the weights: it cannot be read"


def test_numbers_below_a_trillionth_are_rounding(
    edited: EditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = edited.ledger
    assert ledger is not None
    tensor = edited.manifest.edited[0]
    monkeypatch.setattr(history, "_size", lambda *_: 0.0)
    stored = SimpleNamespace(before=tensor.before, error=0.0)
    monkeypatch.setattr(history, "stored_as", lambda *_: stored)
    monkeypatch.setattr(
        history, "_restored_digest", lambda _, ledger, path: ledger.book.base.files[path]
    )
    for size, fits in ((0.9e-12, True), (1.1e-12, False)):
        off = tensor.model_copy(update={"error": size})
        assert (history._tensor_problem(edited, ledger, off) is None) == fits
        entries = [entry.model_copy(update={"delta_rel": size}) for entry in ledger.edits]
        problems = history._weights(changed(edited, edited=()), book_with(ledger, edits=entries))
        assert len(list(problems)) == (0 if fits else 2)


# recipes and parameters


def test_of_a_long_list_the_entries_that_differ_are_shown() -> None:
    sixty = ["x" * 56]  # with brackets and quotation marks: 60 characters
    assert differences._shortened(sixty, None) == json.dumps(sixty)
    longer = ["x" * 57]
    assert differences._shortened(longer, None) == f'["{"x" * 57}", … 1 in all]'
    long = [f"prompt number {n}" for n in range(5)]
    for other, text in (
        (long[::-1], '["prompt number 0", … 5 in all]'),
        (long[:4], '["prompt number 4", … 5 in all]'),
        (long[:3], '["prompt number 3" and 1 more that differ, of 5]'),
        ("no list", '["prompt number 0" and 4 more that differ, of 5]'),
    ):
        assert differences._shortened(long, other) == text
    assert differences._shortened(["ä" * 60], None) == f'["{"ä" * 60}", … 1 in all]'
    assert differences._shortened("ä" * 99, long) == f'"{"ä" * 99}"'


def test_values_are_compared_one_by_one_and_plain_lists_whole() -> None:
    flat = differences.flat({"a": {"b": [1, 2], "c": [{"d": 1}, [2]]}, "e": {}, "f": []})
    assert flat == {"a.b": [1, 2], "a.c.0.d": 1, "a.c.1": [2], "f": []}
    here, there = {"a": 1, "b": 2, "c": None}, {"a": 1, "b": 3, "d": 4}
    assert list(differences.differences(here, there)) == [("b", "2", "3"), ("d", "absent", "4")]
    assert list(differences.differences(there, here)) == [("b", "3", "2"), ("d", "4", "absent")]


def test_a_recipe_is_told_from_the_folders_by_bytes_and_by_the_manifests_digest(
    edited: EditedModel,
) -> None:
    own = recipes.load(GOLDEN / "recipe.toml")
    assert differences.same_recipe(edited, own).proved
    (found,) = differences.same_recipe(changed(edited, recipe_sha256="0" * 64), own).problems
    assert "other bytes" in found.what
    for data, what in ((b"\xff", "and cannot be read: "), (None, "cannot be read: no such")):
        other = changed(edited)
        if data is None:
            other = changed(edited, recipe_path=GOLDEN / "none.toml")
        else:
            other.__dict__["recipe_bytes"] = data
        (found,) = differences.same_recipe(other, own).problems
        assert what in found.what.lower()


def test_defaults_count_only_if_this_version_made_the_folder(edited: EditedModel) -> None:
    """A parameter that the recipe does not name: `erase` of UCE, here not the default."""
    manifest = edited.manifest
    assert manifest.method == "uce" and "erase" not in (GOLDEN / "recipe.toml").read_text()
    ours = {"builder": {"version": {"forgetcli": __version__}}}
    forged = {"edit": {**manifest.parameters["edit"], "erase": 0.75}}

    def checked(version: dict, parameters: dict, strict: bool = False, **changes: Any) -> Finding:
        made = changed(edited, run_details=version, parameters=parameters, **changes)
        return verification_parameters.parameters(made, strict=strict)

    assert checked(ours, manifest.parameters).proved == [
        "method and parameters are those of the recipe"
    ]
    for version, strict in ((ours, False), (ours, True), ({}, True)):
        (found,) = checked(version, forged, strict).problems
        assert "edit.erase is 0.75 in forget.provenance.json, 1.0 by the recipe" in found.what
    assert checked({}, manifest.parameters, True).proved
    for parameters in (forged, manifest.parameters):
        other = checked({"builder": {"version": {"forgetcli": "0"}}}, parameters)
        assert not other.problems and not other.proved and "another version" in other.not_proved[0]
    for version in ({"builder": {"version": __version__}}, {"builder": {}}):
        assert not verification_parameters.is_ours(changed(edited, run_details=version).manifest)
    # What the recipe does name counts whatever version it was.
    assert checked({}, manifest.parameters, method="rece").problems
    for text, known in (('method = "of another package"', False), ("x", True)):
        other = changed(edited, run_details=ours)
        other.__dict__["recipe_bytes"] = (
            f"{text}\n".encode() + (GOLDEN / "recipe.toml").read_bytes()
        )
        found = verification_parameters.parameters(other)
        counts = len(found.proved), len(found.problems), len(found.not_proved)
        assert counts == (0, known, not known)
    other = changed(edited, run_details={}, parameters=forged)
    assert not verification_parameters.parameters(other).problems  # not strict by default
    missing = checked(ours, {}, recipe_path=GOLDEN / "none.toml")
    assert missing == Finding()  # the manifest lists the file: that is a problem already


def test_tables_of_families_count_for_a_model_of_that_family_only(
    edited: EditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (GOLDEN / "recipe.toml").read_text() + "[families.sd.edit]\nlam = 2.0\n"
    read = recipes.parse(text)
    assert read.families and read.parameters != edited_parameters(text)
    assert verification_parameters.read_recipe(edited, text).parameters == edited_parameters(text)
    for fault in (ForgetError("x", "no family", ""), KeyError("x"), OSError("x")):

        def unknown(settings: Path, fault: Exception = fault) -> str:
            raise fault

        monkeypatch.setattr(verification_parameters.models, "family_of", unknown)
        assert verification_parameters.read_recipe(edited, text) == read


def edited_parameters(text: str) -> dict[str, Any]:
    return recipes.parse(text).on("sd").parameters


# the edit repeated


def test_tensors_and_moments_that_only_one_side_has_are_named(edited: EditedModel) -> None:
    first, second = edited.manifest.edited[:2]
    places = {recorded_edit.place(tensor): tensor for tensor in (first, second)}
    assert recorded_edit.place(first) == (first.file, first.key, None)
    alone = {recorded_edit.place(first): first}
    assert rebuild._listing_problems(places, places) == []
    (found,) = rebuild._listing_problems(places, alone)
    assert second.key in found.what and "does not edit it here" in found.what
    (found,) = rebuild._listing_problems(alone, places)
    assert second.key in found.what and "is not listed as edited" in found.what
    assert rebuild._material_problems({"a": "1"}, {"a": "2"}) == []
    (found,) = rebuild._material_problems({"a": "1", "b": "1"}, {"a": "1"})
    assert "'b' is not one that the recipe needs" in found.what
    (found,) = rebuild._material_problems({"a": "1"}, {"a": "1", "b": "1"})
    assert "'b' is missing" in found.what
    assert rebuild._other_moments({"a": "1", "b": "1"}, {"a": "1", "c": "2"}) == []
    for others, which in ((1, "a have"), (2, "a and 1 more have"), (3, "a and 2 more have")):
        listed, made = (dict.fromkeys("abc"[:others], digest) for digest in "12")
        (line,) = rebuild._other_moments({**listed, "z": "1"}, {**made, "z": "1"})
        assert f"the manifest lists: {which} other digests" in line


def test_the_device_is_the_recorded_one_if_it_is_here(
    edited: EditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pick(device: str) -> None:
        if device != "cpu":
            raise ForgetError("device.none", "no such device", "")

    def on(device: object) -> tuple[str | None, list[str]]:
        details = {"metadata": {"device": device}}
        return recorded_edit.device_of(changed(edited, run_details=details))

    monkeypatch.setattr(recorded_edit, "pick_device", pick)
    assert on("cpu") == ("cpu", [])
    assert on(None) == on(["cpu"]) == (None, [])
    device, (line,) = on("cuda")
    assert device is None and line.startswith("reproduction on 'cuda'")


def test_a_distance_is_relative_to_the_repeated_change(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"stored": 5.0, "again": 4.0, "base": 2.0}

    def model(name: str) -> Any:
        return SimpleNamespace(weight_file=lambda file: values[name])

    monkeypatch.setattr(
        rebuild, "read_edited", lambda tensor, value: torch.full((2, 2), value).double()
    )
    tensor: Any = SimpleNamespace(file="x")

    def distance() -> float:
        return rebuild._distance(model("stored"), model("again"), model("base"), tensor)

    assert distance() == 0.5  # |5 − 4| / |4 − 2|
    values["base"] = 4.0
    # The repeated edit changes nothing: no tolerance covers ‖stored − rebuilt‖ = 2.
    assert distance() == pytest.approx(2 / 1e-300)


# the verdict


def test_a_verdict_is_what_all_findings_say() -> None:
    before = integrity.Verdict(True, [], ["files"], [integrity.UNSIGNED, "effect"], 1, 2)
    two = [Finding(proved=["report"], not_proved=["base"]), Finding(proved=["recipe"])]
    made = audit._with_findings(before, two)
    assert (made.ok, made.proved) == (True, ["files", "report", "recipe"])
    assert made.not_proved == ["base", integrity.UNSIGNED, "effect"]
    assert (made.edited, made.files) == (1, 2)
    signed = audit._with_findings(before, [Finding(proved=[f"{signature.PROVED} k"])])
    assert signed.not_proved == ["effect"]
    first, second = integrity.problem("a", "x"), integrity.problem("b", "y")
    bad = audit._with_findings(replace(before, ok=False, problems=[first]), [Finding([second])])
    assert (bad.ok, bad.problems) == (False, [first, second])
    assert not audit._with_findings(before, [Finding([second])]).ok


def test_a_repetition_is_shown_to_whoever_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    observers: list[object] = []
    monkeypatch.setattr(
        rebuild, "rebuilt", lambda _, observer: observers.append(observer) or Finding()
    )
    mine = Silent()
    assert audit.verify(GOLDEN).ok and observers == []
    assert audit.verify(GOLDEN, rebuild=True, observer=mine).ok and observers == [mine]
    assert audit.verify(GOLDEN, rebuild=True).ok and isinstance(observers[1], Silent)


def test_of_a_folder_with_a_damaged_manifest_only_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "forget.provenance.json").write_text("{")
    verdict = audit.verify(tmp_path)
    assert not verdict.ok and [p.file for p in verdict.problems] == ["forget.provenance.json"]
    assert verdict.proved == []


def test_an_edit_that_was_made_to_edits_that_are_gone_is_not_repeated(edited: EditedModel) -> None:
    recorded_edit.refuse_reverted(edited)
    with pytest.raises(ForgetError) as error:
        recorded_edit.refuse_reverted(changed(edited, base_digest="0" * 64))
    assert error.value.code == "verify.reverted" and "edit 2 of" in error.value.message
    none = changed(edited, base_digest="0" * 64)
    none.__dict__["ledger"] = None
    recorded_edit.refuse_reverted(none)  # an edit from before there were ledgers can be


def test_a_tensor_that_is_not_where_the_manifest_says_is_an_error(edited: EditedModel) -> None:
    tensor = edited.manifest.edited[0]
    weights = edited.weight_file(tensor.file)
    read = read_edited(tensor, weights)
    assert read.dtype == torch.float64 and len(read) > 1
    with pytest.raises(ForgetError) as error:
        read_edited(tensor.model_copy(update={"start": tensor.start + 2}), weights)
    assert error.value.code == "model.changed"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (FileNotFoundError(2, "No such file", "k"), "No such file"),
        (OSError("odd"), "odd"),
        (ValueError("first\nsecond"), "first"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_bad_key_says_why_in_one_line(fault: Exception, why: str) -> None:
    error = signature._bad_key("k.pem", fault, "the hint")
    assert error.message == f"k.pem cannot be used as a key: {why}"
    assert (error.code, error.hint) == ("sign.key", "the hint")


def test_what_cannot_be_signed_or_checked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Config:
        def use_elliptic_key_verifier(self, public_key: Path) -> None:
            raise ValueError("no key")

        use_elliptic_key_signer = use_elliptic_key_verifier

    monkeypatch.setattr(signature, "_package", lambda name: SimpleNamespace(Config=Config))
    (tmp_path / "s").touch()
    for call, code in (
        (lambda: signature.sign(tmp_path / "none", tmp_path / "k"), "model.not-found"),
        (lambda: signature.sign(tmp_path, tmp_path / "k"), "model.not-edited"),
        (lambda: signature.check(tmp_path, tmp_path / "s", None), "sign.no-key"),
        (lambda: signature.check(tmp_path, tmp_path / "none", "k"), "sign.no-signature"),
        (lambda: signature.check(tmp_path, tmp_path / "s", "k"), "sign.key"),
    ):
        with pytest.raises(ForgetError) as error:
            call()
        assert error.value.code == code


@pytest.mark.skipif(find_spec("model_signing") is None, reason="model-signing is not installed")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            ValueError("Signature mismatch: ['a', 'b']"),
            ["is of other files: a", "is of other files: b"],
        ),
        (ValueError("Signature mismatch: odd ["), ["is of other files: odd ["]),
        (ValueError("digest mismatch"), ["was not made with the private key that belongs to"]),
        (type("InvalidSignature", (Exception,), {})(), ["was not made with the private key"]),
        (ValueError("one\ntwo"), ["is no signature that can be checked: ValueError: one"]),
        (ValueError(3), ["is no signature that can be checked: ValueError: 3"]),
        (KeyError(), ["is no signature that can be checked: KeyError"]),
        (None, []),
    ],
)
def test_what_is_wrong_with_a_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception | None, said: list[str]
) -> None:
    class Config:
        def use_elliptic_key_verifier(self, public_key: Path) -> Config:
            return self

        set_hashing_config = use_elliptic_key_verifier

        def verify(self, folder: Path, path: Path) -> None:
            if fault is not None:
                raise fault

    monkeypatch.setattr(signature, "_package", lambda name: SimpleNamespace(Config=Config))
    (tmp_path / "s").touch()
    found = signature.check(tmp_path, tmp_path / "s", "k.pub")
    assert len(found) == len(said) and all(map(str.startswith, found, said))
    assert not any(line.endswith(": ") for line in found)


@pytest.mark.skipif(find_spec("model_signing") is None, reason="model-signing is not installed")
@pytest.mark.parametrize("fault", [OSError("it is a pipe"), ValueError("it is a pipe")])
def test_a_folder_that_cannot_be_signed_keeps_its_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    class Config:
        def use_elliptic_key_signer(self, **key: object) -> Config:
            return self

        def set_hashing_config(self, config: object) -> None:
            pass

        def sign(self, folder: Path, path: Path) -> None:
            path.write_text("half of a signature")
            raise fault

    monkeypatch.setattr(signature, "_package", lambda name: SimpleNamespace(Config=Config))
    old = tmp_path / "signature.json"
    old.write_text("old")
    with pytest.raises(ForgetError, match="cannot be signed: it is a pipe") as error:
        signature.sign(GOLDEN, tmp_path / "key.pem", output=old)
    assert error.value.code == "sign.failed"
    assert old.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == [old.name]


def test_a_repeated_edit_may_differ_by_the_tolerance_and_not_by_more(
    edited: EditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    base: Any = SimpleNamespace(settings=GOLDEN, reference="one", config=None)
    edited.__dict__["base_or_fault"] = base
    first, *others = edited.manifest.edited
    other = first.model_copy(update={"after": "0" * 64})
    asked: dict[str, Any] = {}
    again = edited

    def apply(recipe: Any, **options: Any) -> Any:
        asked.update(options, method=recipe.method)
        return SimpleNamespace(output=GOLDEN)

    monkeypatch.setattr(recorded_edit, "apply", apply)
    monkeypatch.setattr(rebuild, "EditedModel", lambda folder: again)
    count = len(edited.manifest.edited)
    (line,) = rebuild.rebuilt(edited, Silent()).proved
    assert line == f"the edit, repeated here, gives all {count} tensors again, byte for byte"
    assert (asked["method"], asked["model"], asked["strict"]) == ("uce", "one", False)
    assert (asked["device"], asked["dtype"]) == ("cpu", "float32")
    assert asked["output"].name == "edited" and not asked["output"].parent.exists()
    again = changed(edited, edited=(other, *others))
    for distance, fits in ((0.05, True), (0.051, False), (float("nan"), False)):
        monkeypatch.setattr(rebuild, "_distance", lambda *_, distance=distance: distance)
        found = rebuild.rebuilt(edited, Silent())
        if fits:
            assert "to within 0.05 of the change (tolerance 0.05)" in found.proved[0]
            assert "differences in 1 tensor are within" in found.not_proved[-1]
        else:
            assert [p.file for p in found.problems] == [first.file] and not found.proved
            assert f"by {distance:.2g} of the change (tolerance 0.05)" in found.problems[0].what
    again = changed(edited, edited=tuple(others), materials={"k": "0" * 64})
    said = [p.what for p in rebuild.rebuilt(edited, Silent()).problems]
    assert any("the recipe does not edit it here" in what for what in said)
    assert any("the second moment 'k' is missing" in what for what in said)
    gone = changed(edited, run_details={}, base_digest="0" * 64)
    gone.__dict__["base_or_fault"] = base
    with pytest.raises(ForgetError) as error:
        rebuild.rebuilt(gone, Silent())
    assert error.value.code == "verify.reverted"
    edited.__dict__["base_or_fault"] = ForgetError("model.not-found", "no base", "")
    with pytest.raises(ForgetError, match="no base"):
        rebuild.rebuilt(edited, Silent())
