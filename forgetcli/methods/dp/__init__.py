"""DP: every cross-attention key and value layer, in the left null space of what stays.

    Δ = W (C* − C) X⁺ U₂ᵀ,   X = U₂ᵀC,   c* = S (SᵀS)⁺ Sᵀ c

C are the concepts' contexts. U₂ spans the directions that the preserve prompts and the prior do not
use, or hardly use: their principal directions are left out of it (low-rank truncation). S spans
safe contexts; with one safe vector for each concept, c* is that vector, as in UCE. In Stable
Diffusion 3 and FLUX, which have no cross-attention, it edits the two layers that read prompts.

Zhang et al., Closed-Form Concept Erasure via Double Projections (arXiv 2604.10032). The paper and
its code could not be read here: the equations are those of a public summary of it
(github.com/zhaoyang97/Paper-Notes-en). They are for one column, Z = b xᵀ/‖x‖²; several are solved
here by the smallest least-squares solution, Z = B X⁺, which is the same for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forgetcli.editing.columns import HeldColumns
from forgetcli.editing.cost import Cost
from forgetcli.editing.search_space import Choice, Range

if TYPE_CHECKING:
    from forgetcli.editing.task import Task


class EditSettings(HeldColumns):
    """Parameters of the closed form."""

    proxy: Literal["target", "targets", "safe"] = Field(
        "target",
        description="c*: the target's context, as in UCE ('target'), or the concept's projection "
        "onto the span of all targets' contexts ('targets') or of those and the preserve prompts' "
        "('safe').",
    )
    safe_energy: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9,
        description="proxy = 'safe': the span holds this share of the safe contexts' directions. "
        "Where the prompts span everything, 1 leaves nothing to edit.",
    )
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        3e-3,
        description="Null space: directions of the preserved contexts with σ² below threshold × "
        "mean σ² are free. 1e-20 is the exact null space.",
    )
    min_rank: Annotated[int, Field(ge=0)] = Field(
        16, description="Smallest allowed dimension of the null space."
    )
    cutoff: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2,
        description="Least squares: directions of the concepts' contexts with a singular value "
        "below cutoff × the largest are left as they are. Larger values change the weights less.",
    )
    positions: Literal["last", "prompt-last", "from-last", "all"] = Field(
        "last",
        description="Tokens that are edited: the last token of the subject ('last') or of the "
        "prompt ('prompt-last'), the subject's and all after it ('from-last'), or all tokens "
        "('all').",
    )
    layers: Literal["values", "keys", "both"] = Field(
        "both",
        description="Cross-attention layers that are edited. Denoisers without cross-attention "
        "have two other layers, which are edited whatever this says.",
    )


class Parameters(BaseModel):
    """The recipe tables that belong to this method."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    edit: EditSettings = EditSettings()


SEARCH = {
    "edit.threshold": Range(1e-5, 1e-1, log=True),
    "edit.cutoff": Range(1e-3, 0.5, log=True),
    "edit.proxy": Choice(("target", "targets", "safe")),
    "edit.positions": Choice(("last", "from-last", "all")),
}


def cost(task: Task, parameters: Parameters) -> Cost:
    """What the edit asks of the model: every prompt is encoded once."""
    others = task.prior_size if parameters.edit.prior else 0
    return Cost(encoded=2 * len(task.pairs) + len(task.preserve) + others)
