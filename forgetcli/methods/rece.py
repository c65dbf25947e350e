"""RECE: UCE, and then rounds that look for the concept in the edited model and erase what they
find.

A round asks which contexts the edited layers W_n would still turn into what the unedited W₀ put out
for the concept,

    c' = (λ_a I + Σ W_nᵀW_n)⁻¹ (Σ W_nᵀW₀) c       summed over all cross-attention layers: one c' for
                                                  all of them

and erases these as UCE does, W_{n+1} = (λW_n + η_e Σ v*c'ᵀ + η_p Σ W_n c_p c_pᵀ)(λI + η_e Σ c'c'ᵀ +
η_p Σ c_p c_pᵀ)⁻¹ with
v* = W_n c*. λ_a keeps c' small, and with it what the round changes besides.
Gong et al., Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models (arXiv
2407.12383).

As published, a round asks nothing of c itself and may undo what the stages before it have done;
``hold`` asks that W_{n+1}c
stay W_n c. Measured on the embedded model (dog → cat, three rounds, λ_a = 0.1, ten pictures): a dog
is seen in seven without it,
in none with it.

Since every stage has the form W_{n+1} = W_n (I + T_n) with T_n the same for all layers, W_n = W₀A_n
with one A_n.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.edit import Edit
    from forgetcli.editing.task import Task
    from forgetcli.progress import Observer

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EditSettings(BaseModel):
    """The closed form of every stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lam: Weight = Field(0.1, description="λ: pulls towards the weights before the stage")
    erase: Weight = Field(
        1.0, description="η_e: weight of the concepts, and of what the rounds find"
    )
    preserve: Weight = Field(0.1, description="η_p: weight of the preserve prompts")
    positions: Literal["last", "from-last", "all"] = Field(
        "from-last",
        description="tokens that are edited: the last of the subject, or also all after it, or all",
    )


class AdversarialSettings(BaseModel):
    """The rounds after the first stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    epochs: Annotated[int, Field(ge=0)] = Field(
        1,
        description="rounds; published: 1 for styles and objects, 2 or 3 for unsafe content; 0 is UCE",
    )
    lam: Weight = Field(
        1e-3,
        description="λ_a: larger looks less far; published: 0.001 for styles and hard objects, 0.1 for easy ones and unsafe content",
    )
    hold: bool = Field(
        False,
        description="also hold the concepts where the stages before have put them, which the published rounds may undo",
    )


class Parameters(BaseModel):
    """The recipe's tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()
    adversarial: AdversarialSettings = AdversarialSettings()


SEARCH = {
    "edit.lam": Range(1e-2, 1e2, log=True),
    "edit.preserve": Range(1e-2, 1e1, log=True),
    "adversarial.epochs": Range(1, 5),
    "adversarial.lam": Range(1e-3, 1e1, log=True),
    "adversarial.hold": Choice((False, True)),
}


def edit(model, task: Task, parameters: Parameters, observer: Observer) -> Edit:
    """New weights for all concepts of the recipe; `losses` is, by round, how much of the concepts
    was still to be found:
    Σ‖W₀c‖² − min Σ‖W_n c' − W₀c‖² − λ_a Σ‖c'‖², relative to the first term (1: all of it).

    Raises:
        EditError: a prompt is too long, or the linear algebra cannot be done.
    """
    import torch

    from forgetcli.editing.closed_form import stored_weight
    from forgetcli.editing.cross_attention import (
        edited,
        heldout_columns,
        pair_columns,
        pick,
        prompt_columns,
    )
    from forgetcli.linalg import adversarial_columns, ridge_map

    settings, rounds, sites = parameters.edit, parameters.adversarial, pick(model)
    observer.stage("cross-attention", 1 + rounds.epochs)
    pairs = pair_columns(model, task.pairs, settings.positions)
    preserve = prompt_columns(model, task.preserve, settings.positions, pairs)
    weights = {site.name: stored_weight(model.base, site) for site in sites}  # W₀
    gram = sum(W.T @ W for W in weights.values())  # (d, d)

    def erase(columns, hold=False):
        stay = (
            torch.cat([preserve, pairs.concepts * (settings.erase / settings.preserve) ** 0.5], 1)
            if hold
            else preserve
        )
        return ridge_map(
            columns, pairs.targets, stay, settings.lam, settings.erase, settings.preserve
        )

    solved, found = erase(pairs.concepts), []
    A = torch.eye(len(gram), dtype=torch.float64) + solved.matrix  # W₁ = W₀A
    observer.advance()
    for _ in range(rounds.epochs):
        cross = A.T @ gram  # Σ W_nᵀW₀
        adversarial = adversarial_columns(cross @ A, cross, pairs.concepts, rounds.lam)
        # at the minimum, the objective is its constant minus ⟨c', Σ W_nᵀW₀ c⟩
        found.append(
            float(
                (adversarial * (cross @ pairs.concepts)).sum()
                / ((gram @ pairs.concepts) * pairs.concepts).sum()
            )
        )
        solved = erase(adversarial, rounds.hold)
        A = A + A @ solved.matrix
        observer.advance(found=found[-1])
    deltas = {name: W @ A - W for name, W in weights.items()}
    return edited(
        model,
        deltas,
        preserve,
        solved.rcond,
        pairs,
        heldout_columns(model, task.heldout, settings.positions),
        losses=tuple(found),
    )
