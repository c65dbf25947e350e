"""Claims: an edited folder says what was done to it; the check finds every difference, and never
fails by itself.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from faults import Saboteur, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipelines import tiny_sd

from forgetcli.artifact import integrity, patch, statement
from forgetcli.artifact import manifest as manifests
from forgetcli.checkpoint import base as checkpoint
from forgetcli.errors import ModelError, OutputError
from forgetcli.models.tensors import read_tensor
from forgetcli.storage import atomic
from forgetcli.storage.files import sha256_file, walk_files

FC2 = "encoder.layers.1.mlp.fc2.weight"
KEY = "text_model." + FC2
WEIGHTS = "text_encoder/model.safetensors"
RECIPE = b"# art\n[[concepts]]\nconcept = 'van gogh'\n"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("original") / "base")


@pytest.fixture
def base(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "base"))


@pytest.fixture
def edited(base, tmp_path) -> Path:
    return apply(base, tmp_path / "edited")


def apply(
    base: Path,
    output: Path,
    *,
    force: bool = False,
    before_writing=lambda staging: None,
    **run_details,
) -> Path:
    """What the pipeline does around an edit of one tensor and one bias, by the files' own
    functions.
    """
    resolved = checkpoint.resolve(base)
    weights = {}
    for key in (("text_encoder", FC2), ("text_encoder", "final_layer_norm.bias")):
        weight = read_tensor(resolved.folder, checkpoint.locate(resolved.folder, *key)).double()
        generator = torch.Generator().manual_seed(1)
        weights[key] = weight + 0.1 * torch.randn(
            weight.shape, generator=generator, dtype=torch.float64
        )
    with atomic.publishing(output, force=force) as staging:
        stored = patch.patch(resolved, staging, weights)
        before_writing(staging)
        statement.write(
            staging,
            base=resolved,
            recipe_bytes=RECIPE,
            method="nullspace",
            parameters={"edit": {"sites": (1,)}},
            stored=stored,
            materials=[{"name": "k0/encoder.layers.1", "sha256": "0" * 64}],
            report={"sites": [{"rcond": float("nan"), "null_dim": 3}]},
            run_details=run_details,
        )
    return output


def problems_of(folder: Path, base=None) -> dict[str, str]:
    verdict = integrity.verify(folder, base)
    assert verdict.ok == (not verdict.problems)
    assert set(verdict.as_dict()) >= {"ok", "problems", "proved", "not_proved"}
    json.dumps(verdict.as_dict())
    return {problem.file: problem.what for problem in verdict.problems}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def site(folder: Path) -> checkpoint.TensorSite:
    return checkpoint.locate(folder, "text_encoder", FC2)


# --- a good folder
# ------------------------------------------------------------------------------------------------


def test_an_edited_folder_is_proved_whole(edited, base):
    verdict = integrity.verify(edited)  # finds the base by the manifest
    assert verdict.ok and verdict.problems == []
    assert (verdict.edited, verdict.files) == (2, len(walk_files(edited)))
    assert len(verdict.proved) == 3
    assert any("not signed" in line for line in verdict.not_proved)
    assert integrity.verify(edited, base).ok


def test_the_edited_folder_loads(edited):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(edited, safety_checker=None)
    wanted = read_tensor(edited, site(edited))
    assert torch.equal(
        pipeline.text_encoder.get_parameter(FC2), wanted.to(pipeline.text_encoder.dtype)
    )


def test_the_manifest_says_what_was_done(edited, base):
    manifest = manifests.load(edited)
    resolved = checkpoint.resolve(base)
    assert (manifest.base_id, manifest.base_revision, manifest.base) == (str(base), None, str(base))
    assert (manifest.base_digest, manifest.base_files) == (resolved.digest, resolved.files)
    assert manifest.recipe_path.read_bytes() == RECIPE
    assert manifest.recipe_sha256 == sha256_file(manifest.recipe_path)
    assert (manifest.method, manifest.parameters) == ("nullspace", {"edit": {"sites": [1]}})
    assert manifest.materials == {"k0/encoder.layers.1": "0" * 64}
    assert manifest.written == (manifests.REPORT, manifests.RECIPE)
    assert manifest.subjects == {
        path: sha256_file(edited / path)
        for path in walk_files(edited)
        if path != manifests.MANIFEST
    }
    fc2 = next(tensor for tensor in manifest.edited if tensor.parameter == FC2)
    assert (fc2.file, fc2.key, fc2.dtype, fc2.component) == (WEIGHTS, KEY, "F16", "text_encoder")
    assert fc2.before != fc2.after and 0 < fc2.error < 0.1
    assert json.loads((edited / manifests.REPORT).read_text()) == {
        "sites": [{"null_dim": 3, "rcond": None}]
    }


def test_the_manifest_has_the_standards_shape(edited):
    """Names and values by hand from in-toto Statement v1 and SLSA provenance v1, not from our own
    model of them.
    """
    statement = json.loads((edited / "forget.provenance.json").read_text())
    assert set(statement) == {"_type", "subject", "predicateType", "predicate"}
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {"name", "digest"} == set(statement["subject"][0])
    build, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert set(build) == {
        "buildType",
        "externalParameters",
        "internalParameters",
        "resolvedDependencies",
    }
    assert set(run) == {"builder", "metadata"} and run["builder"]["id"]
    assert "forget.provenance.json" not in [subject["name"] for subject in statement["subject"]]


def test_a_repeated_run_gives_the_same_build_definition(base, tmp_path):
    outputs = [
        apply(base, tmp_path / day, startedOn=f"2026-01-0{day}T00:00:00Z", versions={"torch": day})
        for day in "12"
    ]
    first, second = (json.loads((output / manifests.MANIFEST).read_text()) for output in outputs)
    assert first["predicate"]["runDetails"] != second["predicate"]["runDetails"]
    assert first["subject"] == second["subject"]
    assert first["predicate"]["buildDefinition"] == second["predicate"]["buildDefinition"]


def test_an_edited_folder_can_be_edited_again(edited, tmp_path):
    again = apply(edited, tmp_path / "again")
    assert problems_of(again) == {}
    assert manifests.load(again).base_id == str(edited)


def test_a_new_model_card_is_forgets_own_but_nothing_else_may_be_replaced(base, tmp_path):
    (base / "README.md").write_text("the base's card")
    with_card = apply(
        base,
        tmp_path / "card",
        before_writing=lambda staging: (staging / "README.md").write_text("new"),
    )
    assert problems_of(with_card) == {}
    assert "README.md" in manifests.load(with_card).written
    for spoil in (
        lambda staging: flip(staging / "unet" / "config.json", 3),
        lambda staging: (staging / "vae" / "config.json").unlink(),
    ):
        with pytest.raises(OutputError) as error:
            apply(base, tmp_path / "spoilt", before_writing=spoil)
        assert error.value.code == "output.not-the-base"
        assert not (tmp_path / "spoilt").exists()


# --- each kind of difference
# ------------------------------------------------------------------------------------------------


def test_one_flipped_byte_in_any_file_is_found(edited):
    for path in walk_files(edited):
        if path == manifests.MANIFEST:
            continue
        size = (edited / path).stat().st_size
        for at in {0, size // 2, size - 1}:
            flip(edited / path, at)
            assert path in problems_of(edited), (path, at)
            flip(edited / path, at)
    assert problems_of(edited) == {}  # and each flip was the only fault


def signed_again(folder: Path, change=lambda statement: None) -> None:
    """Bring the manifest's digests up to date, as whoever tampers would; then only the base can
    tell.
    """
    path = folder / manifests.MANIFEST
    statement = json.loads(path.read_text())
    for subject in statement["subject"]:
        subject["digest"]["sha256"] = sha256_file(folder / subject["name"])
    change(statement["predicate"]["buildDefinition"])
    path.write_text(json.dumps(statement))


def test_a_changed_untouched_file_is_found_though_the_manifest_was_rewritten(edited, base):
    flip(edited / "vae" / "diffusion_pytorch_model.safetensors", -1)
    signed_again(edited)
    assert "not listed as edited" in problems_of(edited)["vae/diffusion_pytorch_model.safetensors"]
    shutil.rmtree(base)  # the base's digests in the manifest tell as well
    assert "not listed as edited" in problems_of(edited)["vae/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize("place", ["before", "after", "header"])
def test_a_changed_byte_next_to_the_edited_tensor_is_found_by_the_base(edited, place):
    where = site(edited)
    flip(edited / WEIGHTS, {"before": where.start - 1, "after": where.end, "header": 9}[place])
    signed_again(edited)
    found = problems_of(edited)
    assert list(found) == [WEIGHTS]
    if place == "after":
        assert "tensor 'text_model." in found[WEIGHTS] and KEY not in found[WEIGHTS]


def test_a_changed_byte_within_the_edited_tensor_is_found_without_the_base(edited, base):
    shutil.rmtree(base)
    flip(edited / WEIGHTS, site(edited).start)
    signed_again(edited)
    assert KEY in problems_of(edited)[WEIGHTS]


def test_an_edit_that_the_manifest_conceals_is_found_by_the_base(edited):
    signed_again(
        edited,
        lambda build: build["internalParameters"].update(
            edited=[e for e in build["internalParameters"]["edited"] if e["key"] != KEY]
        ),
    )
    assert problems_of(edited) == {
        WEIGHTS: f"differs from the base in tensor '{KEY}', which is not listed as edited"
    }


def test_a_range_wider_than_the_tensor_is_found(edited):
    def widen(build):
        build["internalParameters"]["edited"][0]["end"] += 64

    signed_again(edited, widen)
    assert "not where the manifest says" in problems_of(edited)[WEIGHTS]


def test_missing_and_added_files_are_named(edited):
    (edited / "vae" / "config.json").unlink()
    for name in ("unet/extra.bin", ".hidden", "forget.other.json"):
        (edited / name).write_bytes(b"x")
    assert problems_of(edited).keys() >= {
        "vae/config.json",
        "unet/extra.bin",
        ".hidden",
        "forget.other.json",
    }
    assert integrity.verify(edited).proved == ["digests of the 2 edited tensors are those recorded"]


def test_another_recipe_in_the_folder_is_found(edited):
    (edited / "recipe.toml").write_bytes(b"# other\n")
    signed_again(edited)
    assert "not the recipe" in problems_of(edited)["recipe.toml"]


def test_a_file_of_the_base_passed_off_as_forgets_own_is_found(edited):
    flip(edited / "unet" / "config.json", 5)
    signed_again(
        edited, lambda build: build["internalParameters"]["written"].append("unet/config.json")
    )
    assert "forget's own" in problems_of(edited)["unet/config.json"]


def test_the_wrong_base_is_named(edited, tmp_path):
    other = tiny_sd(tmp_path / "other", seed=5)
    found = problems_of(edited, other)
    assert "is not the one that was edited" in found[WEIGHTS]


def test_without_the_base_it_is_said_what_is_not_proved(edited, base):
    shutil.rmtree(base)
    verdict = integrity.verify(edited)
    assert verdict.ok
    assert "cannot be had" in verdict.not_proved[0]
    assert not any("base" in line for line in verdict.proved)
    with pytest.raises(ModelError):  # asked for by name it is an error
        integrity.verify(edited, base)


def test_files_that_the_base_has_gained_are_not_vouched_for(edited, base):
    (base / "LICENSE").write_text("new terms")
    verdict = integrity.verify(edited)
    assert verdict.ok
    assert "LICENSE" in verdict.not_proved[0]


def test_odd_files_do_not_stop_the_check(edited):
    os.mkfifo(edited / "pipe")
    (edited / "vae" / "config.json").unlink()
    os.mkfifo(edited / "vae" / "config.json")  # reading it would hang
    (edited / "dangling").symlink_to("nowhere")
    (Path(os.fsdecode(os.fsencode(edited) + b"/\xff.json"))).write_bytes(b"")
    found = problems_of(edited)
    assert found.keys() >= {"pipe", "vae/config.json", "dangling", "\\xff.json"}


# --- no or bad manifest
# ------------------------------------------------------------------------------------------------


def test_a_folder_that_forget_did_not_make(base, tmp_path):
    with pytest.raises(ModelError) as error:
        manifests.load(base)
    assert error.value.code == "model.not-edited"
    assert list(problems_of(base)) == [manifests.MANIFEST]
    with pytest.raises(ModelError):
        integrity.verify(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "null", "{}", "[]", "\xff", '{"_type": "https://in-toto.io/Statement/v1"}']
)
def test_a_manifest_of_another_shape_is_one_problem(edited, text):
    (edited / manifests.MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(ModelError) as error:
        manifests.load(edited)
    assert error.value.code == "model.manifest" and "\n" not in error.value.message
    assert list(problems_of(edited)) == [manifests.MANIFEST]


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", "", "a//b", "..\\b", "C:/b", "./a"]
)
def test_paths_that_lead_out_of_the_folder_are_refused(edited, name):
    statement = json.loads((edited / manifests.MANIFEST).read_text())
    statement["subject"][0]["name"] = name
    (edited / manifests.MANIFEST).write_text(json.dumps(statement))
    assert list(problems_of(edited)) == [manifests.MANIFEST]


def paths_in(value, path=()):
    yield path
    for key, part in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from paths_in(part, (*path, key))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_manifest_makes_the_check_fail(edited, data):
    """Any part of it replaced by anything: a verdict, never an exception."""
    path = edited / manifests.MANIFEST
    kept = path.read_bytes()
    statement = copy.deepcopy(json.loads(kept))
    *above, last = data.draw(st.sampled_from([p for p in paths_in(statement) if p]))
    owner = statement
    for key in above:
        owner = owner[key]
    anything = [None, -1, 10**30, "", "x", "0" * 64, [], {}, [{}], True, 1.5, "a/b", "\ud800"]
    owner[last] = data.draw(st.sampled_from(anything))
    try:
        path.write_text(json.dumps(statement))
        problems_of(edited)
    finally:
        path.write_bytes(kept)


# --- the whole way, with faults
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [lambda: OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt],
    ids=["full", "Ctrl-C"],
)
def test_an_edited_folder_is_old_or_complete_whatever_fails(base, tmp_path, fault):
    place = tmp_path / "out"
    output = place / "edited"
    new = tree(apply(base, tmp_path / "reference"))
    old = {manifests.MANIFEST: b"{}", "weights": b"old"}
    failed = 0
    for n in range(1, 400):
        shutil.rmtree(place, ignore_errors=True)
        output.mkdir(parents=True)
        for name, content in old.items():
            (output / name).write_bytes(content)
        saboteur = Saboteur(n, fault)
        try:
            with saboteur.at_work():
                apply(base, output, force=True)
        except (OutputError, KeyboardInterrupt) as error:
            failed += 1
            assert tree(output) in (old, new), saboteur.calls[-1]
            assert [p.name for p in place.iterdir()] == ["edited"]
            if isinstance(error, OutputError):
                assert (error.code, str(output) in error.message) == ("output.disk-full", True)
        if not saboteur.struck:
            break
    assert tree(output) == new
    assert failed > 40


@pytest.mark.parametrize("value", [10**30, 10**15])
@pytest.mark.parametrize("key", ["start", "end"])
def test_offsets_behind_the_end_of_the_file_end_the_comparison(edited, base, key, value):
    path = edited / manifests.MANIFEST
    statement = json.loads(path.read_text())
    tensor = statement["predicate"]["buildDefinition"]["internalParameters"]["edited"][0]
    tensor[key] = value
    path.write_text(json.dumps(statement))
    assert any("not where" in problem.what for problem in integrity.verify(edited, base).problems)
