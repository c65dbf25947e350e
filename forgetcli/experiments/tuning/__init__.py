"""A search for a method's parameters on the evaluation prompts of a recipe.

Every trial edits the model, generates images and scores them like any evaluation. The objective
is H. The first trial has the recipe's own values, so the result is never worse than the recipe on
these prompts. The best of many trials is an optimistic estimate: measure it with ``forget eval`` on
prompts and concepts that the search did not use.
"""

from forgetcli.experiments.tuning.results import Trial, Tuned
from forgetcli.experiments.tuning.run import tune

__all__ = ["Trial", "Tuned", "tune"]
