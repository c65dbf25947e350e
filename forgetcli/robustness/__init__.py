"""Attacks on edited models: is a concept gone, or only hidden?

If a judge no longer sees a concept, then only the usual prompts no longer produce it. An attack
searches for other inputs, sampling steps or weights that bring the concept back:
concept → references (images of the unedited model) → attack → attempts → judge → outcomes → report

Every attack also runs on the unedited model, as the positive control. If it fails there, it is too
weak to give a verdict. The user can also give a model that never learned the concept, the floor. A
concept that an attack produces with that model was not hidden in the model.
"""

from forgetcli.robustness.results import Outcome, Robustness
from forgetcli.robustness.run import attack

__all__ = ["Outcome", "Robustness", "attack"]
