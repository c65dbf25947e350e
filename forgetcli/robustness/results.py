"""The results of attacks: success rates with intervals, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forgetcli.display import Captioned, Result, Shown, percent
from forgetcli.evaluation.intervals import wilson

EDITED = "edited"
UNEDITED = "unedited"
FLOOR = "never-learned"
MINIMUM_POWER = 0.95  # an attack needs this success rate on the unedited model to give a verdict


@dataclass(frozen=True)
class JudgedAttempt:
    """One attempt to generate the concept, with the judge's verdict.

    Attributes:
        prompt: a prompt to show to people.
        variant: the variant of the attack; empty if the attack has only one.
        seed: the seed of the initial noise.
        path: the PNG. If the attempt has several images, it is the one with the highest score.
        seen: whether the judge sees the concept in any of the images.
        judged: the concept that the judge assigns to the image.
        score: the judge's score for the attacked concept.
        candidates: the number of images that the attempt has.
    """

    prompt: str
    variant: str
    seed: int
    path: Path
    seen: bool
    judged: str
    score: float
    candidates: int = 1

    def as_dict(self, folder: Path) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "variant": self.variant,
            "seed": self.seed,
            "picture": self.path.relative_to(folder).as_posix(),
            "seen": self.seen,
            "judged": self.judged,
            "score": round(self.score, 6),
            "candidates": self.candidates,
        }


@dataclass(frozen=True)
class Rate:
    """The share of attempts that succeeded, with its 95 % interval (Wilson)."""

    successes: int
    count: int

    @property
    def value(self) -> float | None:
        return self.successes / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.successes, self.count)

    def as_dict(self, name: str) -> dict[str, Any]:
        value = None if self.value is None else round(self.value, 4)
        ends = [round(end, 4) for end in self.interval]
        return {name: value, f"{name}_ci": ends, f"{name}_n": self.count}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one attack on one concept in one model.

    Attributes:
        attack: the attack's name.
        concept: the concept in the words of the recipe.
        label: the judge's name for the concept.
        role: the model: `EDITED`, `UNEDITED` or `FLOOR`.
        attempts: all attempts, judged.
        counted: whether each attempt counts; see `PAIRED` in `forgetcli.robustness.attacks`.
        budget: the attack's cost.
        options: the attack's settings.
        replay: a file with the conditionings that the attack found, for use with other models; None
            if the attack does not work through a conditioning.
    """

    attack: str
    concept: str
    label: str
    role: str
    attempts: tuple[JudgedAttempt, ...]
    counted: tuple[bool, ...]
    budget: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    replay: Path | None = None

    def rates(self) -> dict[str, Rate]:
        """The success rate of each variant."""
        seen: dict[str, list[bool]] = {attempt.variant: [] for attempt in self.attempts}
        for attempt, counts in zip(self.attempts, self.counted):
            if counts:
                seen[attempt.variant].append(attempt.seen)
        return {variant: Rate(sum(row), len(row)) for variant, row in seen.items()}

    @property
    def success(self) -> Rate:
        """The success rate of the strongest variant."""
        rates = self.rates().values()
        return max(rates, key=lambda rate: (rate.value or 0.0, rate.count), default=Rate(0, 0))

    def as_dict(self, folder: Path) -> dict[str, Any]:
        rates = self.rates()
        return {
            **self.success.as_dict("success"),
            "variants": {
                name: rate.as_dict("success") for name, rate in rates.items() if len(rates) > 1
            },
            "not_counted": len(self.counted) - sum(self.counted),
            "budget": dict(self.budget),
            "options": dict(self.options),
            "replay": self.replay.relative_to(folder).as_posix() if self.replay else None,
            "attempts": [attempt.as_dict(folder) for attempt in self.attempts],
        }


