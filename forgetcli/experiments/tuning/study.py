"""The study on disk: optuna's journal, from which an interrupted search continues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from forgetcli.experiments.tuning.results import Trial

STUDY = "study.log"
STARTUP_TRIALS = 8  # random trials before the sampler and the pruner use their models
PRUNED_PERCENTILE = 40.0  # a trial whose first images score below this percentile is pruned

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}


def open_study(path: Path, start: Mapping[str, Any], seed: int) -> optuna.Study:
    """The study in a file, or a new study whose first trial is `start`.

    A trial that was interrupted is queued again.
    """
    study = optuna.create_study(
        study_name="tune",
        storage=JournalStorage(JournalFileBackend(str(path))),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.PercentilePruner(
            PRUNED_PERCENTILE, n_startup_trials=STARTUP_TRIALS, n_warmup_steps=0
        ),
    )
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


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Finished trials in their order, without the trials that were interrupted."""
    return [
        trial
        for trial in study.trials
        if trial.state.is_finished() and ("scores" in trial.user_attrs or "why" in trial.user_attrs)
    ]


def has_scores(study: optuna.Study) -> bool:
    """Whether any trial was scored on all images."""
    return any("scores" in trial.user_attrs for trial in study.trials)


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
