"""Attacks: one file each.

An attack is a module, here or behind an entry point of the group ``forgetcli.attacks``, with

    Options                      a pydantic model of its settings; the defaults fit a CPU
    PUBLISHED                    the values of its paper: a mapping of settings
    run(case, options)           → list of `Attempt`
    DEFAULT                      optional: False if it runs only when it is named
    PAIRED                       optional: True if its attempts are the same whatever the model is;
                                 then only those count that show the concept in the unedited model
    BOUND                        optional: True for an upper bound of other attacks, which may draw
                                 what a model never learned: it gives no verdict
    refuse(model)                optional: raises a ForgetError for models that it cannot attack

It gets the attacked model's own components. What it learns, it learns through them.
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
    """One concept in one model.

    Attributes:
        model: the attacked model.
        unedited: the base model, which everybody has.
        goal: the concept.
        references: gives images of it by the unedited model, drawn when first asked for.
        sampling: how images are drawn.
        images: the number of attempts at drawing it.
        seed: of the first attempt, and of everything random in the attack.
        see: the judge's verdicts on images, for attacks that look at their results.
        budget: counts gradient steps; calls are counted by itself.
        observer: told about progress.
    """

    model: LoadedModel
    unedited: LoadedModel
    goal: Goal
    references: Callable[[], References]
    sampling: Sampling
    images: int
    seed: int
    see: Callable[[Sequence[Image]], list[Verdict]]
    budget: Budget
    observer: Observer

    def prompts(self) -> list[str]:
        """A prompt that names the concept for each attempt."""
        given = self.goal.prompts
        return [given[k % len(given)] for k in range(self.images)]

    def seeds(self) -> list[int]:
        """The seed of each attempt."""
        return [self.seed + k for k in range(self.images)]


@dataclass(frozen=True)
class Attempt:
    """One attempt at drawing the concept.

    Attributes:
        prompt: for people.
        seed: of the initial noise.
        images: the result; an attack that picks the best of several gives all of them.
        variant: of attacks with several ways. The strongest one counts.
        found: what another model can be given, to see whether it helps there too. None if the
            attack changes the model or the steps.
    """

    prompt: str
    seed: int
    images: tuple[Image, ...]
    variant: str = ""
    found: Conditioning | None = None


def names() -> list[str]:
    """All attacks, sorted."""
    return plugins.names(__name__, GROUP)


def get(name: str) -> ModuleType:
    """The attack called `name`.

    Raises:
        ForgetError: attack.unknown.
    """
    return plugins.find(__name__, GROUP, name, "attack.unknown", "attack")


def defaults() -> list[str]:
    """The attacks that run unless others are named."""
    return [name for name in names() if getattr(get(name), "DEFAULT", True)]


def options(name: str, given: Mapping[str, object], *, published: bool = False) -> BaseModel:
    """An attack's settings.

    Args:
        published: begin with the values of its paper.
    Raises:
        ForgetError: attack.unknown, attack.unknown-option, attack.bad-option.
    """
    module = get(name)
    begin = dict(module.PUBLISHED) if published else {}
    return plugins.validated_options("attack", name, module.Options, {**begin, **given}, "attack")


def unsupported(attack: str, model: LoadedModel, reason: str) -> ForgetError:
    """The error of an attack that this model's family cannot run."""
    return ForgetError(
        "attack.unsupported",
        f"{model.base.id} cannot be attacked with {attack}: {reason}",
        "leave it out with --attacks",
    )
