"""Keep the bars, log lines and warnings of transformers and diffusers off a program's stderr.

What they would say is about files and settings that forget itself has chosen or checked.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence both libraries for a block, or for a function as a decorator; not when debugging.

    The verbosity and the bars are those of the program again afterwards.
    """
    if os.environ.get("FORGET_DEBUG", "") not in ("", "0"):
        yield
        return
    # Imported here: the command line starts without them.
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", module=r"(diffusers|transformers)(\.|$)")
            yield
    finally:
        for library, (verbosity, had_bars) in zip(libraries, before):
            library.set_verbosity(verbosity)
            if had_bars:
                library.enable_progress_bar()
