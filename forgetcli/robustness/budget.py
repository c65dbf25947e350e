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
        processor_seconds: processor time of all threads. It hardly depends on what else the machine
            computes; work on a GPU is not in it.
    """

    gradient_steps: int = 0
    denoiser_calls: int = 0
    encoder_calls: int = 0
    images: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {name: round(value, 3) for name, value in asdict(self).items()}

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
        processor_start = time.process_time()
        with ExitStack() as hooks:
            for module, field in modules.values():
                handle = module.register_forward_pre_hook(count(field), with_kwargs=True)
                hooks.callback(handle.remove)
            try:
                yield
            finally:
                self.seconds += time.perf_counter() - start
                self.processor_seconds += time.process_time() - processor_start
