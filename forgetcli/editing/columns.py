"""Settings of the columns that an edit of the cross-attention holds. No torch: recipes are checked
without it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# What holds in edited folders that were made before these keys existed.
EARLIER: dict[str, Any] = {"edit.prior": 0.0, "edit.empty": True, "edit.columns": "distinct"}


class HeldColumns(BaseModel):
    """Which contexts are held, besides those that `positions` picks of the preserve prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prior: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0,
        description="Weight of the recipe's prior ([preserve] prior) relative to that of the "
        "preserve prompts. 0: none.",
    )
    empty: bool = Field(
        True,
        description="Also hold the empty prompt, at all its positions: guidance reads them in "
        "every step.",
    )
    columns: Literal["distinct", "each"] = Field(
        "distinct",
        description="'distinct': every context counts once, and none is held that the edit maps. "
        "'each': every occurrence counts, as published.",
    )
