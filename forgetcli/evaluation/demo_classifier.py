"""The network of the bundled judge: which thing a 64×64 image shows, and in which style."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3×3 convolutions around a shortcut; the first one may halve the resolution."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(y)) + self.shortcut(x))


class Classifier(nn.Module):
    """Images (n, 3, 64, 64) in −1…1 → logits of things (n, things + 1) and styles (n, styles + 1).

    The last logit of each is "none of these".
    """

    def __init__(self, things: int, styles: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 4, 2, 1)  # 64 → 32
        self.blocks = nn.Sequential(
            *(Residual(a, b, 2) for a, b in pairwise(widths))
        )  # 32 → 16 → 8 → 4
        self.things = nn.Linear(widths[-1], things + 1)
        # The style shows in fine texture, so the style head reads early features as well.
        self.styles = nn.Linear(sum(widths[1:]), styles + 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(x))
        pooled = []
        for block in self.blocks:
            x = block(x)
            pooled.append(x.mean((2, 3)))
        things = self.things(F.dropout(pooled[-1], 0.2, self.training))
        return things, self.styles(torch.cat(pooled, 1))

    def both_ways(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the logits of an image and of its mirror image.

        The direction in which a thing faces then has no influence.
        """
        things, styles = self(x)
        mirrored_things, mirrored_styles = self(x.flip(3))
        return (things + mirrored_things) / 2, (styles + mirrored_styles) / 2
