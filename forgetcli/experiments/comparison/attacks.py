"""Attacks in a comparison: the same attacks, budget and seeds on every method's edit, and one
control, the unedited model, attacked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forgetcli.errors import ForgetError
from forgetcli.evaluation.figure import Figure
from forgetcli.experiments.comparison.edits import MethodEdit
from forgetcli.experiments.comparison.plan import ATTACKS, RecipePlan
from forgetcli.robustness import attacks as attacks_
from forgetcli.robustness.results import Attacked, Outcome, Rate, Robustness
from forgetcli.robustness.run import Request, Settings, attack_each

if TYPE_CHECKING:
    from forgetcli.progress import Observer


@dataclass(frozen=True)
class Attacking:
    """What every method of a comparison is attacked with.

    Attributes:
        names: the attacks; none: the methods are not attacked.
        options: attack → its settings.
        attempts: at drawing each concept.
    """

    names: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    attempts: int = 12

    def check(self) -> None:
        """Refuse what cannot be run before any edit is made.

        Raises:
            ForgetError: attack.unknown, attack.unknown-option, attack.bad-option; attack.no-attack:
                settings of an attack that is not run.
        """
        for name in self.names:
            attacks_.options(name, self.options.get(name, {}))
        for name in self.options:
            if name not in self.names:
                raise ForgetError(
                    "attack.no-attack",
                    f"--attack-set names '{name}', which is not among the attacks",
                    f"--attacks {','.join((*self.names, name))}",
                )


@dataclass(frozen=True)
class Tally:
    """One attack on one method's edit, over all concepts.

    Attributes:
        rate: attempts that brought a concept back, over the concepts with a verdict; over all of
            them if there is none.
        silence: why there is no verdict; empty if there is one.
    """

    rate: Rate
    silence: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of an attack in a row of ``compare --json``."""
        return {**self.rate.as_dict("success"), "no_verdict": self.silence}


def attacked(
    plan: RecipePlan,
    edits: Sequence[MethodEdit],
    attacking: Attacking,
    *,
    settings: Settings,
    judge: str,
    judge_options: Mapping[str, object] | None,
    device: str | None,
    observer: Observer,
) -> dict[str, Robustness]:
    """Method → what the attacks brought back; empty if nothing is attacked.

    Outcomes of an earlier run are used again, also if it had other methods or attacks.
    """
    folders = {edit.folder.name: edit for edit in edits if edit.fault is None}
    if not attacking.names or not folders:
        return {}
    found = attack_each(
        {name: edit.folder for name, edit in folders.items()},
        Request(
            attacks=attacking.names,
            options=attacking.options,
            judge=judge,
            judge_options=judge_options,
            settings=settings,
            output=plan.folder / ATTACKS,
            device=device,
            keep=True,
        ),
        observer,
    )
    return {folders[name].method: robustness for name, robustness in found.items()}


def resistance(robustness: Robustness | None) -> Figure:
    """1 − success of the strongest attack, as a score."""
    if robustness is None:
        return Figure(None, (0.0, 1.0), 0)
    found = robustness.resist()
    low, high = found["resist_ci"]
    return Figure(found["resist"], (low, high), found["resist_n"])


def tallies(robustness: Robustness) -> dict[str, Tally]:
    """Attack → its outcome on the edited model."""
    return {
        name: _tally(parts, [part.edited for part in parts])
        for name, parts in _by_attack(robustness).items()
    }


def control_tallies(robustness: Robustness) -> dict[str, Tally]:
    """Attack → its outcome on the unedited model, which is that of every method's control."""
    return {
        name: Tally(_pooled([part.control.success for part in parts if part.control is not None]))
        for name, parts in _by_attack(robustness).items()
    }


def pooled(parts: Sequence[Mapping[str, Tally]]) -> dict[str, Tally]:
    """The tallies over several recipes; those without a verdict count only if none has one."""
    names = dict.fromkeys(name for part in parts for name in part)
    result = {}
    for name in names:
        own = [part[name] for part in parts if name in part]
        telling = [tally for tally in own if not tally.silence]
        silence = "" if telling else own[0].silence
        result[name] = Tally(_pooled([tally.rate for tally in telling or own]), silence)
    return result


def _by_attack(robustness: Robustness) -> dict[str, list[Attacked]]:
    found: dict[str, list[Attacked]] = {}
    for each in robustness.attacked:
        found.setdefault(each.edited.attack, []).append(each)
    return found


def _tally(parts: Sequence[Attacked], outcomes: Sequence[Outcome]) -> Tally:
    telling = [own for part, own in zip(parts, outcomes, strict=True) if not part.no_verdict]
    silence = "" if telling else parts[0].no_verdict
    return Tally(_pooled([outcome.success for outcome in telling or outcomes]), silence)


def _pooled(rates: Sequence[Rate]) -> Rate:
    return Rate(sum(rate.successes for rate in rates), sum(rate.count for rate in rates))
