"""Claims: `[edit] layers` chooses the halves of the null-space edit; the cross-attention half
solves its least-squares problem; adversarial rounds add requests and respect their bound; an edited
folder carries both halves.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pipelines import tiny_sd
from pydantic import ValidationError

from forgetcli import export, methods, models, recipe
from forgetcli.artifact import integrity, manifest
from forgetcli.checkpoint import base
from forgetcli.editing import adversarial_rounds, finetuning, image_requests
from forgetcli.editing.check_limits import WRECKED_AT_IMAGES
from forgetcli.editing.context_columns import PairColumns, pair_columns, prompt_columns
from forgetcli.editing.context_map import ContextProblem, mean_moment
from forgetcli.editing.context_sources import token_states
from forgetcli.editing.edit import Edit
from forgetcli.editing.inversion import LearnedToken, token_ids
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.methods import nullspace
from forgetcli.models.tokens import tokenise
from forgetcli.pipeline.apply import apply
from forgetcli.pipeline.revert import revert
from forgetcli.pipeline.task import task_of
from forgetcli.progress import Silent

RECIPE = """\
[[concepts]]
concept = "van gogh"
target = "monet"

[prompts]
templates = ["{}", "a painting by {}"]

[preserve]
prompts = ["a picture of a cat", "a house", "a sketch of a dog", "a painting by monet"]

[edit]
sites = [1, 2]
lam = 0.01
min_rank = 16

[refine]
mode = "copy"

[robust]
budget = 2
images = 2
batch = 2
guidance = 1.0
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_sd(tmp_path_factory.mktemp("layers") / "sd", torch.float32)
    return models.load(base.resolve(folder), device="cpu")


def edit(model, *overrides: str) -> Edit:
    read = recipe.parse(RECIPE, overrides=overrides)
    return methods.load_edit("nullspace")(
        model,
        task_of(read, model.base, MomentCache()),
        nullspace.Parameters.model_validate(read.parameters),
        Silent(),
    )


BOTH, ATTENTION = "edit.layers=both", "edit.layers=cross-attention"


@pytest.fixture(scope="module")
def plain(model) -> Edit:
    """The edit of both halves, without rounds."""
    return edit(model, BOTH)


def test_the_layers_are_those_of_the_halves(model, plain: Edit):
    default, attention, both = edit(model), edit(model, ATTENTION), plain
    assert {component for component, _ in default.weights} == {"text_encoder"}
    assert {component for component, _ in attention.weights} == {"unet"}
    assert set(both.weights) == {*default.weights, *attention.weights}
    # The encoder's half does not know of the other one.
    assert all(torch.equal(both.weights[key], W) for key, W in default.weights.items())
    assert [site.name for site in both.sites] == [
        site.name for part in (default, attention) for site in part.sites
    ]
    assert set(both.keys) == {*default.keys, *attention.keys}
    assert not default.attacks and not both.attacks


def test_the_cross_attention_reads_targets_through_the_unedited_encoder(model):
    """Also when the edited encoder is swapped for the unedited one: the concept's contexts are
    those of the unedited encoder.
    """
    both = edit(model, BOTH, "context.lam=1e-9", "context.prior=0", "context.edited=0")
    pairs = pair_columns(token_states(model), [("van gogh", "monet")], "from-last")
    for name, site in model.cross_attention.items():
        W = site.module.weight.detach().double()
        new = both.weights[site.component, site.parameter]
        before = (W @ pairs.concepts - W @ pairs.targets).norm()
        after = (new @ pairs.concepts - W @ pairs.targets).norm()
        assert after < 0.35 * before, name


