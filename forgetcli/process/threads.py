"""How many threads torch computes with. No torch needed to decide it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"
POLICY = "OMP_WAIT_POLICY"
SPINS = "GOMP_SPINCOUNT"
_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_LOAD = Path("/proc/loadavg")


def use(requested: int | None) -> int:
    """Let torch, and the processes that this one starts, compute with this many threads.

    How threads wait for one another is decided too (`_wait_briefly`). Torch has to be imported
    afterwards for this.

    Args:
        requested: None: what `OMP_NUM_THREADS` says, else one thread for each physical core. The
            load of the machine decides nothing: with another number of threads the last digits of
            a result differ, so that an edit would depend on what else ran.
    Returns:
        The number of threads.
    """
    chosen = requested or default()
    os.environ[VARIABLE] = str(chosen)
    _wait_briefly(chosen)
    if "torch" in sys.modules:
        # It has read the variable already.
        sys.modules["torch"].set_num_threads(chosen)
    return chosen


def _wait_briefly(threads: int) -> None:
    """Threads that wait sleep at once on a busy machine and soon on an idle one.

    By default they spin for long, and on a busy machine take the time from the very threads that
    they wait for; to sleep at once costs a third more on an idle machine, since each is woken again
    in microseconds. Results do not depend on it, so the load may decide. What somebody has set
    stays.
    """
    if POLICY in os.environ or SPINS in os.environ:
        return
    if threads + others_running() > physical_cores():
        os.environ[POLICY] = "PASSIVE"
    else:
        os.environ[SPINS] = "1000"


def default() -> int:
    """The number of threads where none is requested."""
    return _from_variable() or physical_cores()


def is_chosen(requested: int | None) -> bool:
    """Whether somebody has chosen the number of threads; call it before `use`."""
    return bool(requested or _from_variable())


def advice(threads: int, cores: int, others: float) -> str:
    """A line for a busy machine; empty for one with room.

    Threads that wait for one another at every step lose far more time to other work than the share
    that it takes: on two busy cores two threads took 7 times as long as one.

    Args:
        others: the number of other threads that want to compute now.
    """
    free = max(1, round(cores - others))
    if threads <= free or others < 1:
        return ""
    return (
        f"the machine is busy (about {others:.0f} other running on "
        f"{cores} {'core' if cores == 1 else 'cores'}): "
        f"--threads {free} is likely faster than the default of {threads}"
    )


def others_running() -> float:
    """The number of other threads that want to compute, by the last minute and at this moment.

    Both must agree: the minute also has what has just ended, and a moment what is about to. 0 where
    the system does not say.
    """
    try:
        minute = os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0
    try:
        # "0.62 0.43 0.21 3/812 4711": of 812 threads 3 are running, this one among them.
        running = _LOAD.read_text(encoding="ascii").split()[3]
        return min(minute, int(running.partition("/")[0]) - 1)
    except (OSError, ValueError, IndexError):
        return minute


def physical_cores() -> int:
    """The number of physical cores that this process may use, at least 1.

    Two hardware threads of one core share its arithmetic units, so the second one gains nothing.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = sorted(os.sched_getaffinity(0))
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota()))


def _siblings(cpu: int) -> str:
    """The hardware threads of a CPU's core: alike for CPUs of one core."""
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)


def _quota() -> int:
    """How many CPUs a container may use at a time; many without a limit."""
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return sys.maxsize


def _from_variable() -> int | None:
    """The number in `OMP_NUM_THREADS`; of a list for nested loops, the first."""
    first = os.environ.get(VARIABLE, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None
