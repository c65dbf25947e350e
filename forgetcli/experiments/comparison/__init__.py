"""Every method beside the unedited model: one recipe, one base model, equal prompts and seeds, one
judge, one table.

recipe → an edit by each method, each in a process of its own → evaluation of all → rows, pooled
over recipes
"""

from forgetcli.experiments.comparison.plan import chosen
from forgetcli.experiments.comparison.results import ComparedRecipe, Comparison
from forgetcli.experiments.comparison.rows import UNEDITED, Row
from forgetcli.experiments.comparison.run import compare

__all__ = ["UNEDITED", "ComparedRecipe", "Comparison", "Row", "chosen", "compare"]
