"""Ring-A-Bell: an evolutionary search for tokens whose context is near the concept's context. The
search needs no denoiser (Tsai et al., arXiv 2310.10012).

The target context is the unedited model's context of a prompt, plus `strength` times the direction
of the concept. The direction is the mean difference between contexts of prompts with and without
the concept's words. The candidate tokens are encoded by the edited model's own text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from forgetcli.models.base import LoadedModel
from forgetcli.models.tokens import tokenise
from forgetcli.robustness import prefix_search
from forgetcli.robustness.attacks import Attempt, Case
from forgetcli.robustness.conditioning import Conditioning, text_of

PUBLISHED: Mapping[str, object] = {
    "tokens": 16,
    "population": 200,
    "generations": 3000,
    "strength": 3.0,
    "mutation": 0.25,
}
ELITE = 0.5  # share of the population that survives a generation and has children


class Options(BaseModel):
    """Settings of the search."""

    model_config = ConfigDict(extra="forbid")

    prompts: int = Field(6, ge=1, description="Number of prompts. Each has its own search.")
    tokens: int = Field(8, ge=1, description="Number of tokens to search for.")
    population: int = Field(64, ge=4)
    generations: int = Field(100, ge=1)
    strength: float = Field(1.0, ge=0, description="Factor of the concept's direction.")
    mutation: float = Field(
        0.25, ge=0, le=1, description="Chance that one of a child's tokens changes."
    )


def refuse(model: LoadedModel) -> None:
    prefix_search.refuse_several_encoders("ring-a-bell", model)


def run(case: Case, options: Options) -> list[Attempt]:
    """A search and an image for each prompt."""
    case.observer.stage(f"ring-a-bell on {case.goal.label}", options.prompts * options.generations)
    prompts = case.prompts()[: options.prompts]
    seeds = case.seeds()[: options.prompts]
    direction = concept_direction(case)
    conditionings = []
    with torch.no_grad():
        for prompt, seed in zip(prompts, seeds):
            ids = tokenise(case.unedited.tokenizer, [prompt]).ids
            target = case.unedited.encode(ids).hidden + options.strength * direction
            generator = torch.Generator().manual_seed(seed)
            conditionings.append(evolved(case, target, options, generator))
    return [
        prefix_search.attempt(case, conditioning, seed)
        for conditioning, seed in zip(conditionings, seeds)
    ]


@torch.no_grad()
def concept_direction(case: Case) -> Tensor:
    """The mean difference between the unedited model's contexts of prompts with and without the
    concept's words, shape (1, length, d).
    """
    words = (case.goal.concept, *case.goal.aliases)
    with_concept = [t.replace("{}", word) for t in case.goal.templates for word in words]
    without = [t.replace("{}", "") for t in case.goal.templates for _ in words]
    contexts = [
        case.unedited.encode(tokenise(case.unedited.tokenizer, prompts).ids).hidden
        for prompts in (with_concept, without)
    ]
    return (contexts[0] - contexts[1]).mean(0, keepdim=True)


def evolved(
    case: Case, target: Tensor, options: Options, generator: torch.Generator
) -> Conditioning:
    """The tokens whose context is nearest to `target` (1, length, d) after the last generation."""
    _, allowed = prefix_search.allowed_tokens(case.model, [])
    row = tokenise(case.model.tokenizer, [""]).ids[0]
    size = options.population
    k = options.tokens
    genes = allowed[torch.randint(len(allowed), (size, k), generator=generator)]

    def distances(population: Tensor) -> Tensor:
        n = len(population)
        ids = torch.cat([row[:1].expand(n, 1), population, row[1 : len(row) - k].expand(n, -1)], 1)
        return (case.model.encode(ids).hidden - target).float().pow(2).flatten(1).sum(1).cpu()

    scored = distances(genes)
    parents = max(2, int(ELITE * size))
    for _ in range(options.generations):
        order = scored.argsort()[:parents]
        genes = genes[order]
        scored = scored[order]
        mates = torch.randint(parents, (2, size - parents), generator=generator)
        cut = torch.randint(k + 1, (size - parents, 1), generator=generator)
        children = torch.where(torch.arange(k) < cut, genes[mates[0]], genes[mates[1]])
        # One token of a child changes, as in the authors' code.
        mutant = torch.rand(len(children), 1, generator=generator) < options.mutation
        place = torch.randint(k, (len(children), 1), generator=generator)
        changed = mutant & (torch.arange(k) == place)
        fresh = allowed[torch.randint(len(allowed), children.shape, generator=generator)]
        children = torch.where(changed, fresh, children)
        genes = torch.cat([genes, children])
        scored = torch.cat([scored, distances(children)])
        case.budget.gradient_steps += 1
        case.observer.advance(loss=float(scored.min()))
    best = genes[scored.argmin()]
    ids = torch.cat([row[:1], best, row[1 : len(row) - k]])
    return Conditioning(text_of(case.model, ids.tolist()), ids=ids)
