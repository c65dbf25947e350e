"""Attacks on edited models: is a concept gone, or only hidden?

A judge that no longer sees a concept says only that the usual prompts do not show it. An attack
searches for what brings it back:
concept → references (images of the unedited model) → attack → attempts → judge → outcomes → report

Every attack also runs on the unedited model, where it must succeed: one that does not is too weak
to say anything. A model that never learned the concept, where there is one, gives the floor: what
an attack draws there was not in the model.
"""

from forgetcli.robustness.results import Outcome, Robustness
from forgetcli.robustness.run import attack

__all__ = ["Outcome", "Robustness", "attack"]
