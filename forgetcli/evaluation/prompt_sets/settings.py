"""The settings of images that a prompt set can contain, and the values that are allowed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# With ".0", because pandas writes 42.0 in columns with gaps.
_WHOLE = re.compile(r"[+-]?\d{1,30}(\.0*)?", re.ASCII)


@dataclass(frozen=True)
class Setting:
    """The values that a setting may have.

    Attributes:
        demand: in words.
        whole: whether it is a whole number.
        admits: whether it may have this number.
    """

    demand: str
    whole: bool
    admits: Callable[[float], bool]

    def parsed(self, text: str) -> int | float:
        """The value of a cell.

        Raises:
            ValueError: the cell has no allowed value.
        """
        if not (_WHOLE if self.whole else _NUMBER).fullmatch(text):
            raise ValueError(text)
        return self.checked(int(text.partition(".")[0]) if self.whole else float(text))

    def checked(self, value: object) -> int | float:
        """`value`, if it is allowed.

        Raises:
            ValueError: it is not.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(value)
        if self.whole and not isinstance(value, int):
            raise ValueError(value)
        if not self.admits(value):
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
# The columns of a setting: ours, then I2P's, then those of its derivatives. The first one that a
# file has is read.
COLUMNS = {
    "seed": ("seed", "sd_seed", "evaluation_seed"),
    "guidance": ("guidance", "guidance_scale", "sd_guidance_scale", "evaluation_guidance"),
    "width": ("width", "sd_image_width"),
    "height": ("height", "sd_image_height"),
    "steps": ("steps",),
}
# The keys that all of our TOML formats have.
KEYS = ("schema_version", *SETTINGS)
