"""Claims: whoever brings all digests up to date after a change is still found, by the report, by
repeating the edit, or by a signature.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pipelines import tiny_sd
from tiny_runs import RECIPE
from typer.testing import CliRunner

from forgetcli.artifact import integrity, ledger
from forgetcli.artifact import manifest as manifests
from forgetcli.artifact.edited import EditedModel
from forgetcli.checkpoint import base
from forgetcli.cli.app import app
from forgetcli.errors import ForgetError
from forgetcli.models.tensors import read_tensor
from forgetcli.pipeline.apply import apply
from forgetcli.pipeline.revert import revert
from forgetcli.storage.files import sha256_file
from forgetcli.verification import audit

WEIGHTS = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The base, the recipe and an edit, never changed."""
    place = tmp_path_factory.mktemp("verified")
    tiny_sd(place / "sd")
    (place / "art.toml").write_text(RECIPE)
    apply(
        place / "art.toml",
        model=str(place / "sd"),
        output=place / "edited",
        device="cpu",
        strict=False,
    )
    return place


@pytest.fixture
def edited(place, tmp_path) -> Path:
    return Path(shutil.copytree(place / "edited", tmp_path / "edited"))


def brought_up_to_date(folder: Path, change=lambda build: None) -> None:
    """The manifest as whoever tampers with the folder would leave it."""
    path = folder / manifests.MANIFEST
    statement = json.loads(path.read_text())
    build = statement["predicate"]["buildDefinition"]
    for tensor in build["internalParameters"]["edited"]:
        data = (folder / tensor["file"]).read_bytes()[tensor["start"] : tensor["end"]]
        tensor["after"] = hashlib.sha256(data).hexdigest()
    change(build)
    for subject in statement["subject"]:
        subject["digest"]["sha256"] = sha256_file(folder / subject["name"])
    path.write_text(json.dumps(statement))


def problems(folder: Path, **options) -> list[str]:
    verdict = audit.verify(folder, **options)
    assert verdict.ok == (not verdict.problems)
    return [f"{p.file}: {p.what}" for p in verdict.problems]


def changed_report(folder: Path, change) -> None:
    path = folder / manifests.REPORT
    report = json.loads(path.read_text())
    change(report["sites"])
    path.write_text(json.dumps(report))
    brought_up_to_date(folder)


def without_ledger(folder: Path) -> None:
    """The ledger would tell; folders from before there were ledgers have none."""
    path = folder / manifests.MANIFEST
    statement = json.loads(path.read_text())
    internal = statement["predicate"]["buildDefinition"]["internalParameters"]
    for name in (ledger.LEDGER, ledger.TENSORS):
        if name in internal["written"]:
            (folder / name).unlink()
            internal["written"].remove(name)
    subjects = statement["subject"]
    statement["subject"] = [part for part in subjects if (folder / part["name"]).exists()]
    path.write_text(json.dumps(statement))


