"""Concept inversion: the learned word in the place of a known one, targets of the denoiser, and the
descent, on tiny real pipelines.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from pipelines import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

from forgetcli import models
from forgetcli.checkpoint import base
from forgetcli.editing import inversion
from forgetcli.editing.inversion import LearnedToken, concept_latents, invert_context, invert_token
from forgetcli.errors import EditError
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Silent

FAMILIES = {"sd": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request, tmp_path_factory: pytest.TempPathFactory):
    folder = FAMILIES[request.param](tmp_path_factory.mktemp("inversion") / request.param)
    return models.load(base.resolve(folder), device="cpu", dtype="float32")


def contexts(model, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(tokenise(model.tokenizer, [prompt]).ids).hidden


def embedding(model, word: str) -> dict[str, torch.Tensor]:
    return {
        component: getattr(model, component).get_input_embeddings().weight[number].detach()
        for component, number in inversion.token_ids(model, word).items()
    }


def test_a_word_with_the_embedding_of_another_word_reads_as_that_word(model):
    token = LearnedToken("sketch", embedding(model, "dog"))
    before = contexts(model, "a sketch by monet")
    with token.inserted(model):
        assert torch.equal(
            contexts(model, token.prompt("a {} by monet")), contexts(model, "a dog by monet")
        )
    assert torch.equal(contexts(model, "a sketch by monet"), before)
    assert not torch.equal(before, contexts(model, "a dog by monet"))


def test_a_word_starts_at_the_mean_of_the_vocabulary_where_the_text_has_no_tokens(model):
    """An empty target has none; it must not start at the mean of nothing, which is no number."""
    mean, _ = inversion.starting_vectors(model, None)
    empty, _ = inversion.starting_vectors(model, "")
    dog, _ = inversion.starting_vectors(model, "dog")
    for name, vector in mean.items():
        assert vector.isfinite().all() and torch.equal(empty[name], vector)
        assert not torch.equal(dog[name], vector)


@pytest.mark.parametrize(
    ("given", "low", "high"), [((0, 1000), 0, 1000), ((600, 1000), 600, 1000), ((0, 300), 0, 300)]
)
def test_the_search_looks_at_the_times_that_were_asked_for(
    model, monkeypatch: pytest.MonkeyPatch, given: tuple[int, int], low: int, high: int
):
    seen: list[torch.Tensor] = []
    denoise = model.denoise

    def noted(noisy, t, context):
        seen.append(t)
        return denoise(noisy, t, context)

    monkeypatch.setattr(model, "denoise", noted)
    latents = torch.zeros((1, *model.latent_shape))
    invert_token(model, latents, steps=2, batch=40, timesteps=given, observer=Silent())
    times = torch.cat(seen)
    assert low <= times.min() < low + 0.2 * (high - low)
    assert high - 0.2 * (high - low) < times.max() < high


def test_the_search_lowers_the_loss_and_leaves_the_model_alone(model):
    weights = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    latents = concept_latents(
        model, ["a dog", "dog picture"], guidance=1.0, seed=1, steps=2, observer=Silent()
    )
    options = {"steps": 4, "batch": 2, "seed": 3, "observer": Silent()}
    token = invert_token(model, latents, prompts=("{}", "a {}"), **options)
    again = invert_token(model, latents, prompts=("{}", "a {}"), **options)
    assert set(token.vectors) == {encoder.component for encoder in model.encoders}
    for component, vector in token.vectors.items():
        assert torch.equal(vector, again.vectors[component])
        table = getattr(model, component).get_input_embeddings().weight
        assert not torch.allclose(vector, table.mean(0))  # where it started
        assert vector.shape == table.shape[1:]
    assert all(torch.equal(v, weights[k]) for k, v in model.denoiser.state_dict().items())
    free = invert_context(model, latents, **options)
    assert free.context.hidden.shape == contexts(model, "").shape
    assert not torch.equal(free.context.hidden, contexts(model, ""))


def test_the_descent_finds_a_planted_minimum():
    """A linear "denoiser" whose error is smallest at one context: the descent must find it."""
    wanted = torch.tensor([1.0, -2.0, 0.5])
    scheduler = SimpleNamespace(
        config={"num_train_timesteps": 10},
        add_noise=lambda clean, noise, t: noise,
    )
    scheduler.config = SimpleNamespace(num_train_timesteps=10, get=lambda name, default: "sample")
    model = SimpleNamespace(
        sampler=lambda steps: scheduler,
        denoise=lambda noisy, t, context: (context - wanted).expand(len(noisy), -1),
    )
    free = torch.zeros(3, requires_grad=True)
    groups = [{"params": [free], "lr": 0.1}]
    losses = inversion._descend(
        model, torch.zeros(4, 3), lambda rows: free, 1, groups, 200, 2, (0, 10), 0, Silent()
    )
    assert torch.allclose(free.detach(), wanted, atol=1e-2)
    assert losses[-1] < 1e-3 < losses[0]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_recovers_the_clean_latents(kind: str):
    """With the target for a prediction, one DDIM step to t = 0 gives x₀ back."""
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(1000)
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([300])
    target = inversion.prediction_target(scheduler, clean, noise, t)
    noisy = scheduler.add_noise(clean, noise, t)
    found = scheduler.step(target, 300, noisy).pred_original_sample
    assert torch.allclose(found, clean, atol=1e-4)
    assert not torch.allclose(noisy, clean, atol=1e-1)


def test_a_flow_leads_from_the_clean_latents_to_noise():
    from forgetcli.models.flow_sampler import FlowSampler

    scheduler = FlowSampler()
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([300.0])
    velocity = inversion.prediction_target(scheduler, clean, noise, t)
    assert torch.allclose(scheduler.add_noise(clean, noise, t) - 0.3 * velocity, clean, atol=1e-5)


def test_a_model_without_a_common_word_is_refused(model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inversion, "token_ids", lambda model, word: {})
    with pytest.raises(EditError, match=r"no word in common") as error:
        inversion.borrowed_word(model, ["{}"])
    assert error.value.code == "edit.no-word"
