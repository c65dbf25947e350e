"""How much was forgotten and how much was kept, beside the unedited model, through one judge at
equal seeds.

questions → pictures (generation) → verdicts (judges) → scores → results, report, gates
"""

from forgetcli.evaluation.questions import Question, of_prompt_set, of_recipe
from forgetcli.evaluation.run import Answer, Evaluation, Run, Subject, evaluate

__all__ = [
    "Answer",
    "Evaluation",
    "Question",
    "Run",
    "Subject",
    "evaluate",
    "of_prompt_set",
    "of_recipe",
]
