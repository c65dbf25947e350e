"""Attacks, one module each.

An attack is a module in this package or an entry point in the group ``forgetcli.attacks``. It has

    Options                      a pydantic model of its settings, with defaults for a CPU
    PUBLISHED                    a mapping of settings: the values of its paper
    run(case, options)           returns a list of `Attempt`
    DEFAULT                      optional; False: the attack runs only if the user names it
    PAIRED                       optional; True: the attempts do not depend on the model. Then only
                                 attempts that show the concept with the unedited model count
    BOUND                        optional; True: the attack is an upper bound of other attacks and
                                 may produce what a model never learned, so it gives no verdict
    refuse(model)                optional; raises a ForgetError for models that it cannot attack

An attack uses the attacked model's own components, and trains through them if it trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from forgetcli import plugins
from forgetcli.errors import ForgetError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image
    from pydantic import BaseModel

    from forgetcli.evaluation.judges import Verdict
    from forgetcli.models.base import LoadedModel
    from forgetcli.progress import Observer
    from forgetcli.robustness.budget import Budget
    from forgetcli.robustness.conditioning import Conditioning
    from forgetcli.robustness.goals import Goal, References
    from forgetcli.robustness.sampling import Sampling

GROUP = "forgetcli.attacks"


@dataclass(frozen=True)
class Case:
    """The input of an attack: one concept in one model.

    Attributes:
        model: the attacked model.
        unedited: the base model. An attacker has it, because base models are public.
        goal: the concept.
        references: returns images of the concept from the unedited model, of the goal's prompts or
            of those that are given. They are generated when first needed.
        sampling: the sampler's settings.
        images: the number of attempts to generate the concept.
        seed: the seed of the first attempt and of all randomness in the attack.
        see: returns the judge's verdicts on images, for attacks that check intermediate images.
        budget: the attack must add its gradient steps and images. Model calls are counted
            automatically.
        observer: receives progress.
    """

    model: LoadedModel
    unedited: LoadedModel
    goal: Goal
    references: Callable[..., References]
    sampling: Sampling
    images: int
    seed: int
    see: Callable[[Sequence[Image]], list[Verdict]]
    budget: Budget
    observer: Observer

    def prompts(self) -> list[str]:
        """A prompt that names the concept, for each attempt."""
        prompts = self.goal.prompts
        return [prompts[k % len(prompts)] for k in range(self.images)]

    def seeds(self) -> list[int]:
        """The seed of each attempt."""
        return [self.seed + k for k in range(self.images)]


@dataclass(frozen=True)
class Attempt:
    """One attempt to generate the concept.

    Attributes:
        prompt: a prompt to show to people.
        seed: the seed of the initial noise.
        images: the generated images. The attempt succeeds if the judge sees the concept in any.
        variant: the variant of the attack, if it has several. The strongest variant counts.
        found: the conditioning of the image, which can be replayed with other models. None if the
            attack changes the model or the sampling steps instead.
    """

    prompt: str
    seed: int
    images: tuple[Image, ...]
    variant: str = ""
    found: Conditioning | None = None


def names() -> list[str]:
    """The names of all attacks, sorted."""
    return plugins.names(__name__, GROUP)


def get(name: str) -> ModuleType:
    """The attack called `name`.

    Raises:
        ForgetError: attack.unknown.
    """
    return plugins.find(__name__, GROUP, name, code="attack.unknown", what="attack")


def defaults() -> list[str]:
    """The names of the attacks that run by default."""
    return [name for name in names() if getattr(get(name), "DEFAULT", True)]


def options(name: str, settings: Mapping[str, object], *, published: bool = False) -> BaseModel:
    """An attack's validated settings.

    Args:
        settings: the user's settings.
        published: use the values of the attack's paper as defaults.
    Raises:
        ForgetError: attack.unknown, attack.unknown-option, attack.bad-option.
    """
    module = get(name)
    defaults = dict(module.PUBLISHED) if published else {}
    return plugins.validated_options(
        "attack", name, module.Options, {**defaults, **settings}, "attack"
    )


def unsupported(attack: str, model: LoadedModel, reason: str) -> ForgetError:
    """The error of an attack that this model's family cannot run."""
    return ForgetError(
        "attack.unsupported",
        f"{model.base.id} cannot be attacked with {attack}: {reason}",
        "leave it out with --attacks",
    )
