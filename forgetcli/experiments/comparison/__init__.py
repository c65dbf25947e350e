"""Every method beside the unedited model: one recipe, one base, equal prompts and seeds, one judge,
one table.

recipe → an edit by each method, each in a process of its own → evaluation of all → rows, pooled
over recipes
"""

from forgetcli.experiments.comparison.rows import UNEDITED, Row
from forgetcli.experiments.comparison.run import Compared, Comparison, chosen, compare

__all__ = ["UNEDITED", "Compared", "Comparison", "Row", "chosen", "compare"]
