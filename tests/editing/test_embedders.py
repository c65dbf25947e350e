"""Claims: in Stable Diffusion 3 and FLUX the closed forms edit the two layers that read prompts;
there, the concept's columns give what the target's gave, and preserved columns what they gave.

The columns are read without `forgetcli.editing`, at positions found by hand.
"""

from __future__ import annotations

from pathlib import Path

import pipelines
import pytest
import torch
from pipelines import POSITIONS
from torch import Tensor

from forgetcli import methods, models
from forgetcli.checkpoint import base
from forgetcli.editing.context_columns import pair_columns, prompt_columns
from forgetcli.editing.context_layers import context_layers
from forgetcli.editing.context_sources import pooled_embedding, token_states
from forgetcli.editing.edit import Edit
from forgetcli.editing.task import Task
from forgetcli.linalg import centroids
from forgetcli.models.tokens import tokenise
from forgetcli.progress import Silent

HIDDEN = ("transformer", "context_embedder.weight")
POOLED = ("transformer", "time_text_embed.text_embedder.linear_1.weight")
T5_LENGTHS = {"sd3": 256, "flux": 512}
# In "van gogh", the last word is CLIP's third token, after the start token, and T5's second.
LAST = {"sd3": (2, POSITIONS + 1), "sd3-without-t5": (2,), "flux": (1,)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    """A model by name, made when first asked for."""
    root: Path = tmp_path_factory.mktemp("embedders")
    made: dict = {}

    def model(name: str):
        if name not in made:
            family, _, variant = name.partition("-")
            options = {"t5": False} if variant else {}
            folder = getattr(pipelines, f"tiny_{family}")(root / name, **options)
            made[name] = models.load(base.resolve(folder), device="cpu")
        return made[name]

    return model


def edit(model, method: str, task: Task, **tables) -> Edit:
    parameters = methods.get(method).Parameters.model_validate(tables)
    return methods.load_edit(method)(model, task, parameters, Silent())


def read(model, prompt: str) -> tuple[Tensor, Tensor]:
    """What the transformer reads of a prompt: (positions, d) and (d',)."""
    with torch.no_grad():
        context = model.encode(tokenise(model.tokenizer, [prompt]).ids)
    return context.hidden[0].double(), context.pooled_embeddings[0].double()


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def before(model, key: tuple[str, str]) -> Tensor:
    return model.transformer.get_parameter(key[1]).detach().double()


@pytest.mark.parametrize("name", LAST)
def test_the_embedders_read_the_target_for_the_concept(name, loaded):
    """Catches: T5's positions shifted by one; the pooled embedding left out; T5's part of SD3's
    context left out, or asked of a model without T5.
    """
    model = loaded(name)
    task = Task((("van gogh", "monet picture"),), preserve=("starry night", "painting by a dog"))
    settings = {"lam": 1e-10, "empty": False, "prior": 0.0}
    edited = edit(model, "uce", task, edit=settings).weights
    assert set(edited) == {HIDDEN, POOLED}
    (concept, concept_pooled), (target, target_pooled), (kept, kept_pooled) = (
        read(model, prompt) for prompt in ("van gogh", "monet picture", "starry night")
    )
    W, W_old = edited[HIDDEN], before(model, HIDDEN)
    for last in LAST[name]:  # all three prompts have two words, one token each
        assert relative(W @ concept[last], W_old @ target[last]) < 1e-6
        assert relative(W @ kept[last], W_old @ kept[last]) < 1e-6
        # Neither is so before the edit, nor at the token in front.
        assert relative(W_old @ concept[last], W_old @ target[last]) > 1e-2
        assert relative(W @ concept[last - 1], W_old @ target[last - 1]) > 1e-2
    V, V_old = edited[POOLED], before(model, POOLED)
    assert relative(V @ concept_pooled, V_old @ target_pooled) < 1e-6
    assert relative(V @ kept_pooled, V_old @ kept_pooled) < 1e-6
    assert relative(V_old @ concept_pooled, V_old @ target_pooled) > 1e-2


def test_columns_of_t5_are_of_whole_prompts(loaded):
    """Catches: T5's columns identified by the words before them; a start token assumed in T5; an
    empty target's end token missed; a column of the concept mapped twice.
    """
    source, n = token_states(loaded("flux")), T5_LENGTHS["flux"]
    pairs = pair_columns(source, [("a dog", "a cat")], "all")
    assert {position for _, _, position in pairs.changed} == set(range(n))  # "a" has read "dog"
    assert prompt_columns(source, ["a dog"], "all", pairs).shape[1] == 0
    assert prompt_columns(source, ["a dog house"], "all", pairs).shape[1] == n
    assert prompt_columns(source, ["a dog house", "a dog house"], "last").shape[1] == 1

    (part,) = source.parts
    ids = part.rows(tokenise(source.model.tokenizer, ["a van gogh picture", "dog", ""]))
    places = range(n)
    for concept, target in ((ids[0], ids[1]), (ids[1], ids[0]), (ids[0], ids[2])):
        matched = part.matched(concept, target, "aligned")
        assert len(dict(matched)) == len(matched)
        assert {0, 1, 2, 3, 4} <= dict(matched).keys() or concept == ids[1]
        assert all(i in places and j in places for i, j in matched)
    # An empty target's end token stands for it, and for the concept's end token.
    assert part.matched(ids[1], ids[2], "last") == [(0, 0)]
    assert part.matched(ids[0], ids[2], "prompt-last") == [(3, 0)]
    assert part.matched(ids[0], ids[2], "from-last")[:3] == [(3, 0), (4, 0), (5, 1)]

    # CLIP's part of SD3's context knows that "a dog house" begins with "a dog".
    sd3 = token_states(loaded("sd3"))
    pairs = pair_columns(sd3, [("a dog", "a cat")], "last")
    dog = prompt_columns(sd3, ["a dog house"], "all")
    assert dog.shape[1] == POSITIONS + T5_LENGTHS["sd3"]
    assert prompt_columns(sd3, ["a dog house"], "all", pairs).shape[1] == dog.shape[1] - 1


@pytest.mark.parametrize("method", ["uce", "rece", "speed", "mace-cf", "oce", "dp"])
def test_every_closed_form_moves_concepts_more_than_other_prompts(method, loaded):
    """Catches: a method that leaves a group out, or takes one group's map for the other."""
    model = loaded("sd3")
    task = Task((("van gogh", "monet"),), preserve=("", "a cat"), heldout=("a house",))
    tables = {"speed": {"prior": {"weight": 0.0}}}
    edited = edit(model, method, task, **tables.get(method, {"edit": {"prior": 0.0}}))
    assert set(edited.weights) == {HIDDEN, POOLED}
    assert len(edited.losses) == (method == "rece")
    for group, report in zip(context_layers(model), edited.sites, strict=True):
        (site,) = group.sites
        pairs = pair_columns(group.source, task.pairs, "last")
        W_old, W = (
            site.module.weight.double(),
            edited.weights[site.component, site.parameter],
        )
        requested = W_old @ (pairs.targets - pairs.concepts)
        moved = (W - W_old) @ pairs.concepts
        assert (moved * requested).sum() > 0.1 * requested.square().sum()
        assert report.preserve_drift < 0.5 * float(moved.norm() / (W_old @ pairs.concepts).norm())


def test_speed_holds_the_empty_prompt(loaded):
    """Catches: invariants that leave the pooled embedding or T5's part out."""
    model = loaded("flux")
    task = Task((("van gogh", "monet"),), preserve=("a cat",))
    hidden, pooled = read(model, "")
    columns = {HIDDEN: centroids(hidden.T, 2), POOLED: pooled[:, None]}

    def drifts(invariants: int) -> list[float]:
        settings = {"edit": {"invariants": invariants}, "prior": {"weight": 0.0}}
        weights = edit(model, "speed", task, **settings).weights
        return [relative(weights[key] @ K, before(model, key) @ K) for key, K in columns.items()]

    assert max(drifts(2)) < 1e-12 and min(drifts(0)) > 1e-4
    (column,) = prompt_columns(pooled_embedding(model), [""], "all").T
    assert torch.allclose(column, pooled)
