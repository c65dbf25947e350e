"""Images of a run, read back from disk, where they may have been replaced since."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from forgetcli.errors import ForgetError
from forgetcli.storage.files import is_regular

if TYPE_CHECKING:
    from PIL.Image import Image


def opened(path: Path) -> Image:
    """The image in RGB.

    Raises:
        ForgetError: eval.image: the file is no image, is damaged, or is larger than Pillow takes
            without a warning.
    """
    # Pillow takes a while to import, and a run whose verdicts are all there does not need it.
    from PIL import Image

    try:
        if not is_regular(path):
            raise ValueError("not a regular file")
        with warnings.catch_warnings():
            # Of images with too many pixels: a few bytes can decode to gigabytes.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.convert("RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as fault:
        raise ForgetError(
            "eval.image", f"{path} is not an image of this run: {fault}", "delete it, and run again"
        ) from fault
