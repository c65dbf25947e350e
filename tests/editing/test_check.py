"""The check after an edit tells an edit from none and from a wreck; and `apply` publishes only what
passed it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pipelines import tiny_sd

from forgetcli import models
from forgetcli.artifact import integrity, ledger, patch
from forgetcli.artifact import manifest as manifests
from forgetcli.checkpoint import base as checkpoint
from forgetcli.cli.edit_tables import outcome
from forgetcli.editing.check import (
    NO_OP,
    WRECKED,
    Check,
    check,
    spread,
)
from forgetcli.editing.check_limits import PROMPTS, PROMPTS_OF_LARGE, STEPS
from forgetcli.editing.edit import Edit
from forgetcli.errors import EditError, ForgetError, ModelError, OutputError
from forgetcli.models.trajectories import noisy_bank, noisy_points
from forgetcli.pipeline import apply as pipeline
from forgetcli.pipeline.plan import plan
from forgetcli.progress import Silent
from forgetcli.storage.files import sha256_file, walk_files

RECIPE = """\
[[concepts]]
concept = "van gogh"
target = "monet"

[prompts]
templates = ["{}", "a painting by {}"]

[preserve]
prompts = ["a picture of a cat", "a house", "a sketch of a dog", "a painting by monet"]

[edit]
sites = [1, 2, 3]
lam = 0.001
min_rank = 24

