"""Layers of a text encoder before the first edited site: their outputs depend on the tokens only,
so a descent computes them once and not in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from forgetcli.models.sites import Site

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@contextmanager
def remembered(network: torch.nn.Module, site: Site) -> Iterator[None]:
    """Compute the layers before a site only once for the same token ids within a `with` block.

    Their weights must not change in the block. Results are the same to the last bit.

    What is remembered are outputs of whole blocks and, in the site's own block, of the parts with
    weight matrices: for the second block of CLIP six numbers a position and unit of width, until
    the block ends.

    Args:
        network: the text encoder, whose first argument is the token ids.
        site: its first layer whose output changes.
    """
    outputs: dict[Hashable, dict[str, Any]] = {}
    current: dict[str, Any] = {}
    reached = False

    def start(_network: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal current, reached
        ids = arguments[0]
        current = outputs.setdefault((ids.shape, ids.cpu().numpy().tobytes()), {})
        reached = False

    def end(*_: object) -> None:
        nonlocal reached
        reached = True

    def once(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if path in current:
                return current[path]
            output = forward(*arguments, **options)
            if not reached:
                current[path] = output
            return output

        return call

    hooks = [
        network.register_forward_pre_hook(start),
        site.module.register_forward_pre_hook(end),
    ]
    beside = _beside(network, site.path)
    for path, module in beside.items():
        # An attribute of the instance, which `del` below removes again.
        module.__dict__["forward"] = once(path, module.forward)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in beside.values():
            del module.__dict__["forward"]


def _beside(network: torch.nn.Module, path: str) -> dict[str, torch.nn.Module]:
    """The largest parts of a network that do not contain the layer `path`, of those with weight
    matrices, by path.

    The others (normalisation, activation, embeddings) take less time than memory.
    """
    import torch

    beside = {}
    parts = path.split(".")
    for depth in range(len(parts)):
        above = network.get_submodule(".".join(parts[:depth]))
        for name, module in above.named_children():
            if name != parts[depth] and any(
                isinstance(part, torch.nn.Linear) for part in module.modules()
            ):
                beside[".".join([*parts[:depth], name])] = module
    return beside