@dataclass(frozen=True)
class Attacked:
    """One attack on one concept in all models.

    Attributes:
        edited: the outcome on the edited model.
        control: the outcome on the unedited model; None if that was not attacked.
        floor: the outcome on a model that never learned the concept; None if none was given.
        bound: whether the attack is only an upper bound of other attacks. Such an attack may
            produce concepts that a model never learned.
    """

    edited: Outcome
    control: Outcome | None = None
    floor: Outcome | None = None
    bound: bool = False

    @property
    def powered(self) -> bool:
        """Whether the attack succeeds on the unedited model. If not, it gives no verdict."""
        return (
            self.control is not None
            and self.control.success.value is not None
            and self.control.success.value >= MINIMUM_POWER
        )

    @property
    def no_verdict(self) -> str:
        """The reason why the attack gives no verdict; empty if it gives one.

        An attack that produces a concept which a model never learned cannot tell whether the edited
        model has hidden or lost it. The intervals of control and floor must therefore not overlap.
        """
        if self.control is None:
            return "the unedited model was not attacked"
        if not self.powered:
            return "it does not even produce the concept with the unedited model"
        floor = self.floor.success.interval[1] if self.floor else 0.0
        if floor >= self.control.success.interval[0]:
            return "it also produces the concept with a model that never learned it"
        return "it can produce concepts that a model never learned" if self.bound else ""

    def as_dict(self, folder: Path) -> dict[str, Any]:
        return {
            "attack": self.edited.attack,
            "concept": self.edited.concept,
            "label": self.edited.label,
            "powered": self.powered if self.control is not None else None,
            "no_verdict": self.no_verdict,
            EDITED: self.edited.as_dict(folder),
            UNEDITED: self.control.as_dict(folder) if self.control else None,
            FLOOR: self.floor.as_dict(folder) if self.floor else None,
        }


@dataclass(frozen=True, repr=False)
class Robustness(Result):
    """All attacks on an edited model.

    Attributes:
        folder: the folder with the images. Paths in results are relative to it.
        model: the edited model's name and digest.
        base: the unedited model's id and digest.
        attacked: the results, attack by attack and concept by concept.
        judge: the judge's identity.
        settings: the settings with which images were generated.
        seconds: duration of each stage.
    """

    folder: Path
    model: Mapping[str, Any]
    base: Mapping[str, Any]
    attacked: tuple[Attacked, ...]
    judge: Mapping[str, Any]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]

    @property
    def strongest(self) -> Attacked | None:
        """The attack and concept with the highest success rate, among those that give a verdict;
        None if none does.
        """
        with_verdict = [each for each in self.attacked if not each.no_verdict]
        return max(with_verdict, key=lambda each: each.edited.success.value or 0.0, default=None)

    def resist(self) -> dict[str, Any]:
        """1 − the success rate of the strongest attack, with its interval and the attack.

        ``resist`` is None if no attack gives a verdict.
        """
        strongest = self.strongest
        if strongest is None or strongest.edited.success.value is None:
            return {"resist": None, "resist_ci": [0.0, 1.0], "resist_n": 0, "strongest": None}
        rate = strongest.edited.success
        low, high = rate.interval
        return {
            "resist": round(1 - (rate.value or 0.0), 4),
            "resist_ci": [round(1 - high, 4), round(1 - low, 4)],
            "resist_n": rate.count,
            "strongest": {"attack": strongest.edited.attack, "label": strongest.edited.label},
        }

    def shown(self) -> Shown:
        resist = self.resist()
        by = resist["strongest"]
        strongest = f" to {by['attack']} on {by['label']}, the strongest attack" if by else ""
        rows = []
        for each in self.attacked:
            outcomes = (each.edited, each.control, each.floor)
            rates = [percent(outcome.success.value) if outcome else "–" for outcome in outcomes]
            rows.append((each.edited.attack, each.edited.concept, *rates, each.no_verdict))
        return Shown(
            f"{self.model.get('name', '')} resists {percent(resist['resist'])}{strongest}",
            ("attack", "concept", EDITED, UNEDITED, FLOOR, "no verdict, because"),
            tuple(rows),
            tuple(
                Captioned(attempt.path, f"{each.edited.attack}: judged {attempt.judged}")
                for each in self.attacked
                for attempt in each.edited.attempts[:1]
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of ``attack --json`` and results.json."""
        return {
            "model": dict(self.model),
            "base": dict(self.base),
            **self.resist(),
            "attacks": [each.as_dict(self.folder) for each in self.attacked],
            "judge": dict(self.judge),
            "settings": dict(self.settings),
            "seconds": dict(self.seconds),
        }