def test_the_map_is_the_least_squares_solution():
    """Against torch's solver of the stacked system, in which every set is divided by the root of
    its size.
    """
    generator = torch.Generator().manual_seed(0)

    def columns(n: int) -> torch.Tensor:
        return torch.randn(6, n, generator=generator, dtype=torch.float64)

    sets = tuple(PairColumns(columns(n), columns(n)) for n in (3, 9))
    preserve = columns(5)
    kept = preserve @ preserve.T
    problem = ContextProblem(sets, (1.0, 1.0), kept, lam=0.1)
    lam = 0.1 * float(kept.diagonal().mean())
    inputs = torch.cat(
        [
            *(s.concepts / s.concepts.shape[1] ** 0.5 for s in sets),
            preserve,
            lam**0.5 * torch.eye(6),
        ],
        1,
    )
    outputs = torch.cat(
        [
            *((s.targets - s.concepts) / s.concepts.shape[1] ** 0.5 for s in sets),
            torch.zeros(6, 11, dtype=torch.float64),
        ],
        1,
    )
    expected = torch.linalg.lstsq(inputs.T, outputs.T).solution.T
    assert torch.allclose(problem.solve().matrix, expected, atol=1e-10)
    # A set that occurs twice within itself weighs no more …
    doubled = PairColumns(sets[0].concepts.repeat(1, 2), sets[0].targets.repeat(1, 2))
    same = ContextProblem((doubled, sets[1]), (1.0, 1.0), kept, 0.1)
    assert torch.allclose(same.solve().matrix, expected, atol=1e-10)
    # … one that is requested once more does, as does one of twice the weight.
    more = problem.with_request(sets[0]).solve().matrix
    assert not torch.allclose(more, expected, atol=1e-3)
    twice = ContextProblem(sets, (2.0, 1.0), kept, lam=0.1).solve().matrix
    assert torch.allclose(more, twice, atol=1e-10)


def test_the_mean_moment_counts_every_column_once(model):
    prompts = ["a dog", "a house", "a dog"]
    columns = prompt_columns(token_states(model), prompts, "all")
    expected = columns @ columns.T / columns.shape[1]
    assert torch.allclose(mean_moment(token_states(model), prompts, "all"), expected, atol=1e-12)


def test_a_round_maps_what_the_inversion_found(model, plain: Edit, monkeypatch: pytest.MonkeyPatch):
    """The learned word's contexts reach the target's; without the round they do not."""
    monkeypatch.setattr(adversarial_rounds, "FAILED", -float("inf"))
    found: list[PairColumns] = []
    columns = adversarial_rounds.Target.columns

    def recorded(self, token: LearnedToken, encoder):
        found.append(columns(self, token, encoder))
        return found[-1]

    monkeypatch.setattr(adversarial_rounds.Target, "columns", recorded)
    robust = edit(model, BOTH, "robust.rounds=1", "robust.max_drift=100")
    assert [row["round"] for row in robust.attacks] == [1]
    assert robust.attacks[0]["concept"] == "van gogh"
    (request,) = found

    def miss(result: Edit) -> float:
        site = next(iter(model.cross_attention.values()))
        W = site.module.weight.detach().double()
        new = result.weights[site.component, site.parameter]
        return float((new @ request.concepts - W @ request.targets).norm())

    assert miss(robust) < 0.5 * miss(plain)
    again = edit(model, BOTH, "robust.rounds=1", "robust.max_drift=100")
    assert all(torch.equal(again.weights[key], W) for key, W in robust.weights.items())


def test_a_round_beyond_the_bound_is_not_taken(model, plain: Edit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adversarial_rounds, "FAILED", -float("inf"))
    bounded = edit(model, BOTH, "robust.rounds=3", "robust.max_drift=1e-6")
    assert len(bounded.attacks) == 1
    assert all(torch.equal(bounded.weights[key], W) for key, W in plain.weights.items())


def test_an_attack_that_fails_adds_nothing(model, plain: Edit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adversarial_rounds, "FAILED", float("inf"))
    robust = edit(model, BOTH, "robust.rounds=2")
    assert [row["round"] for row in robust.attacks] == [1, 2]
    assert all(torch.equal(robust.weights[key], W) for key, W in plain.weights.items())


