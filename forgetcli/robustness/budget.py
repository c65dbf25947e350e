"""The cost of an attack: gradient steps, model calls, images, seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forgetcli.models.base import LoadedModel


@dataclass
class Budget:
    """The cost of an attack so far.

    Attributes:
        gradient_steps: steps of an optimiser, or generations of a search without gradients.
        denoiser_calls: rows in the forward passes of denoisers.
        encoder_calls: rows in the forward passes of text encoders.
        images: decoded images.
        seconds: wall-clock time.
    """

    gradient_steps: int = 0
    denoiser_calls: int = 0
    encoder_calls: int = 0
    images: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 3)}

    @contextmanager
    def metering(self, models: Sequence[LoadedModel]) -> Iterator[None]:
        """Count the calls of these models' components and the seconds within a `with` block."""

        def count(field: str) -> Any:
            def hook(_module: Any, arguments: tuple, keywords: dict) -> None:
                rows = arguments[0] if arguments else next(iter(keywords.values()))
                setattr(self, field, getattr(self, field) + len(rows))

            return hook

        modules: dict[int, tuple[Any, str]] = {}
        for model in models:
            modules[id(model.denoiser)] = (model.denoiser, "denoiser_calls")
            for encoder in model.encoders:
                network = getattr(model, encoder.component)
                modules[id(network)] = (network, "encoder_calls")
        start = time.perf_counter()
        with ExitStack() as hooks:
            for module, field in modules.values():
                handle = module.register_forward_pre_hook(count(field), with_kwargs=True)
                hooks.callback(handle.remove)
            try:
                yield
            finally:
                self.seconds += time.perf_counter() - start
