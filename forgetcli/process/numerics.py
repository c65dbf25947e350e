"""The state of torch that decides whether an edit gives the same bits again, for the manifest.

On CUDA some kernels add up in an order that differs from run to run, and convolutions run in TF32
unless that is switched off. Both are set for the time of an edit, and operations that have no
deterministic kernel are recorded by name. On the CPU nothing is set.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
# torch's warnings about operations without a deterministic kernel; the group is the name.
WARNINGS = (
    re.compile(r"(\S+) does not have a deterministic implementation"),
    re.compile(r"(.+?) defaults to a non-deterministic algorithm"),
    re.compile(r"Deterministic behavior was enabled.*uses (CuBLAS)", re.DOTALL),
)
ATTENTION = ("flash", "mem_efficient", "math", "cudnn")  # backends, as torch names them


@dataclass(frozen=True)
class Numerics:
    """How an edit was computed.

    Attributes:
        state: of torch; JSON types.
        operations: names of the operations that warned that they are not deterministic.
    """

    state: dict[str, Any]
    operations: set[str] = field(default_factory=set)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest. On one CPU it is the same for every edit."""
        return {**self.state, "nondeterministic": sorted(self.operations)}


@contextmanager
def recorded(device: torch.device) -> Iterator[Numerics]:
    """Record how the block computes. On CUDA it computes without TF32, and with deterministic
    kernels where there are any. After the block everything is set as before.
    """
    if device.type != "cuda":
        yield Numerics(state(device))
        return
    with _exact():
        found = Numerics(state(device))
        with _listening(found.operations):
            yield found


def state(device: torch.device) -> dict[str, Any]:
    """What the results on a device depend on, beside the versions of the packages."""
    # Imported here: the command line starts without torch.
    import torch

    found: dict[str, Any] = {
        "deterministicAlgorithms": ("off", "warn", "on")[torch.get_deterministic_debug_mode()],
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if device.type != "cuda":
        return found
    cudnn = torch.backends.cudnn
    backends = torch.backends.cuda
    return found | {
        "cuda": torch.version.cuda,
        "cudnn": {
            "version": cudnn.version(),
            "enabled": cudnn.enabled,
            "benchmark": cudnn.benchmark,
            "deterministic": cudnn.deterministic,
        },
        "tf32": {"matmul": backends.matmul.allow_tf32, "cudnn": cudnn.allow_tf32},
        "attention": [
            name for name in ATTENTION if getattr(backends, f"{name}_sdp_enabled", bool)()
        ],
        "cublasWorkspace": os.environ.get(CUBLAS),
    }


@contextmanager
def _exact() -> Iterator[None]:
    """Deterministic kernels and no TF32 within the block. If the program demands deterministic
    kernels, an operation without one is an error, as it is outside.
    """
    # Imported here: the command line starts without torch.
    import torch

    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    mode = torch.get_deterministic_debug_mode()
    precision = torch.get_float32_matmul_precision()
    flags = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    fill = memory.fill_uninitialized_memory
    try:
        torch.set_deterministic_debug_mode(max(mode, 1))
        torch.set_float32_matmul_precision("highest")
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = False, True, False
        # Costs time, and nothing here reads memory that was not written.
        memory.fill_uninitialized_memory = False
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.set_float32_matmul_precision(precision)
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = flags
        memory.fill_uninitialized_memory = fill


@contextmanager
def _listening(operations: set[str]) -> Iterator[None]:
    """Collect the names of operations that warn, instead of showing the warnings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=".*determinis")
        show = warnings.showwarning

        def note(message: Warning | str, *rest: Any, **options: Any) -> None:
            matches = (pattern.match(str(message)) for pattern in WARNINGS)
            names = [match[1] for match in matches if match]
            operations.update(names)
            if not names:
                show(message, *rest, **options)

        warnings.showwarning = note
        yield