def test_the_learned_words_contexts_begin_at_its_own_position(model):
    """With the embedding of the concept's word, the requests are the concept prompt's columns."""
    settings = nullspace.RobustSettings(images=1, guidance=1.0)
    target = adversarial_rounds.Target.of(
        model, [("a dog", "a cat")], settings, seed=0, observer=Silent()
    )
    number = token_ids(model, "dog")["text_encoder"]
    vector = model.text_encoder.get_input_embeddings().weight[number].detach()
    found = target.columns(LearnedToken("sketch", {"text_encoder": vector}), {})
    with torch.no_grad():
        dog = model.encode(tokenise(model.tokenizer, ["dog"]).ids).hidden[0].double()
        cat = model.encode(tokenise(model.tokenizer, ["a cat"]).ids).hidden[0].double()
    # The first template is the word alone, after the start token; "cat" follows the article.
    n = len(dog) - 2
    assert torch.allclose(found.concepts[:, :n], dog[1 : 1 + n].T)
    assert torch.allclose(found.targets[:, :n], cat[2:].T)


FINETUNE = ("robust.finetune=2", "robust.budget=2")


def test_the_fine_tuning_starts_at_the_closed_form_and_changes_the_whole_denoiser(
    model, plain: Edit, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(image_requests, "PICTURES", 4)
    monkeypatch.setattr(image_requests, "REPEATS", 2)
    closed, tuned = plain, edit(model, BOTH, *FINETUNE)
    names = {("unet", name) for name in finetuning.trainable(model.unet, "all")}
    assert {key for key in tuned.weights if key[0] == "unet"} == names
    assert names > {key for key in closed.weights if key[0] == "unet"}
    sizes = {site.name: site.delta_rel for site in tuned.sites}
    for (component, name), W in tuned.weights.items():
        start = closed.weights.get((component, name))
        if component == "text_encoder":
            assert torch.equal(W, start)
            continue
        before = model.unet.get_parameter(name).detach().double()
        assert not torch.equal(W, before)
        # Two steps of Adam: at most about 2 · lr in every entry.
        assert (W - (before if start is None else start)).abs().max() < 1e-3
        assert sizes[name.removesuffix(".weight")] == pytest.approx(
            float((W - before).norm() / before.norm().clamp_min(1e-300))
        )
    assert closed.attacks == () and tuned.attacks[0].keys() == {"turn", "concept", "loss_ratio"}
    assert closed.drift_limit is None and tuned.drift_limit == WRECKED_AT_IMAGES
    again = edit(model, BOTH, *FINETUNE)
    assert all(torch.equal(again.weights[key], W) for key, W in tuned.weights.items())


@pytest.mark.parametrize("setting", ["rounds", "finetune"])
def test_rounds_need_the_cross_attention(setting: str):
    with pytest.raises(ValidationError, match="layers = 'both' or 'cross-attention'"):
        nullspace.Parameters.model_validate({"robust": {setting: 1}})


def test_a_folder_carries_both_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adversarial_rounds, "FAILED", -float("inf"))
    sd = tiny_sd(tmp_path / "sd", torch.float16)
    read = recipe.parse(RECIPE, overrides=(BOTH, "robust.rounds=1", "robust.max_drift=100"))
    edited, options = tmp_path / "edited", {"device": "cpu", "strict": False}
    apply(read, model=str(sd), output=edited, **options)
    files = {tensor.file for tensor in manifest.load(edited).edited}
    assert {file.split("/")[0] for file in files} == {"text_encoder", "unet"}
    assert integrity.verify(edited, base=str(sd)).ok
    assert json.loads((edited / manifest.REPORT).read_text())["attacks"][0]["round"] == 1
    lora = export.export(edited, "lora", output=tmp_path / "lora")
    assert lora is not None
    back = tmp_path / "back"
    revert(edited, [1], output=back)
    for file in files:
        assert (back / file).read_bytes() == (sd / file).read_bytes()
        assert (edited / file).read_bytes() != (sd / file).read_bytes()
