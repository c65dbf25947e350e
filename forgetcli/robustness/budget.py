"""What an attack spends: gradient steps, model calls, images, seconds."""

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
    """What has been spent so far.

    Attributes:
        gradient_steps: steps of an optimiser, or generations of a search without gradients.
        denoiser_calls: rows that denoisers have read, forward passes only.
        encoder_calls: rows that text encoders have read.
        images: images that were decoded.
        seconds: of wall-clock time.
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
        """Count the calls of these models' components, and the seconds, within a `with`."""

        def count(field: str) -> Any:
            def hook(_module: Any, arguments: tuple, keywords: dict) -> None:
                given = arguments[0] if arguments else next(iter(keywords.values()))
                setattr(self, field, getattr(self, field) + len(given))

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
