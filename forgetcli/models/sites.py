"""Editable layers (sites): finding them in a text encoder, recording their inputs, replacing their
weights.

torch is imported inside functions, because families are listed without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forgetcli.models.encoder import MLP_OUTPUT, TextEncoder

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Site:
    """One linear layer that can be edited.

    Attributes:
        component: the component that has the layer.
        name: the layer's path in the component. If several components have sites, the component's
            name precedes it.
        module: the layer.
    """

    component: str
    name: str
    module: torch.nn.Linear

    @property
    def path(self) -> str:
        """The layer's path in the component."""
        return self.name.removeprefix(f"{self.component}.")

    @property
    def parameter(self) -> str:
        """The name of the layer's weight in the component."""
        return f"{self.path}.weight"


def mlp_outputs(encoder: TextEncoder, network: torch.nn.Module, qualified: bool) -> dict[int, Site]:
    """The second linear layer of each block's MLP, by block number. Layers are found by name.

    Args:
        network: the loaded text encoder.
        qualified: put the component's name in front of the layer's name.
    """
    import torch

    sites = {}
    for path, module in network.named_modules():
        parts = path.split(".")
        if isinstance(module, torch.nn.Linear) and tuple(parts[-2:]) == MLP_OUTPUT[encoder.kind]:
            block = next(int(part) for part in parts if part.isdecimal())
            name = f"{encoder.component}.{path}" if qualified else path
            sites[block] = Site(encoder.component, name, module)
    blocks = sorted(sites)[: len(sites) - encoder.unread]
    return {block: sites[block] for block in blocks}


class AllRecorded(Exception):
    """Ends a text encoder's forward pass: all its sites were reached. See `recorded_inputs`."""


@contextmanager
def recorded_inputs(
    sites: Sequence[Site], pick: Callable[[Site, Tensor], Tensor]
) -> Iterator[dict[str, list[Tensor]]]:
    """Record the sites' inputs in every forward pass within a `with` block.

    A text encoder's pass ends with `AllRecorded` before the last of its sites is computed: the
    layers behind it cannot change the inputs of those before it.

    Args:
        sites: each site once.
        pick: takes rows of a site's input, shape (n, length, d_in), in the dtype of the model.
    Yields:
        site name → what `pick` took in each forward pass, on the CPU, float64.
    """
    inputs: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    passes: dict[str, list[str]] = {site.component: [] for site in sites}
    expected = Counter(site.component for site in sites)

    def recorder(site: Site) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        def record(_module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            # Rows first, float64 afterwards: most of the memory is that of the float64 numbers.
            inputs[site.name].append(pick(site, arguments[0].detach()).cpu().double())
            reached = passes[site.component]
            reached.append(site.name)
            if len(reached) == expected[site.component]:
                reached.clear()
                raise AllRecorded

        return record

    hooks = [site.module.register_forward_pre_hook(recorder(site)) for site in sites]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def replaced_weights(changed: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Give parameters other values within a `with` block, and restore them after it.

    Args:
        changed: (parameter, its values within the block).
    """
    import torch

    originals = []
    try:
        with torch.no_grad():
            for parameter, values in changed:
                originals.append((parameter, parameter.detach().clone()))
                parameter.copy_(values.to(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, values in originals:
                parameter.copy_(values)
