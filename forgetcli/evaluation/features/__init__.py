"""Feature extractors: one file each; quality measures compare pictures by what an extractor sees in
them.

An extractor is a module, here or behind an entry point of the group ``forgetcli.features``, with
``load(device) -> extractor``; the extractor has

    size                            d, the number of features
    identity() -> dict              name and weight digest: recorded with every figure
    vectors(pictures) -> Tensor     uint8 (n, 3, h, w) → float (n, d): for FID and KID
    distances(a, b) -> Tensor       two such batches → (n,): a perceptual distance between pictures,
                                    LPIPS or its like
"""

from __future__ import annotations

from forgetcli import plugins

GROUP = "forgetcli.features"


def names() -> list[str]:
    return plugins.names(__name__, GROUP)


def load(name: str, device: str | None = None):
    """The extractor called `name`.

    Raises:
        ForgetError: there is none.
    """
    return plugins.find(__name__, GROUP, name, "features.unknown", "feature extractor").load(device)
