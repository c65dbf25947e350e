"""Comparison of all methods and the unedited model, with equal recipe, base model, prompts, seeds
and judge.

recipe → an edit by each method, each in its own process → evaluation of all edits → rows of the
table, pooled over recipes
"""

from forgetcli.experiments.comparison.plan import chosen
from forgetcli.experiments.comparison.results import ComparedRecipe, Comparison
from forgetcli.experiments.comparison.rows import UNEDITED, Row
from forgetcli.experiments.comparison.run import compare

__all__ = ["UNEDITED", "ComparedRecipe", "Comparison", "Row", "chosen", "compare"]
