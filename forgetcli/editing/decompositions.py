"""Eigendecompositions of second moments, kept in the cache beside them.

For the text encoder of Stable Diffusion 1.4 an eigendecomposition takes about 10 s of processor
time, and reading and checking one 0.3 s.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from forgetcli.editing.moment_cache import MomentCache
from forgetcli.linalg import Spectrum

VERSION = 1  # raise when the computation changes its results
# Narrower moments are not kept. Measured with one thread, milliseconds of decomposing, storing and
# reading: width 768 (embedded model) 140, 14, 20; 1536: 1384, 96, 78; 2048: 3532, 227, 199. Reading
# is faster at every width, but below this one it saves less than a second and takes as much room
# again as the moment.
SMALLEST_WIDTH = 1536


def decomposed(moment: Tensor, model: str, cache: MomentCache) -> tuple[Spectrum, bool]:
    """The eigendecomposition of a second moment, and whether it was in the cache.

    An entry is used only if it fits the moment. The checksum in the file excludes damage; the fit
    excludes an entry that was written for another matrix.

    Args:
        moment: K₀K₀ᵀ, float64, shape (d, d), on the CPU.
        model: the model's id, for `forget cache ls`.
    Raises:
        EditError: the moment is not float64, not finite or not symmetric.
    """
    if len(moment) < SMALLEST_WIDTH:
        return Spectrum.of(moment), False
    identity = {
        "version": VERSION,
        "kind": "eigendecomposition",
        "model": model,
        "moment": hashlib.sha256(moment.contiguous().numpy()).hexdigest(),
        # Both change the last bits of a decomposition.
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    entry = cache.load(identity)
    if entry is not None and entry.keys() == {"eigenvalues", "vectors"}:
        spectrum = Spectrum(entry["eigenvalues"], entry["vectors"])
        if spectrum.fits(moment):
            return spectrum, True
    spectrum = Spectrum.of(moment)
    cache.store(identity, {"eigenvalues": spectrum.eigenvalues, "vectors": spectrum.vectors})
    return spectrum, False
