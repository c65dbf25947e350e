"""What a denoiser predicts, as single files say it themselves.

The weights of two networks that predict different things have the same names and shapes. With the
wrong settings a network generates noise, and every figure about it is wrong. A file's own marks
override the settings that were found for it (`followed`). Settings that the user named, and marks
that no settings can follow, are checked instead (`check`).
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
ZERO_SNR = "rescale_betas_zero_snr"
# The schedulers of diffusers that have the setting `ZERO_SNR`; others ignore it.
ZERO_SNR_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
# The values of `METADATA` that are written differently in a scheduler's config.
_NAMES = {"v": VELOCITY, "velocity": VELOCITY, "eps": EPSILON}


def check(
    path: Path,
    keys: Container[str],
    metadata: Mapping[str, str],
    settings: Path,
    *,
    chosen: bool = False,
) -> None:
    """Check that settings agree with what a single file says about its prediction, or can follow.

    Args:
        path: the file, for messages.
        keys: the names of its tensors.
        metadata: the text in its header.
        settings: the diffusers folder whose scheduler is to be used with it.
        chosen: whether the user named this folder. It then has to agree as it is.
    Raises:
        ModelError: model.prediction: they do not agree; model.no-config: the scheduler's config is
            not valid.
    """
    own = _scheduler(settings)
    if own is None:
        return
    class_name = str(own.get("_class_name"))
    if any(key in keys for key in EDM_KEYS):
        if "EDM" not in class_name:
            raise _disagree(path, settings, "is an EDM model (edm_mean, edm_vpred)", "an EDM class")
        return
    scheduler = own if chosen else followed(own, keys, metadata)
    predicted = scheduler.get("prediction_type", EPSILON)
    marked = _marked(keys, metadata)
    if marked is not None and marked != predicted:
        raise _disagree(path, settings, f"predicts '{marked}'", f'"prediction_type": "{marked}"')
    # With zero SNR nothing is left of the image in the first x_t: ε says nothing about it.
    cannot = chosen or predicted == EPSILON or class_name not in ZERO_SNR_SCHEDULERS
    if ZERO_SNR_KEY in keys and own.get(ZERO_SNR) is not True and cannot:
        needed = f'"{ZERO_SNR}": true'
        raise _disagree(path, settings, "predicts with zero terminal SNR (ztsnr)", needed)


def followed(
    scheduler: Mapping[str, Any], keys: Container[str], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """The settings of a scheduler, with those that a single file states itself in their place.

    The tensors override the header's text, as in ComfyUI. Zero terminal SNR needs steps that begin
    at the last time step (Lin et al., arXiv 2305.08891, section 3.3): ``trailing``.

    Args:
        keys: the names of the file's tensors.
        metadata: the text in its header.
    """
    settings = dict(scheduler)
    if any(key in keys for key in EDM_KEYS):
        return settings
    marked = _marked(keys, metadata)
    found = settings.get("prediction_type", EPSILON)
    if marked in (EPSILON, VELOCITY) and found in (EPSILON, VELOCITY):
        settings["prediction_type"] = marked
    if ZERO_SNR_KEY in keys and settings.get(ZERO_SNR) is not True:
        settings |= {ZERO_SNR: True, "timestep_spacing": "trailing"}
    return settings


def marks(scheduler: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the empty tensors that tell ComfyUI, A1111 and `followed` the prediction.

    Empty for models that predict the noise, as single files without marks do.
    """
    if scheduler.get("prediction_type") != VELOCITY:
        return ()
    return (VELOCITY_KEY, ZERO_SNR_KEY) if scheduler.get(ZERO_SNR) is True else (VELOCITY_KEY,)


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
