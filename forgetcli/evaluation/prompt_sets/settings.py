"""How a set can have its pictures drawn: which settings there are and what their values may be."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,30}(\.0*)?", re.ASCII)  # pandas writes 42.0 where a column has gaps


@dataclass(frozen=True)
class Setting:
    """What a value must be, in words and as a test."""

    demand: str
    whole: bool
    admits: Callable[[float], bool]

    def parsed(self, text: str) -> int | float:
        """The value that a cell holds.

        Raises:
            ValueError: none that will do.
        """
        if not (_WHOLE if self.whole else _NUMBER).fullmatch(text):
            raise ValueError(text)
        return self.checked(int(text.partition(".")[0]) if self.whole else float(text))

    def checked(self, value: object) -> int | float:
        """`value` if it will do.

        Raises:
            ValueError: it will not.
        """
        is_number = isinstance(value, int if self.whole else int | float) and not isinstance(
            value, bool
        )
        if not is_number or not self.admits(value):
            raise ValueError(value)
        return value if self.whole else float(value)


def _is_size(value: float) -> bool:
    return 8 <= value <= 4096 and value % 8 == 0


_SIZE = Setting("a multiple of 8 from 8 to 4096", True, _is_size)
SETTINGS = {
    "seed": Setting(
        f"a whole number from 0 to {2**63 - 1}", True, lambda value: 0 <= value < 2**63
    ),
    "guidance": Setting(
        "a finite number, 0 or more", False, lambda value: 0 <= value <= sys.float_info.max
    ),
    "width": _SIZE,
    "height": _SIZE,
    "steps": Setting("a whole number from 1 to 1000", True, lambda value: 1 <= value <= 1000),
}
# Columns that hold a setting, the first one there counts: ours, then I2P's, then those of its
# derivatives.
COLUMNS = {
    "seed": ("seed", "sd_seed", "evaluation_seed"),
    "guidance": ("guidance", "guidance_scale", "sd_guidance_scale", "evaluation_guidance"),
    "width": ("width", "sd_image_width"),
    "height": ("height", "sd_image_height"),
    "steps": ("steps",),
}
# The keys of every format of our own in TOML.
KEYS = ("schema_version", *SETTINGS)
