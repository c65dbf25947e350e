"""How the ledger stores the keys of an edit's concept prompts, which later edits protect."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from forgetcli.artifact.ledger import Ledger
from forgetcli.artifact.ledger_files import keys_name
from forgetcli.linalg import Moment

if TYPE_CHECKING:
    from forgetcli.editing.edit import Keys


def stored(number: int, component: str, parameter: str, keys: Keys) -> dict[str, Tensor]:
    """The tensors, by name, in which an edit's keys at a layer are stored.

    These are d × n float32 numbers (the model's own precision, so nothing is lost) and how often
    each key occurs. If there are more keys than dimensions, the lower half of the float64 second
    moment is smaller and is stored instead.
    """
    name = keys_name(number, component, parameter)
    d, n = keys.columns.shape
    single = keys.columns.float()
    if n <= d and torch.equal(single.double(), keys.columns.double()):
        return {name: single, f"{name}:counts": keys.counts.double()}
    moment = Moment.of(keys.columns, keys.counts)
    return {
        name: moment.matrix[tuple(torch.tril_indices(d, d))],
        f"{name}:counts": torch.tensor([moment.tokens], dtype=torch.float64),
    }


def protected(ledger: Ledger, component: str, parameter: str) -> Moment | None:
    """K_pK_pᵀ: the second moment of all edits' keys at a layer; None without keys there."""
    names = [keys_name(entry.number, component, parameter) for entry in ledger.edits]
    moments = [moment(ledger, name) for name in names if name in ledger.tensors]
    return sum(moments[1:], moments[0]) if moments else None


def moment(ledger: Ledger, name: str) -> Moment:
    """KKᵀ (d × d, float64) of keys that are stored under a name."""
    tensor = ledger.tensor(name)
    counts = ledger.tensor(f"{name}:counts")
    if tensor.ndim == 2:
        return Moment.of(tensor, counts)
    d = (math.isqrt(8 * len(tensor) + 1) - 1) // 2
    half = torch.zeros(d, d, dtype=torch.float64)
    half[tuple(torch.tril_indices(d, d))] = tensor
    return Moment(half + half.tril(-1).T, int(counts))
