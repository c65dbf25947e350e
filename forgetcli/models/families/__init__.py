"""Model families, one file each; the file's name is the family's. See `forgetcli.models`."""

from __future__ import annotations

import pkgutil


def names() -> list[str]:
    """Names of all families, sorted. Imports none of them: recipes are checked without torch."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
