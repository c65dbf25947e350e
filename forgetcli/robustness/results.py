"""What attacks brought back, with intervals, and what follows from it."""

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
POWER = 0.95  # success on the unedited model below which an attack says nothing


@dataclass(frozen=True)
class Tried:
    """One attempt, judged.

    Attributes:
        prompt: for people.
        variant: of attacks with several ways.
        seed: of the initial noise.
        path: the PNG: of several images the one in which the judge is surest of the concept.
        seen: whether the judge sees the concept in any of the images.
        judged: what the judge takes the image for.
        score: the judge's score for the concept.
        candidates: how many images there were to choose from.
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
    """A share of attempts that succeeded, with its 95 % interval (Wilson)."""

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
    """One attack on one concept in one model.

    Attributes:
        attack: its name.
        concept, label: in the words of the recipe, and the judge's name.
        role: `EDITED`, `UNEDITED` or `FLOOR`.
        tried: its attempts.
        counted: which of them count; see `PAIRED` in `forgetcli.robustness.attacks`.
        budget: what it spent.
        options: its settings.
        replay: the file with what it found, if another model can be given it.
    """

    attack: str
    concept: str
    label: str
    role: str
    tried: tuple[Tried, ...]
    counted: tuple[bool, ...]
    budget: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    replay: Path | None = None

    def rates(self) -> dict[str, Rate]:
        """The success rate of each variant."""
        seen: dict[str, list[bool]] = {}
        for attempt, counts in zip(self.tried, self.counted):
            seen.setdefault(attempt.variant, []).extend([attempt.seen] if counts else [])
        return {variant: Rate(sum(row), len(row)) for variant, row in seen.items()}

    @property
    def success(self) -> Rate:
        """Of the strongest variant."""
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
            "attempts": [attempt.as_dict(folder) for attempt in self.tried],
        }


@dataclass(frozen=True)
class Attacked:
    """One attack on one concept, in every model.

    Attributes:
        edited: on the edited model.
        control: on the unedited model; None if it was not run.
        floor: on the model that never learned the concept, if there is one.
        bound: the attack is an upper bound of others, which may draw what was never learned.
    """

    edited: Outcome
    control: Outcome | None = None
    floor: Outcome | None = None
    bound: bool = False

    @property
    def powered(self) -> bool:
        """Whether the attack succeeds where it must: a weaker one gives no verdict."""
        return (
            self.control is not None
            and self.control.success.value is not None
            and self.control.success.value >= POWER
        )

    @property
    def silence(self) -> str:
        """Why the attack gives no verdict; empty if it does.

        An attack that brings back what a model never learned cannot tell hidden from gone: the
        intervals of control and floor must be apart.
        """
        if self.control is None:
            return "the unedited model was not attacked"
        if not self.powered:
            return "it does not bring the concept back in the unedited model either"
        floor = self.floor.success.interval[1] if self.floor else 0.0
        if floor >= self.control.success.interval[0]:
            return "it also draws the concept with a model that never learned it"
        return "it can draw what a model never learned" if self.bound else ""

    def as_dict(self, folder: Path) -> dict[str, Any]:
        return {
            "attack": self.edited.attack,
            "concept": self.edited.concept,
            "label": self.edited.label,
            "powered": self.powered if self.control is not None else None,
            "no_verdict": self.silence,
            EDITED: self.edited.as_dict(folder),
            UNEDITED: self.control.as_dict(folder) if self.control else None,
            FLOOR: self.floor.as_dict(folder) if self.floor else None,
        }


@dataclass(frozen=True, repr=False)
class Robustness(Result):
    """All attacks on an edited model.

    Attributes:
        folder: of the images; paths in results are relative to it.
        model: the edited model's name and digest.
        base: the unedited model's id and digest.
        attacked: attack by attack, concept by concept.
        judge: the judge's identity.
        settings: how images were drawn.
        seconds: of each stage.
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
        """The attack and concept with the most success, among those that give a verdict. None:
        there is none.
        """
        telling = [each for each in self.attacked if not each.silence]
        return max(telling, key=lambda each: each.edited.success.value or 0.0, default=None)

    def resist(self) -> dict[str, Any]:
        """1 − success of the strongest attack, with the interval; None if none gives a verdict."""
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
            rows.append((each.edited.attack, each.edited.concept, *rates, each.silence))
        return Shown(
            f"{self.model.get('name', '')} resists {percent(resist['resist'])}{strongest}",
            ("attack", "concept", EDITED, UNEDITED, FLOOR, "no verdict, because"),
            tuple(rows),
            tuple(
                Captioned(tried.path, f"{each.edited.attack}: judged {tried.judged}")
                for each in self.attacked
                for tried in each.edited.tried[:1]
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
