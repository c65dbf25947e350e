"""Images of unedited models on disk, so that a second evaluation of the same base model with the
same prompts, seeds and settings does not generate them again.

Entries lie in the cache of second moments, and are listed and pruned with them. An entry is a whole
batch: which images are generated together changes their rounding, and a cached image must be the
very bytes that would be generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from forgetcli import __version__
from forgetcli.editing.moment_cache import MomentCache
from forgetcli.process.device import pick_device

if TYPE_CHECKING:
    from forgetcli.checkpoint.base import Base

VERSION = 1  # raise when images change that have the same identity
PACKAGES = ("torch", "diffusers", "transformers", "pillow")


class ImageCache:
    """PNG files of one model's batches.

    The model's digest is in the images' origins.

    Args:
        base: the model.
        device: where images are generated; None: the best device of this machine.
        cache: default: the user's.
    """

    def __init__(self, base: Base, device: str | None, cache: MomentCache | None = None) -> None:
        # The command line starts without torch.
        import torch

        self.cache = cache or MomentCache()
        self._common = {
            "version": VERSION,
            "kind": "images",
            "model": base.id,
            "device": pick_device(device).type,
            # Another number of threads adds up in another order.
            "threads": torch.get_num_threads(),
            "packages": {"forgetcli": __version__, **{name: version(name) for name in PACKAGES}},
        }

    def has(self, origins: Sequence[Mapping[str, Any]]) -> bool:
        """Whether there is an entry for the batch of images with these origins."""
        return self.cache.has(self._identity(origins))

    def load(self, origins: Sequence[Mapping[str, Any]]) -> list[bytes] | None:
        """The images of the batch as PNG files, in its order; None: not there, or damaged."""
        found = self.cache.load(self._identity(origins))
        if found is None or len(found) != len(origins):
            return None
        return [found[str(i)].numpy().tobytes() for i in range(len(origins))]

    def store(self, origins: Sequence[Mapping[str, Any]], images: Sequence[bytes]) -> None:
        """Store the PNG files of a batch. A full or read-only disk is no error."""
        # The command line starts without torch.
        import torch

        self.cache.store(
            self._identity(origins),
            {
                str(i): torch.frombuffer(bytearray(image), dtype=torch.uint8)
                for i, image in enumerate(images)
            },
        )

    def _identity(self, origins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            **self._common,
            "prompts": [origin["prompt"] for origin in origins],
            "origins": [dict(origin) for origin in origins],
        }
