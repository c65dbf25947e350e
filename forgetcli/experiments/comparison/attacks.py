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
class AttackSelection:
    """The attacks that every method of a comparison is tested with.

    Attributes:
        names: of the attacks. Without any, the methods are not attacked.
        options: attack → its settings.
        attempts: number of attempts of each attack at each concept.
    """

    names: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    attempts: int = 12

    def check(self) -> None:
        """Refuse attacks and settings that cannot be run, before any edit is made.

        Raises:
            ForgetError: attack.unknown, attack.unknown-option, attack.bad-option; attack.no-attack:
                settings are given for an attack that is not selected.
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
        rate: successful attempts over the concepts with a verdict, or over all concepts if none
            has a verdict.
        no_verdict: the reason why there is no verdict; empty if there is one.
    """

    rate: Rate
    no_verdict: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The stable keys of an attack in a row of ``compare --json``."""
        return {**self.rate.as_dict("success"), "no_verdict": self.no_verdict}


def attack_edits(
    plan: RecipePlan,
    edits: Sequence[MethodEdit],
    selection: AttackSelection,
    *,
    settings: Settings,
    judge: str,
    judge_options: Mapping[str, object] | None,
    device: str | None,
    observer: Observer,
) -> dict[str, Robustness]:
    """Method → results of the attacks on its edit; empty without attacks or edits.

    Outcomes of an earlier run are reused, even if it had other methods or attacks.
    """
    folders = {edit.folder.name: edit for edit in edits if edit.fault is None}
    if not selection.names or not folders:
        return {}
    results = attack_each(
        {name: edit.folder for name, edit in folders.items()},
        Request(
            attacks=selection.names,
            options=selection.options,
            judge=judge,
            judge_options=judge_options,
            settings=settings,
            output=plan.folder / ATTACKS,
            device=device,
            keep=True,
        ),
        observer,
    )
    return {folders[name].method: robustness for name, robustness in results.items()}


def resistance(robustness: Robustness | None) -> Figure:
    """1 − success of the strongest attack, as a score."""
    if robustness is None:
        return Figure(None, (0.0, 1.0), 0)
    resist = robustness.resist()
    low, high = resist["resist_ci"]
    return Figure(resist["resist"], (low, high), resist["resist_n"])


def tallies(robustness: Robustness) -> dict[str, Tally]:
    """Attack → its outcome on the edited model."""
    return {
        name: _tally(parts, [part.edited for part in parts])
        for name, parts in _by_attack(robustness).items()
    }


def control_tallies(robustness: Robustness) -> dict[str, Tally]:
    """Attack → its outcome on the unedited model, the control of every method."""
    return {
        name: Tally(_pooled([part.control.success for part in parts if part.control is not None]))
        for name, parts in _by_attack(robustness).items()
    }


def pooled(parts: Sequence[Mapping[str, Tally]]) -> dict[str, Tally]:
    """The tallies pooled over several recipes.

    Tallies without a verdict count only if no tally has one.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    result = {}
    for name in names:
        every = [part[name] for part in parts if name in part]
        with_verdict = [tally for tally in every if not tally.no_verdict]
        no_verdict = "" if with_verdict else every[0].no_verdict
        result[name] = Tally(_pooled([tally.rate for tally in with_verdict or every]), no_verdict)
    return result


def _by_attack(robustness: Robustness) -> dict[str, list[Attacked]]:
    by_attack: dict[str, list[Attacked]] = {}
    for each in robustness.attacked:
        by_attack.setdefault(each.edited.attack, []).append(each)
    return by_attack


def _tally(parts: Sequence[Attacked], outcomes: Sequence[Outcome]) -> Tally:
    with_verdict = [
        outcome for part, outcome in zip(parts, outcomes, strict=True) if not part.no_verdict
    ]
    no_verdict = "" if with_verdict else parts[0].no_verdict
    return Tally(_pooled([outcome.success for outcome in with_verdict or outcomes]), no_verdict)


def _pooled(rates: Sequence[Rate]) -> Rate:
    return Rate(sum(rate.successes for rate in rates), sum(rate.count for rate in rates))
