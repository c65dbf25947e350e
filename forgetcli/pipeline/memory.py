"""Peak memory of this process."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak_rss() -> int | None:
    """Largest resident set so far, in bytes. None where the system does not report it.

    On Linux from VmHWM: getrusage's ru_maxrss outlives exec there, so a child would be charged with
    its parent's peak.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but there


def peak_gpu() -> int | None:
    """The most that torch has allocated on one CUDA device, in bytes. None if none is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
