"""Runs a reading function on one input, within limits of time and memory, and names its failure."""

from __future__ import annotations

import hashlib
import importlib
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from forked import MODULES
from hostile_inputs import Strategy
from hypothesis import HealthCheck, Phase, given, settings
from processes import ROOT
from reading_targets import Target

from forgetcli.cli.progress import silence_libraries
from forgetcli.errors import ForgetError

SECONDS = 2  # of processor time; five times that on the clock, for readers that wait
MEGABYTES = 500


class TooSlow(BaseException):
    """Not an Exception, so that no reader catches it."""


@dataclass
class Sweep:
    """The result of many inputs.

    Attributes:
        examples: inputs that were read.
        accepted: of them, those that raised nothing.
        seconds: that it took.
        failures: the smallest failing input by kind of failure.
    """

    examples: int = 0
    accepted: int = 0
    seconds: float = 0.0
    failures: dict[str, bytes] = field(default_factory=dict)

    def note(self, kind: str, data: bytes) -> None:
        if kind not in self.failures or len(data) < len(self.failures[kind]):
            self.failures[kind] = data


def import_libraries() -> None:
    """Import what the readers import, so that none of them has to within its two seconds. An import
    that is broken off leaves modules that cannot be imported again.
    """
    silence_libraries()
    for name in MODULES:
        importlib.import_module(name)


def failure(read: Callable[[], object], seconds: float = SECONDS) -> str | None:
    """What is wrong with a call: the error's type and place; None for no error or a `ForgetError`.

    Raises:
        ForgetError: the one that the call raised.
    """
    before = _memory_after_reset()
    old = {
        signal.SIGPROF: signal.signal(signal.SIGPROF, _too_slow),
        signal.SIGALRM: signal.signal(signal.SIGALRM, _too_slow),
    }
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + (1 << 30), limits[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 5 * seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except ForgetError as error:
        if len(str(error)) > 4000:
            return f"a message of more than 4,000 characters: {error.code}"
        if "internal" in error.code:
            return _kind(error)
        raise
    except (Exception, TooSlow) as error:
        return _kind(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        for number, handler in old.items():
            signal.signal(number, handler)
    grown = (_peak_memory() - before) / 1024
    return f"{MEGABYTES} MB exceeded" if grown > MEGABYTES else None


def _memory_after_reset() -> int:
    """The memory in use now, in kilobytes; the peak starts from it, whatever ran before."""
    with suppress(OSError):  # not Linux, or not allowed: the peak of the whole process counts
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the resident set's peak
    return _peak_memory()


def _peak_memory() -> int:
    """The largest resident set so far, in kilobytes."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _too_slow(*_: object) -> None:
    raise TooSlow


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _kind(error: BaseException) -> str:
    """``TypeError at forgetcli/x/y.py:12``: the deepest line of the package."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "forgetcli" in frame.filename] or frames
    deepest = ours[-1]
    place = Path(deepest.filename)
    shown = place.relative_to(ROOT) if place.is_relative_to(ROOT) else place.name
    said = f": {error}" if isinstance(error, AssertionError) else ""
    return f"{type(error).__name__} at {shown}:{deepest.lineno}{said}"


def sweep(
    strategy: Strategy,
    read: Callable[[bytes, Path], object],
    examples: int,
    derandomise: bool,
) -> Sweep:
    """Read `examples` inputs. Failures are collected and do not stop it."""
    result = Sweep()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        @settings(
            max_examples=examples,
            derandomize=derandomise,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(data=strategy)
        def one(data: bytes) -> None:
            result.examples += 1
            try:
                kind = failure(lambda: read(data, folder))
            except ForgetError:
                return
            if kind is None:
                result.accepted += 1
            else:
                result.note(kind, data)

        # The copies of folders are not part of the first example.
        with suppress(Exception):
            read(b"{}", folder)
        begun = time.perf_counter()
        one()
        result.seconds = time.perf_counter() - begun
    return result


def described(target: Target, result: Sweep, keep: Path) -> str:
    """The failures in words; their inputs are written into `keep`."""
    lines = []
    for kind, data in sorted(result.failures.items()):
        path = keep / target.name / hashlib.sha256(data).hexdigest()[:12]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        lines.append(f"{target.name}: {kind}\n  input: {path} ({len(data)} bytes)")
    return "\n".join(lines)


def main() -> int:
    """``python guarded.py EXAMPLES [TARGET…]``: a table, and the failing inputs in build/fuzz."""
    from reading_targets import TARGETS

    import_libraries()
    examples = int(sys.argv[1])
    chosen = sys.argv[2:] or list(TARGETS)
    failed = 0
    for name in chosen:
        target = TARGETS[name]
        count = max(1, round(examples * target.share))
        result = sweep(target.strategy(), target.read, count, derandomise=False)
        failed += len(result.failures)
        print(
            f"{name:22}{result.examples:8} examples {result.accepted:8} accepted "
            f"{result.seconds:8.1f} s {len(result.failures):4} kinds of failure",
            flush=True,
        )
        if result.failures:
            print(described(target, result, ROOT / "build" / "fuzz"), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
