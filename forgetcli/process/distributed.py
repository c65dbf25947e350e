"""One process of several under ``accelerate launch``, on one machine or many; alone otherwise.

Every process knows the whole list of work and takes fixed blocks of it. Results are files in a
folder that all processes share. The first process combines them by the same steps that resume an
interrupted run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from forgetcli.errors import ForgetError

if TYPE_CHECKING:
    from accelerate import PartialState

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """This process among those of one run.

    Attributes:
        index: number of this process, from 0.
        count: number of processes.
    """

    index: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        return self.index == 0

    def blocks(self, items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
        """This process's share: every `count`-th block of `size` items.

        The blocks do not depend on `count`. The last bits of an image can depend on the batch in
        which it was computed, so equal blocks make the result of many processes that of one.
        """
        for number, start in enumerate(range(0, len(items), size)):
            if number % self.count == self.index:
                yield items[start : start + size]

    def wait(self) -> None:
        """Wait until every process has called this.

        Raises:
            ForgetError: process.lost: another process has ended.
        """
        if self.count > 1:
            with _together():
                _state().wait_for_everyone()

    def from_first(self, value: Result) -> Result:
        """The first process's `value`, in all of them. All wait for it.

        Args:
            value: must be picklable. That of other processes is not used.
        Raises:
            ForgetError: process.lost: another process has ended.
        """
        if self.count == 1:
            return value
        # Imported here: only processes that a launcher started need it.
        from accelerate.utils import broadcast_object_list

        with _together():
            return broadcast_object_list([value])[0]

    def share(self, items: Sequence[Item], work: Callable[[Item], Result]) -> list[Result]:
        """`work` done on every item, each by one of the processes; the results in all of them.

        Args:
            work: its results must be picklable.
        Raises:
            ForgetError: process.lost: another process has ended.
        """
        results = [work(item) for item in items[self.index :: self.count]]
        if self.count == 1:
            return results
        # Imported here: only processes that a launcher started need it.
        from accelerate.utils import gather_object

        with _together():
            gathered = gather_object([results])
        return [gathered[number % self.count][number // self.count] for number in range(len(items))]


# Others wait so long for one that computes. torch's own limits, 10 and 30 minutes, are shorter than
# a large model's edit.
PATIENCE = timedelta(days=7)

# Variables in which launchers (torchrun and several MPIs) give the number of processes.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def launched() -> bool:
    """Whether a launcher has started this process as one of several."""
    return any(int(os.environ.get(name) or 1) > 1 for name in SIZES)


def current() -> Processes:
    """This process among those of the run."""
    return Processes(_state().process_index, _state().num_processes) if launched() else Processes()


def local_device() -> str | None:
    """The device that a launcher gave this process (``cuda:1``), or None without a launcher."""
    return str(_state().device) if launched() else None


def _state() -> PartialState:
    # Imported here: only processes that a launcher started need them.
    import torch
    from accelerate import PartialState

    # Without cpu=True and without GPUs, every process would be taken for the only one.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


@contextmanager
def _together() -> Iterator[None]:
    """An exchange with the other processes."""
    try:
        yield
    except RuntimeError as fault:
        # The connection is broken: another process has ended, and has said why.
        raise ForgetError(
            "process.lost",
            "another process of this run has ended before it was done",
            "the error is what that process printed; run the same command again to resume",
        ) from fault
