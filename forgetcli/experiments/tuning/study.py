"""The study: optuna's journal in the search's folder, from which an interrupted search can
continue, or a database that several machines share.
"""

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
LARGEST_STUDY = 1 << 28  # bytes; a trial takes some thousand bytes
STARTUP_TRIALS = 8  # random trials before the sampler and the pruner use earlier results
PRUNED_PERCENTILE = 40.0  # a trial whose first images score below this percentile is pruned

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}


def open_shared_study(storage: str, name: str, start: Mapping[str, Any]) -> optuna.Study:
    """Open or create the study `name` in a database. The first trial of a new study is `start`.

    Trials of other machines may be running, so none is queued again. The sampler has a random seed,
    because equal seeds would suggest equal values on every machine.

    Args:
        storage: a database URL as SQLAlchemy reads it.
    Raises:
        ForgetError: tune.storage: the database cannot be used.
    """
    try:
        study = _created(storage, name)
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS)
        if not study.trials:
            study.enqueue_trial(dict(start))
        _check_attributes(study)
    except Exception as fault:  # drivers and databases raise errors of their own
        # The URL and the error may contain a password.
        raise ForgetError(
            "tune.storage",
            f"the search's database cannot be used ({type(fault).__name__})",
            "--storage takes a URL such as sqlite:///search.db or postgresql://HOST/NAME, and "
            "the database's Python driver must be installed",
        ) from fault
    return study


def open_study(path: Path, start: Mapping[str, Any], seed: int) -> optuna.Study:
    """Open the study in a file, or create a study whose first trial is `start`.

    Interrupted trials are queued again.

    Raises:
        ForgetError: tune.damaged: the file is not a journal that forget wrote.
    """
    _remove_partial_line(path)
    try:
        study = _opened(path)
        _check_attributes(study)
    except (ForgetError, OSError):
        raise
    except Exception as fault:  # optuna does not check its journal, so any error can occur
        raise _damaged(path, f"optuna cannot read it ({type(fault).__name__})") from fault
    if not study.trials:
        study.enqueue_trial(dict(start))
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    # The seed differs after each interruption. With the same seed, the sampler would suggest the
    # values of earlier trials again.
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials), n_startup_trials=STARTUP_TRIALS
    )
    return study


def _remove_partial_line(path: Path) -> None:
    """Remove a partial last line of a killed run, because optuna would append to it.

    Raises:
        ForgetError: tune.damaged: another line is not a JSON object.
    """
    try:
        data = read_regular(path, LARGEST_STUDY)
    except FileNotFoundError:
        return
    complete, newline, partial = data.rpartition(b"\n")
    for number, line in enumerate(complete.split(b"\n") if newline else (), start=1):
        try:
            is_object = isinstance(decode(line), dict)
        except ValueError:
            is_object = False
        if not is_object:
            raise _damaged(path, f"line {number} is not valid")
    if partial:
        write_atomically(path, complete + newline)


def _check_attributes(study: optuna.Study) -> None:
    """Raise TypeError if a trial's value or one of its attributes has the wrong type."""
    for trial in study.trials:
        attributes = trial.user_attrs
        for key in ("parameters", "scores"):
            if not isinstance(attributes.get(key, {}), dict):
                raise TypeError(f"a trial's {key}")
        if not isinstance(attributes.get("scores", {}).get("h"), float | int | None):
            raise TypeError("a trial's H")
        if not isinstance(attributes.get("why", ""), str):
            raise TypeError("a trial's reason")
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
    return _created(JournalStorage(JournalFileBackend(str(path))), "tune")


def _created(storage: JournalStorage | str, name: str) -> optuna.Study:
    return optuna.create_study(
        study_name=name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.PercentilePruner(
            PRUNED_PERCENTILE, n_startup_trials=STARTUP_TRIALS, n_warmup_steps=0
        ),
    )


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials in order, without interrupted trials."""
    return [
        trial
        for trial in study.trials
        if _is_scored(trial) or (trial.state.is_finished() and "why" in trial.user_attrs)
    ]


def has_scores(study: optuna.Study) -> bool:
    """Whether any trial was scored on all images."""
    return any(map(_is_scored, study.trials))


def _is_scored(trial: FrozenTrial) -> bool:
    """Whether a trial has a value and scores. A killed run can leave a trial with scores only."""
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
