"""How much the check after an edit does, and what it accepts. No torch: the check is estimated
before anything is loaded, and told without it.
"""

from __future__ import annotations

from forgetcli.process.device import LARGE_DENOISER

# Prompts of each kind, spread over the list, and for large denoisers.
#
# One prediction of Stable Diffusion 1.4's UNet takes a second of one thread, and 120 of them were
# 19 % of a whole edit. With half of the prompts the figures mean the same, with a larger sampling
# error. On the embedded model that error is far smaller than the distance of good edits, of edits
# without effect and of wrecks from the thresholds below (docs/performance.md).
PROMPTS = 12
PROMPTS_OF_LARGE = 6
# Few sampler steps without guidance: the noisy images need no quality.
STEPS = 5
# Latents along a side of the noisy images: a denoiser of four levels still has 2 × 2 positions at
# its lowest. At the size for which Stable Diffusion was trained the check takes longer than the
# edit, and says the same: both predictions that it compares are at the same latents.
LARGEST_SIDE = 16
# An edit that covers a smaller fraction of the distance to the target has no effect.
NO_OP = 0.05
# A larger relative change of the predictions for preserve prompts means a broken model.
WRECKED = 0.25
# After unlearning at images. The predictions for nearly pure noise move further there, above all
# for prompts that name no thing, in whose average image the concept was. Measured on the embedded
# model: up to 0.31 with every retained concept still there (docs/robustness.md); wrecks have 0.5
# and more (docs/performance.md).
WRECKED_AT_IMAGES = 0.4


def prompts_of(parameters: int) -> int:
    """How many prompts of each kind are checked with a denoiser of so many parameters."""
    return PROMPTS if parameters < LARGE_DENOISER else PROMPTS_OF_LARGE
