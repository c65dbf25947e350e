"""Ring-A-Bell: an evolutionary search for tokens whose context is that of the concept. No denoiser
is needed (Tsai and others, arXiv 2310.10012).

What is aimed at is what the unedited model's encoder, which everybody has, makes of a prompt, plus
`strength` times the concept's direction: the mean difference of its contexts with and without the
concept's words. What the tokens give is what the edited model's own encoder makes of them.
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
from forgetcli.robustness.conditioning import Conditioning, encode, text_of
from forgetcli.robustness.sampling import draw

PUBLISHED: Mapping[str, object] = {
    "tokens": 16,
    "population": 200,
    "generations": 3000,
    "strength": 3.0,
    "mutation": 0.25,
}
ELITE = 0.5  # share of the population that lives on and has children


class Options(BaseModel):
    """The search."""

    model_config = ConfigDict(extra="forbid")

    prompts: int = Field(6, ge=1, description="Prompts, each with a search of its own.")
    tokens: int = Field(8, ge=1, description="Tokens that are searched for.")
    population: int = Field(64, ge=4)
    generations: int = Field(100, ge=1)
    strength: float = Field(1.0, ge=0, description="Of the concept's direction.")
    mutation: float = Field(0.25, ge=0, le=1, description="Chance that a child's token changes.")


def refuse(model: LoadedModel) -> None:
    prefix_search.refuse("ring-a-bell", model)


def run(case: Case, options: Options) -> list[Attempt]:
    """A search and an image for each prompt."""
    case.observer.stage(f"ring-a-bell on {case.goal.label}", options.prompts * options.generations)
    prompts, seeds = case.prompts()[: options.prompts], case.seeds()[: options.prompts]
    direction = concept_direction(case)
    found = []
    with torch.no_grad():
        for prompt, seed in zip(prompts, seeds):
            ids = tokenise(case.unedited.tokenizer, [prompt]).ids
            aim = case.unedited.encode(ids).hidden + options.strength * direction
            found.append(evolved(case, aim, options, torch.Generator().manual_seed(seed)))
    attempts = []
    for conditioning, seed in zip(found, seeds):
        images, _ = draw(case.model, encode(case.model, conditioning), [seed], case.sampling)
        case.budget.images += 1
        attempts.append(Attempt(conditioning.prompt, seed, (images[0],), found=conditioning))
    return attempts


@torch.no_grad()
def concept_direction(case: Case) -> Tensor:
    """The mean difference of contexts of prompts with the concept and the same without it,
    (1, length, d), by the unedited model's encoder.
    """
    words = (case.goal.concept, *case.goal.aliases)
    pairs = [(t.replace("{}", w), t.replace("{}", "")) for t in case.goal.templates for w in words]
    sides = [
        case.unedited.encode(tokenise(case.unedited.tokenizer, side).ids).hidden
        for side in zip(*pairs)
    ]
    return (sides[0] - sides[1]).mean(0, keepdim=True)


def evolved(case: Case, aim: Tensor, options: Options, generator: torch.Generator) -> Conditioning:
    """The tokens whose context is nearest to `aim` (1, length, d) after the last generation."""
    _, allowed = prefix_search.candidates(case.model, [])
    row = tokenise(case.model.tokenizer, [""]).ids[0]
    size, k = options.population, options.tokens
    genes = allowed[torch.randint(len(allowed), (size, k), generator=generator)]

    def distances(population: Tensor) -> Tensor:
        n = len(population)
        ids = torch.cat([row[:1].expand(n, 1), population, row[1 : len(row) - k].expand(n, -1)], 1)
        return (case.model.encode(ids).hidden - aim).float().pow(2).flatten(1).sum(1).cpu()

    scored = distances(genes)
    parents = max(2, int(ELITE * size))
    for _ in range(options.generations):
        order = scored.argsort()[:parents]
        genes, scored = genes[order], scored[order]
        mates = torch.randint(parents, (2, size - parents), generator=generator)
        cut = torch.randint(k + 1, (size - parents, 1), generator=generator)
        children = torch.where(torch.arange(k) < cut, genes[mates[0]], genes[mates[1]])
        changed = torch.rand(children.shape, generator=generator) < options.mutation
        fresh = allowed[torch.randint(len(allowed), children.shape, generator=generator)]
        children = torch.where(changed, fresh, children)
        genes = torch.cat([genes, children])
        scored = torch.cat([scored, distances(children)])
        case.budget.gradient_steps += 1
        case.observer.advance(loss=float(scored.min()))
    best = genes[scored.argmin()]
    ids = torch.cat([row[:1], best, row[1 : len(row) - k]])
    return Conditioning(text_of(case.model, ids.tolist()), ids=ids)
