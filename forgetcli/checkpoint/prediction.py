"""What a denoiser predicts, as single files say it themselves, checked against their settings.

The weights of two networks that predict different things have the same names and shapes. With the
wrong settings a network generates noise, and every figure about it is wrong.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from forgetcli.errors import ModelError
from forgetcli.storage.json import read_json

SCHEDULER = "scheduler/scheduler_config.json"
EPSILON = "epsilon"
VELOCITY = "v_prediction"
METADATA = "modelspec.prediction_type"
# Empty tensors or scalars with which ComfyUI and A1111 know the kind of a checkpoint.
VELOCITY_KEY = "v_pred"
ZERO_SNR_KEY = "ztsnr"
EDM_KEYS = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
# The values of `METADATA` that are written differently in a scheduler's config.
_NAMES = {"v": VELOCITY, "velocity": VELOCITY, "eps": EPSILON}


def check(path: Path, keys: Container[str], metadata: Mapping[str, str], settings: Path) -> None:
    """Check that settings agree with what a single file says about its prediction.

    Args:
        path: the file, for messages.
        keys: the names of its tensors.
        metadata: the text in its header.
        settings: the diffusers folder whose scheduler is to be used with it.
    Raises:
        ModelError: model.prediction: they do not agree; model.no-config: the scheduler's config is
            not valid.
    """
    scheduler = _scheduler(settings)
    if scheduler is None:
        return
    predicted = scheduler.get("prediction_type", EPSILON)
    marked = _marked(keys, metadata)
    if any(key in keys for key in EDM_KEYS):
        if "EDM" not in str(scheduler.get("_class_name")):
            raise _disagree(path, settings, "is an EDM model (edm_mean, edm_vpred)", "an EDM class")
    elif marked is not None and marked != predicted:
        raise _disagree(path, settings, f"predicts '{marked}'", f'"prediction_type": "{marked}"')
    elif ZERO_SNR_KEY in keys and scheduler.get("rescale_betas_zero_snr") is not True:
        needed = '"rescale_betas_zero_snr": true'
        raise _disagree(path, settings, "predicts with zero terminal SNR (ztsnr)", needed)


def _marked(keys: Container[str], metadata: Mapping[str, str]) -> str | None:
    """What the file says it predicts, in the terms of schedulers; None if it says nothing."""
    if VELOCITY_KEY in keys:
        return VELOCITY
    word = metadata.get(METADATA, "").strip().lower()
    return _NAMES.get(word, word) or None


def _scheduler(settings: Path) -> dict[str, Any] | None:
    try:
        config = read_json(settings / SCHEDULER)
    except FileNotFoundError:  # reported where a scheduler is needed
        return None
    except (OSError, ValueError) as fault:
        raise _not_valid(settings, str(fault)) from fault
    if not isinstance(config, dict):
        raise _not_valid(settings, "it is no table")
    return config


def _not_valid(settings: Path, fault: str) -> ModelError:
    return ModelError(
        "model.no-config", f"{settings / SCHEDULER} is not valid: {fault}", "fetch the folder again"
    )


def _disagree(path: Path, settings: Path, what: str, needed: str) -> ModelError:
    return ModelError(
        "model.prediction",
        f"{path} says that it {what[:100]}, but the settings in {settings} predict otherwise",
        "give a diffusers folder of its kind with --config: "
        f"its {SCHEDULER} must have {needed[:100]}",
    )
