"""One process of several under ``accelerate launch``, on one machine or many; alone otherwise.

Work is shared out in fixed blocks of a list that every process knows. Results go to files in a
folder that all
processes see, so the first one puts them together by the same steps that resume a run that was cut
short.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    index: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        return self.index == 0

    def blocks(self, items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
        """This process' share: every `count`-th block of `size` items.

        The blocks are the same whatever `count` is. A picture can differ in its last bits by what
        it was computed
        together with, so this is what makes the result the same for one process and for many.
        """
        for number, start in enumerate(range(0, len(items), size)):
            if number % self.count == self.index:
                yield items[start : start + size]

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            _state().wait_for_everyone()


SIZES = (
    "WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
)  # how launchers, torchrun and MPI say it


def launched() -> bool:
    """Whether a launcher has started this process as one of several."""
    return any(int(os.environ.get(name) or 1) > 1 for name in SIZES)


def current() -> Processes:
    """What this process is."""
    return Processes(_state().process_index, _state().num_processes) if launched() else Processes()


def local_device() -> str | None:
    """The device of this process where a launcher gave it one: ``cuda:1`` for the second on a
    machine.
    """
    return str(_state().device) if launched() else None


def _state():
    import torch
    from accelerate import PartialState

    return PartialState(
        cpu=not torch.cuda.is_available()
    )  # without GPUs it would take every process for the only one