[refine]
steps = 30
batch = 4
latent_steps = 3
"""
PAIRS = [("van gogh", "monet"), ("a painting by van gogh", "a painting by monet")]
PRESERVE = ["", "a picture of a cat", "a house", "a sketch of a dog"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("check") / "sd", torch.float32)


@pytest.fixture(scope="module")
def model(base: Path):
    return models.load(checkpoint.resolve(base), device="cpu")


@pytest.fixture
def apply(base: Path, tmp_path: Path) -> Callable[..., pipeline.ApplyResult]:
    """`pipeline.apply` of `RECIPE` with changes, into tmp_path/edited."""

    def run(*changes: tuple[str, str], **arguments) -> pipeline.ApplyResult:
        text = RECIPE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "art.toml").write_text(text)
        return pipeline.apply(
            tmp_path / "art.toml",
            model=str(base),
            output=tmp_path / "edited",
            device="cpu",
            **arguments,
        )

    return run


def digests(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in walk_files(folder)}


# the verdict


def figures(moved: float, drift: float) -> Check:
    return Check(concept_before=1.0, concept_after=1 - moved, moved=moved, preserve_drift=drift)


@pytest.mark.parametrize(
    ("code", "moved", "drift"),
    [
        ("edit.no-effect", 0.0, 0.0),
        ("edit.no-effect", -0.5, 0.01),  # it went the other way
        ("edit.no-effect", NO_OP - 0.01, 0.01),
        ("edit.wrecked", 0.9, WRECKED + 0.01),
        ("edit.wrecked", 0.0, 2.0),  # no effect and a wreck: the wreck is told
        ("edit.wrecked", float("nan"), 0.01),
        ("edit.wrecked", 0.9, float("nan")),
        ("edit.wrecked", float("-inf"), 0.0),
    ],
)
def test_verdict_on_edits_that_are_none_or_too_much(code: str, moved: float, drift: float):
    with pytest.raises(EditError) as caught:
        figures(moved, drift).enforce()
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize(
    ("moved", "drift"), [(0.9, 0.01), (NO_OP, 0.0), (1.0, WRECKED), (0.06, 0.24)]
)
def test_verdict_on_good_edits(moved: float, drift: float):
    figures(moved, drift).enforce()
    assert figures(moved, drift).as_dict()["moved"] == moved


def test_an_edit_may_bring_a_limit_of_its_own():
    moved = figures(0.9, WRECKED + 0.1)
    assert "drift_limit" not in moved.as_dict() and "at most 25 %): FAIL" in outcome(
        moved.as_dict()
    )
    allowed = replace(moved, drift_limit=0.4)
    allowed.enforce()
    assert "at most 40 %): pass" in outcome(allowed.as_dict())
    with pytest.raises(EditError, match="breaks what it should preserve"):
        replace(moved, drift_limit=0.3).enforce()


# the figures


def weights(model, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    sites = model.pick_sites([1, 2, 3])
    return Edit(
        {(s.component, s.parameter): change(s.module.weight.detach().double()) for s in sites}, ()
    )


def random_change(scale: float) -> Callable[[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda weight: (
        weight + scale * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    )


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("edit.no-effect", lambda weight: weight),
        ("edit.no-effect", random_change(1e-5)),
        ("edit.wrecked", lambda weight: weight * float("nan")),
    ],
)
def test_check_measures_on_the_model(model, code: str, change: Callable):
    with pytest.raises(EditError) as caught:
        check(model, weights(model, change), PAIRS, PRESERVE, 0, Silent()).enforce()
    assert caught.value.code == code


def test_check_sees_what_a_change_does_to_preserved_predictions(
    model, monkeypatch: pytest.MonkeyPatch
):
    """A tiny untrained denoiser hardly reads its context, so the threshold is brought to what it
    can show.
    """
    none, little, much = (
        check(model, weights(model, random_change(scale)), PAIRS, PRESERVE, 0, Silent())
        for scale in (0.0, 0.01, 10.0)
    )
    assert (
        none.moved == 0
        and none.preserve_drift == 0
        and none.concept_before == none.concept_after > 0
    )
    assert 0 < little.preserve_drift < much.preserve_drift / 10
    monkeypatch.setattr("forgetcli.editing.check.WRECKED", much.preserve_drift / 2)
    with pytest.raises(EditError) as caught:
        check(model, weights(model, random_change(10.0)), PAIRS, PRESERVE, 0, Silent()).enforce()
    assert caught.value.code == "edit.wrecked"


def test_the_noisy_images_of_the_check_lie_on_the_samplers_trajectories(
    model, monkeypatch: pytest.MonkeyPatch
):
    """Catches a row that is mixed up with another, or followed too far, when others have ended."""
    prompts, predictions = [prompt for pair in PAIRS for prompt in pair] + PRESERVE, []
    denoise = model.denoise
    monkeypatch.setattr(
        model, "denoise", lambda x, *_: predictions.append(len(x)) or denoise(x, *_)
    )
    x, t = noisy_points(
        model,
        prompts,
        steps=5,
        largest_side=64,
        generator=torch.Generator().manual_seed(0),
        observer=Silent(),
        batch=3,
    )
    bank = noisy_bank(
        model,
        prompts,
        steps=5,
        guidance=1.0,
        generator=torch.Generator().manual_seed(0),
        observer=Silent(),
    )
    steps = [bank.timesteps.tolist().index(each) for each in t.tolist()]
    assert len(set(steps)) > 2
    torch.testing.assert_close(x, bank.latents[range(len(prompts)), steps], rtol=1e-4, atol=1e-4)
    assert sum(predictions) == sum(steps) + 5 * len(prompts)  # the bank's own come after
    small, _ = noisy_points(
        model,
        prompts,
        steps=2,
        largest_side=4,
        generator=torch.Generator().manual_seed(0),
        observer=Silent(),
    )
    assert small.shape[2:] == (4, 4) != x.shape[2:]


@pytest.mark.parametrize(("large", "prompts"), [(0, PROMPTS_OF_LARGE), (1 << 40, PROMPTS)])
def test_a_large_denoiser_makes_as_many_predictions_as_are_estimated(
    model, monkeypatch: pytest.MonkeyPatch, large: int, prompts: int
):
    monkeypatch.setattr("forgetcli.editing.check_limits.LARGE_DENOISER", large)
    pairs = [(f"van gogh {i}", f"monet {i}") for i in range(30)]
    rows: list[int] = []
    denoise = model.denoise
    monkeypatch.setattr(model, "denoise", lambda x, *_: rows.append(len(x)) or denoise(x, *_))

    def points(model, prompts, **settings):
        found = noisy_points(model, prompts, **settings)
        sampled.append(sum(rows))
        return found

    sampled: list[int] = []
    monkeypatch.setattr("forgetcli.editing.check.noisy_points", points)
    preserve = [f"a {i}" for i in range(30)]
    check(model, weights(model, lambda weight: weight), pairs, preserve, 0, Silent())
    assert 0 < sampled[0] < 2 * prompts * (STEPS - 1)
    # Two for each concept and preserve prompt, and two for each concept prompt's references.
    assert sum(rows) - sampled[0] == 6 * prompts


def test_the_seventh_prompt_of_a_large_denoiser_is_not_read(model, monkeypatch: pytest.MonkeyPatch):
    """The figures are those of the spread prompts, whichever way the model was found large."""
    pairs = [(f"van gogh {i}", f"monet {i}") for i in range(12)]
    changed = weights(model, random_change(0.1))
    half = check(model, changed, spread(pairs, 6), PRESERVE, 0, Silent())
    assert check(model, changed, pairs, PRESERVE, 0, Silent()) != half
    monkeypatch.setattr("forgetcli.editing.check_limits.LARGE_DENOISER", 1)
    assert check(model, changed, pairs, PRESERVE, 0, Silent()) == half


def test_check_leaves_the_model_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.text_encoder.state_dict().items()}
    check(model, weights(model, lambda weight: weight * float("nan")), PAIRS, PRESERVE, 0, Silent())
    assert all(
        torch.equal(tensor, before[name])
        for name, tensor in model.text_encoder.state_dict().items()
    )


def test_spread_takes_from_the_whole_list():
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread(["a", "b"], 4) == ["a", "b"]
    assert len(set(spread(range(17), 16))) == 16


# apply, from recipe to published folder


def test_apply_publishes_a_verified_edit_and_the_second_time_uses_the_cache(apply, base: Path):
    before = digests(base)
    first = apply()
    output = first.output
    assert digests(base) == before
    assert first.check["moved"] > NO_OP
    assert first.check["preserve_drift"] < WRECKED
    assert first.cache == {"hits": 0, "misses": 6}
    changed = {name for name, digest in before.items() if digests(output)[name] != digest}
    assert changed == {"text_encoder/model.safetensors"}
    own = {
        manifests.MANIFEST,
        manifests.REPORT,
        manifests.RECIPE,
        manifests.CARD,
        ledger.LEDGER,
        ledger.TENSORS,
    }
    assert set(digests(output)) - set(before) == own
    assert (output / manifests.RECIPE).read_text() == RECIPE
    report = json.loads((output / manifests.REPORT).read_text())
    assert report["check"] == first.check and 1 < len(report["losses"]) <= 31
    assert [site["name"] for site in report["sites"]] == [site.name for site in first.sites]
    assert all(
        0 < site.stored_error < 1e-3 for site in first.sites
    )  # float32 keeps nearly all of Δ
    assert {"load", "edit", "check", "write", "total"} <= set(first.seconds)
    assert integrity.verify(output, base=base).ok

    written = digests(output)
    second = apply(force=True)
    assert second.cache == {"hits": 6, "misses": 0}
    weights_file = "text_encoder/model.safetensors"
    assert digests(output)[weights_file] == written[weights_file]  # same seed, same bytes
    assert integrity.verify(output, base=base).ok
    with open(output / weights_file, "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    assert not integrity.verify(output, base=base).ok


def test_the_edited_folder_loads_in_diffusers_with_the_edited_weights(apply, base: Path, model):
    from diffusers import StableDiffusionPipeline

    result = apply()
    loaded = StableDiffusionPipeline.from_pretrained(result.output, safety_checker=None)
    edited = loaded.text_encoder.state_dict()
    unedited = model.text_encoder.state_dict()
    differing = {name for name, tensor in unedited.items() if not torch.equal(edited[name], tensor)}
    assert differing == {site.parameter for site in model.pick_sites([1, 2, 3])}


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("edit.no-effect", ("steps = 30", "steps = 30\ndamping = 1e9")),
        ("edit.no-such-site", ("sites = [1, 2, 3]", "sites = [9]")),
    ],
)
def test_an_edit_that_fails_leaves_nothing(
    apply, tmp_path: Path, code: str, change: tuple[str, str]
):
    with pytest.raises(EditError) as caught:
        apply(change)
    assert caught.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["art.toml"]


def test_an_edit_that_fails_leaves_the_old_output_as_it_was(apply, tmp_path: Path, base: Path):
    output = apply().output
    old = digests(output)
    with pytest.raises(EditError) as caught:
        apply(("steps = 30", "steps = 30\ndamping = 1e9"), force=True)
    assert caught.value.code == "edit.no-effect"
    assert digests(output) == old
    assert integrity.verify(output, base=base).ok
    with pytest.raises(OutputError) as refused:
        apply()
    assert refused.value.code == "output.exists"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["art.toml", "edited"]
    apply(("lam = 0.001", "lam = 0.01"), force=True)  # a good one does replace it
    assert digests(output) != old


def test_an_output_within_the_base_is_refused(apply, base: Path, tmp_path: Path):
    before = digests(base)
    for output in (base, base / "edited", base.parent):
        with pytest.raises(ForgetError) as caught:
            (tmp_path / "art.toml").write_text(RECIPE)
            pipeline.apply(tmp_path / "art.toml", model=str(base), output=output, force=True)
        assert caught.value.code == "output.overlaps-base"
    assert digests(base) == before


def test_float16_storage_loses_part_of_the_edit_and_the_report_says_how_much(
    apply, tmp_path: Path, base: Path
):
    half = tiny_sd(tmp_path / "half", torch.float16)
    (tmp_path / "art.toml").write_text(RECIPE)
    result = pipeline.apply(
        tmp_path / "art.toml", model=str(half), output=tmp_path / "edited16", device="cpu"
    )
    exact = apply()
    for stored, kept in zip(result.sites, exact.sites, strict=True):
        assert 1e-5 < stored.stored_error < 0.5
        assert stored.stored_error > 100 * kept.stored_error  # float32 of the same edit
    assert integrity.verify(result.output, base=half).ok


@pytest.mark.parametrize(("size", "unchanged"), [(1e-2, 0.02), (1e-3, 0.21), (1e-4, 0.82)])
def test_float16_swallows_small_edits(size: float, unchanged: float):
    """Share of entries that an edit of this relative size leaves unchanged once it is stored."""
    generator = torch.Generator().manual_seed(0)
    weight = (0.02 * torch.randn(500, 500, generator=generator)).half().double()
    delta = size * 0.02 * torch.randn(500, 500, generator=generator, dtype=torch.float64)
    assert float(
        (patch.round_to(weight + delta, torch.float16) == weight).double().mean()
    ) == pytest.approx(unchanged, abs=0.015)
    assert float((patch.round_to(weight + delta, torch.float32) == weight).double().mean()) < 0.01


def test_a_plan_names_what_would_be_done_and_writes_nothing(base: Path, tmp_path: Path):
    (tmp_path / "art.toml").write_text(RECIPE)
    found = plan(tmp_path / "art.toml", model=str(base)).as_dict()
    assert found["pairs"] == [list(pair) for pair in PAIRS]
    assert found["preserve"] == 5  # the empty prompt is one
    assert found["parameters"]["edit"]["min_rank"] == 24
    assert [path.name for path in tmp_path.iterdir()] == ["art.toml"]


def test_a_base_that_is_broken_itself_is_not_blamed_on_the_edit(model, base):
    (site,) = model.pick_sites([1])
    broken = {
        ("unet", "conv_out.weight"): torch.full_like(model.unet.conv_out.weight, float("nan"))
    }
    edit = Edit(
        {(site.component, site.parameter): site.module.weight.detach().double()}, (), (), [], {}
    )
    with model.weights(broken), pytest.raises(ModelError) as refused:
        check(model, edit, PAIRS, PRESERVE, 0, Silent())
    assert refused.value.code == "model.not-finite"