def moved_weights(folder: Path, place: Path, by: float, which: int = 0) -> None:
    """An edited tensor off by `by` of its change; the report's figure is made to fit."""
    tensor = manifests.load(folder).edited[which]
    site = EditedModel(folder).site(tensor)
    before, stored = (read_tensor(where, site).double() for where in (place / "sd", folder))
    delta = stored - before
    noise = torch.randn(
        delta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    moved = (stored + by * delta.norm() * noise / noise.norm()).half()
    data = bytearray((folder / tensor.file).read_bytes())
    data[site.start : site.end] = moved.numpy().tobytes()
    (folder / tensor.file).write_bytes(data)
    without_ledger(folder)
    relative = float((moved.double() - before).norm() / before.norm())
    changed_report(folder, lambda rows: rows[which].update(delta_rel=relative))


# --- report and headers
# ------------------------------------------------------------------------------------------------


def test_a_good_folder_is_proved_in_all_its_parts(place):
    verdict = audit.verify(place / "edited", recipe=place / "art.toml")
    assert verdict.ok and verdict.problems == []
    for claim in (
        "headers of all 4 weight files",
        "size of the change at all 2 sites",
        "byte for byte (SHA-256",
        "every other file and byte",
    ):
        assert any(claim in line for line in verdict.proved), claim
    assert integrity.UNSIGNED in verdict.not_proved and integrity.EFFECT in verdict.not_proved


def test_a_reported_figure_that_is_not_the_tensors_is_found(edited):
    def factor(by: float):
        return lambda rows: rows[0].update(delta_rel=rows[0]["delta_rel"] * by)

    error = json.loads((edited / manifests.REPORT).read_text())["sites"][0]["stored_error"]
    changed_report(edited, factor(1 + error / 4))  # what rounding accounts for is no difference
    assert problems(edited) == []
    changed_report(edited, factor(1.01))
    (found,) = problems(edited)
    assert (
        found.startswith("forget.report.json: 'encoder.layers.1.mlp.fc2': ‖Δ‖/‖W‖ is")
        and "by the tensors" in found
    )
    changed_report(edited, factor(1 / 1.01))
    changed_report(edited, lambda rows: rows[1].update(stored_error=rows[1]["stored_error"] * 2))
    assert "stored_error is" in problems(edited)[0]


def test_a_report_on_other_layers_is_found(edited):
    changed_report(edited, lambda rows: rows[0].update(name="encoder.layers.0.mlp.fc2"))
    first, second = problems(edited)
    assert "reports on 'encoder.layers.0.mlp.fc2', which is not listed as edited" in first
    assert "says nothing of 'text_encoder/encoder.layers.1.mlp.fc2.weight'" in second
    changed_report(edited, lambda rows: rows.clear())
    assert len(problems(edited)) == 2
    changed_report(edited, lambda rows: rows.append(3))
    assert "no sites" in problems(edited)[0]


def test_weights_that_were_changed_with_every_digest_do_not_fit_the_report(edited, place):
    moved_weights(edited, place, 0.5)
    assert problems(edited) == []  # control: with the report made to fit, nothing here can tell
    true = json.loads((place / "edited" / manifests.REPORT).read_text())["sites"][0]["delta_rel"]
    changed_report(edited, lambda rows: rows[0].update(delta_rel=true))
    assert "by the tensors" in problems(edited)[0]


def test_without_the_base_it_is_said_that_the_figures_are_not_proved(edited, place):
    (place / "sd").rename(place / "away")
    try:
        assert any("size of the change" in line for line in audit.verify(edited).proved)
        without_ledger(edited)
        verdict = audit.verify(edited)
        assert verdict.ok and any("report's figures" in line for line in verdict.not_proved)
        with pytest.raises(ForgetError):
            audit.verify(edited, rebuild=True)
    finally:
        (place / "away").rename(place / "sd")


def test_an_invalid_header_is_named(edited):
    path = edited / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    brought_up_to_date(edited)
    assert any(
        line.startswith("vae/diffusion_pytorch_model.safetensors") and "its header requires" in line
        for line in problems(edited)
    )


# --- recipe
# ------------------------------------------------------------------------------------------------


def test_another_recipe_is_told_apart_value_by_value(edited, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(
        RECIPE.replace("steps = 4", "steps = 5")
        .replace('"monet"', '"a house"', 1)
        .replace('"a house"', '"a dog"', 2)
    )
    found = problems(edited, recipe=other)
    assert any("refine.steps is 4 there, 5 in that" in line for line in found)
    assert any('concepts.0.target is "monet" there, "a dog" in that' in line for line in found)
    other.write_text(RECIPE + "# a remark\n")
    (found,) = problems(edited, recipe=other)
    assert "other bytes" in found and "every value is the same" in found
    other.write_text(
        RECIPE.replace("[refine]", 'scale = "mean"\n\n[refine]')
    )  # a default, spelt out
    assert "every value is the same" in problems(edited, recipe=other)[0]
    with pytest.raises(ForgetError):
        audit.verify(edited, recipe=tmp_path / "none.toml")


def test_of_long_lists_only_what_differs_is_told(edited, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(
        RECIPE.replace(
            '["a picture of a cat", "a house"', '["a picture of a cat", "a dog by monet"'
        )
    )
    (found,) = [line for line in problems(edited, recipe=other) if "preserve" in line]
    assert (
        '["a house", … 4 in all] there, ["a dog by monet", … 4 in all] in that' in found
        and "a picture of a cat" not in found
    )
    other.write_text(RECIPE.replace('["a picture of a cat", "a house"', '["a dog", "a cat"'))
    (found,) = [line for line in problems(edited, recipe=other) if "preserve" in line]
    assert (
        '["a picture of a cat" and 1 more that differ, of 4] there, ["a dog" and 1 more that differ, of 4] in that'  # noqa: E501
        in found
    )


def test_of_a_model_without_edits_nothing_is_claimed_of_edits(place, tmp_path):
    revert(place / "edited", None, output=tmp_path / "back")
    verdict = audit.verify(tmp_path / "back", place / "sd")
    assert verdict.ok and any("no tensor is edited" in line for line in verdict.proved)
    assert (
        not any(" 0 " in line for line in verdict.proved)
        and integrity.EFFECT not in verdict.not_proved
    )
    config = tmp_path / "back" / "unet" / "config.json"  # control
    config.write_bytes(config.read_bytes() + b"\n")
    assert not audit.verify(tmp_path / "back", place / "sd").ok


# --- repeating the edit
# ------------------------------------------------------------------------------------------------


def test_the_edit_repeated_gives_the_same_bytes(place):
    verdict = audit.verify(place / "edited", rebuild=True)
    assert verdict.ok, verdict.problems
    assert any(
        "repeated here, gives all 2 tensors again, byte for byte" in line for line in verdict.proved
    )


def test_weights_that_the_recipe_does_not_give_are_found_by_repeating_it(
    edited, place, monkeypatch
):
    monkeypatch.setattr("forgetcli.cli.progress.silence_libraries", lambda: None)
    for which in (0, 1):
        moved_weights(edited, place, 0.5, which)
    assert problems(edited) == []  # control: without repeating it nothing here can tell
    done = CliRunner().invoke(app, ["verify", str(edited), "--rebuild"])
    found = [line.strip() for line in done.stdout.splitlines() if "✗" in line]
    assert done.exit_code == 1 and len(found) == 2 and "not proved: who made it" in done.stdout
    for line, tensor in zip(found, manifests.load(edited).edited):
        assert (
            line.startswith(f"✗ {WEIGHTS}: '{tensor.key}' is not what the recipe gives here")
            and "tolerance 0.05" in line
        )


def test_an_edit_of_an_edit_is_repeated_until_the_first_is_taken_out(place, tmp_path):
    again = apply(
        place / "art.toml",
        model=str(place / "edited"),
        output=tmp_path / "again",
        device="cpu",
        strict=False,
    ).output
    verdict = audit.verify(again, rebuild=True)
    assert verdict.ok and any("again, byte for byte" in line for line in verdict.proved)
    first, second = (
        revert(again, [number], output=tmp_path / f"without-{number}").output for number in (2, 1)
    )
    assert any(
        "again, byte for byte" in line
        for line in audit.verify(first, place / "sd", rebuild=True).proved
    )
    assert audit.verify(second, place / "sd").ok
    with pytest.raises(
        ForgetError
    ) as error:  # what it was made to is gone: no alarm, and no proof either
        audit.verify(second, place / "sd", rebuild=True)
    assert error.value.code == "verify.reverted"


def test_a_small_difference_is_within_the_tolerance_and_said_to_be_no_identity(edited, place):
    moved_weights(edited, place, 0.01)
    verdict = audit.verify(edited, rebuild=True)
    assert verdict.ok and any(
        "to within 0.01 of the change (tolerance 0.05)" in line for line in verdict.proved
    )
    assert any("the same bytes" in line for line in verdict.not_proved) and not any(
        "byte for byte" in line for line in verdict.proved[-1:]
    )


def test_second_moments_with_other_digests_are_not_proved(edited):
    """Ledger and manifest can be made to agree on any digest; only repeating the edit can tell."""
    claim = "that the second moments are those that the manifest lists"
    assert not any(claim in line for line in audit.verify(edited, rebuild=True).not_proved)
    name, digest = sorted(manifests.load(edited).materials.items())[0]
    for file in (ledger.LEDGER, manifests.MANIFEST):
        path = edited / file
        assert digest in path.read_text()
        path.write_text(path.read_text().replace(digest, 64 * "0"))
    brought_up_to_date(edited)
    verdict = audit.verify(edited)
    assert verdict.ok, verdict.problems  # the control: without repeating it nothing can tell
    again = audit.verify(edited, rebuild=True)
    assert again.ok and any(claim in line and name in line for line in again.not_proved)


def test_parameters_that_are_not_the_recipes_are_found(edited):
    brought_up_to_date(
        edited, lambda build: build["externalParameters"]["parameters"]["refine"].update(steps=40)
    )
    assert any(
        "refine.steps is 40 in forget.provenance.json, 4 by the recipe" in line
        for line in problems(edited, rebuild=True)
    )


# --- signatures
# ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    if find_spec("model_signing") is None:  # there but broken is no reason to skip
        pytest.skip("model-signing is not installed")
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    for name, curve, password in (
        ("mine", ec.SECP256R1(), None),
        ("other", ec.SECP521R1(), None),
        ("locked", ec.SECP384R1(), b"secret"),
    ):
        key = ec.generate_private_key(curve)
        how = s.BestAvailableEncryption(password) if password else s.NoEncryption()
        (folder / f"{name}.pem").write_bytes(
            key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, how)
        )
        (folder / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        )
    return folder


def test_a_signature_says_who_and_finds_what_every_digest_hides(edited, place, keys):
    from forgetcli.verification import signature

    path = signature.sign(edited, keys / "mine.pem")
    assert path == edited / "forget.signature.json"
    unchecked = audit.verify(edited)
    assert unchecked.ok and any("no public key was given" in line for line in unchecked.not_proved)
    verdict = audit.verify(edited, key=keys / "mine.pub")
    assert verdict.ok and integrity.UNSIGNED not in verdict.not_proved
    assert any(line.startswith(signature.PROVED) for line in verdict.proved) and any(
        "who holds that key" in line for line in verdict.not_proved
    )
    assert "private key that belongs to" in problems(edited, key=keys / "other.pub")[0]
    moved_weights(edited, place, 0.5)
    assert problems(edited) == []  # control: unsigned, it is not found
    found = problems(edited, key=keys / "mine.pub")
    assert any(WEIGHTS in line for line in found) and any(
        "forget.provenance.json" in line for line in found
    )
    assert base.resolve(edited).digest and "forget.signature.json" not in base.resolve(edited).files


@pytest.mark.parametrize("name", [".gitignore", ".hidden", "unet/x.bin"])
def test_a_signature_is_of_hidden_files_too_but_not_of_the_hubs(edited, keys, name):
    from forgetcli.verification import signature

    signature.sign(edited, keys / "other.pem")
    (edited / ".gitattributes").write_text("*.safetensors filter=lfs")
    verdict = audit.verify(edited, key=keys / "other.pub")
    assert verdict.ok and any(".gitattributes" in line for line in verdict.not_proved)
    (edited / name).write_text("x")
    assert any(
        "is of other files" in line and name in line
        for line in problems(edited, key=keys / "other.pub")
    )


def test_what_a_killed_run_has_left_is_neither_signed_nor_kept(edited, keys):
    from forgetcli.artifact import card
    from forgetcli.verification import signature

    left = edited / ".forget.signature.json.1-0123abcd.forget.tmp"
    left.touch()
    assert left.name in problems(edited)[0]
    signature.sign(edited, keys / "mine.pem")
    assert not left.exists() and problems(edited, key=keys / "mine.pub") == []
    left.touch()
    card.rewrite(edited)
    assert not left.exists() and problems(edited) == []


def test_a_signature_elsewhere_a_locked_key_and_what_is_no_signature(edited, keys, tmp_path):
    from forgetcli.verification import signature

    (edited / "alias.md").symlink_to("README.md")  # as the hub's cache has links
    linked = signature.sign(edited, keys / "mine.pem", output=tmp_path / "linked.sig")
    assert signature.check(edited, linked, keys / "mine.pub") == []
    (edited / "alias.md").unlink()
    assert signature.check(edited, linked, keys / "mine.pub") != []
    path = signature.sign(
        edited, keys / "locked.pem", password="secret", output=tmp_path / "edited.sig"
    )
    assert (
        problems(edited, key=keys / "locked.pub", signature=path) == []
        and not (edited / "forget.signature.json").exists()
    )
    data = json.loads(path.read_text())
    for broken in (
        b"",
        b"{}",
        b"\xff",
        json.dumps({**data, "dsseEnvelope": {**data["dsseEnvelope"], "signatures": []}}).encode(),
    ):
        path.write_bytes(broken)
        assert len(problems(edited, key=keys / "locked.pub", signature=path)) == 1
    for wrong in (
        {"signature": path},
        {"key": keys / "none.pub"},
        {"key": keys / "mine.pem"},
        {"key": keys / "mine.pub"},
    ):
        with pytest.raises(
            ForgetError
        ) as error:  # no key, no such key, a private one, no signature in the folder
            audit.verify(edited, **wrong)
        assert error.value.code.startswith("sign.")
    for key, password in (
        ("none.pem", None),
        ("mine.pub", None),
        ("locked.pem", None),
        ("locked.pem", "wrong"),
    ):
        with pytest.raises(ForgetError) as error:
            signature.sign(edited, keys / key, password=password)
        assert error.value.code == "sign.key"


def test_without_the_package_the_error_says_how_to_get_it(edited, keys, monkeypatch):
    from forgetcli.verification import signature

    for name in [name for name in sys.modules if name.startswith("model_signing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    (edited / "forget.signature.json").write_text("{}")
    for ask in (
        lambda: signature.sign(edited, keys / "mine.pem"),
        lambda: audit.verify(edited, key=keys / "mine.pub"),
    ):
        with pytest.raises(ForgetError) as error:
            ask()
        assert (
            error.value.code == "sign.no-package"
            and "pip install 'forgetcli[sign]'" in error.value.hint
        )


@pytest.mark.skipif(
    shutil.which("openssl") is None or find_spec("model_signing") is None,
    reason="no openssl, or no model-signing, here",
)
def test_the_commands_of_the_help_work(forget, edited, tmp_path):
    subprocess.run(
        "openssl ecparam -name prime256v1 -genkey -noout -out key.pem && openssl ec -in key.pem -pubout -out public.pem",  # noqa: E501
        shell=True,
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    signed = forget("sign", "edited", "--private-key", "key.pem", "--json")
    assert signed.code == 0 and signed.json["signature"] == "edited/forget.signature.json", (
        signed.stderr
    )
    assert forget("verify", "edited", "--key", "public.pem", "-q").code == 0
    (edited / "model_index.json").write_text("{}")
    found = forget("verify", "edited", "--key", "public.pem")
    assert (
        found.code == 1
        and "✗ model_index.json: was changed" in found.stdout
        and "is of other files" in found.stdout
    )
