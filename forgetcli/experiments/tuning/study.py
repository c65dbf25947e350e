"""The study on disk: optuna's journal, from which an interrupted search continues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from forgetcli.errors import ForgetError
from forgetcli.experiments.tuning.results import Trial
from forgetcli.storage.atomic import write_atomically
from forgetcli.storage.files import read_regular
from forgetcli.storage.json import decode

STUDY = "study.log"
LARGEST_STUDY = 1 << 28  # bytes; a trial has some thousand
STARTUP_TRIALS = 8  # random trials before the sampler and the pruner use their models
PRUNED_PERCENTILE = 40.0  # a trial whose first images score below this percentile is pruned

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}


def open_study(path: Path, start: Mapping[str, Any], seed: int) -> optuna.Study:
    """The study in a file, or a new study whose first trial is `start`.

    A trial that was interrupted is queued again.

    Raises:
        ForgetError: tune.damaged: the file is no journal of ours.
    """
    _forget_torn_line(path)
    try:
        study = _opened(path)
        _check_attributes(study)
    except (ForgetError, OSError):
        raise
    except Exception as fault:  # optuna trusts its journal
        raise _damaged(path, f"optuna cannot read it ({type(fault).__name__})") from fault
    if not study.trials:
        study.enqueue_trial(dict(start))
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    # A different seed after each interruption: with the same seed, the sampler would suggest again
    # what it has tried.
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials), n_startup_trials=STARTUP_TRIALS
    )
    return study


def _forget_torn_line(path: Path) -> None:
    """Remove what a run that was killed has written of a last line; optuna would append to it.

    Raises:
        ForgetError: tune.damaged: another line is no table in JSON.
    """
    try:
        data = read_regular(path, LARGEST_STUDY)
    except FileNotFoundError:
        return
    whole, newline, torn = data.rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if newline else (), start=1):
        try:
            sound = isinstance(decode(line), dict)
        except ValueError:
            sound = False
        if not sound:
            raise _damaged(path, f"line {number} is not valid")
    if torn:
        write_atomically(path, whole + newline)


def _check_attributes(study: optuna.Study) -> None:
    """Raise TypeError if a trial's value, or a note of `search` about it, has another type."""
    for trial in study.trials:
        notes = trial.user_attrs
        tables = [notes[key] for key in ("parameters", "scores") if key in notes]
        h = notes.get("scores", {}).get("h") if all(isinstance(t, dict) for t in tables) else "?"
        if not isinstance(h, float | int | None) or not isinstance(notes.get("why", ""), str):
            raise TypeError("a trial's notes")
        values = trial.values if trial.state == TrialState.COMPLETE else []
        if not (isinstance(values, list) and all(isinstance(v, float | int) for v in values)):
            raise TypeError("a trial's value")


def _damaged(path: Path, what: str) -> ForgetError:
    return ForgetError(
        "tune.damaged",
        f"{path} is damaged: {what}",
        "remove the file to start the search again, or choose another folder with -o",
    )


def _opened(path: Path) -> optuna.Study:
    return optuna.create_study(
        study_name="tune",
        storage=JournalStorage(JournalFileBackend(str(path))),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.PercentilePruner(
            PRUNED_PERCENTILE, n_startup_trials=STARTUP_TRIALS, n_warmup_steps=0
        ),
    )


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Finished trials in their order, without the trials that were interrupted."""
    return [
        trial
        for trial in study.trials
        if _is_scored(trial) or (trial.state.is_finished() and "why" in trial.user_attrs)
    ]


def has_scores(study: optuna.Study) -> bool:
    """Whether any trial was scored on all images."""
    return any(map(_is_scored, study.trials))


def _is_scored(trial: FrozenTrial) -> bool:
    """Not so if the run was killed after the scores were noted, and before the trial's value."""
    return trial.state == TrialState.COMPLETE and "scores" in trial.user_attrs


def recorded_trials(study: optuna.Study) -> tuple[Trial, ...]:
    """The finished trials, numbered from 0."""
    return tuple(
        Trial(
            number=number,
            parameters=trial.user_attrs.get("parameters", {}),
            state=STATES.get(trial.state, "failed"),
            scores=trial.user_attrs.get("scores"),
            why=trial.user_attrs.get("why", ""),
        )
        for number, trial in enumerate(finished(study))
    )
