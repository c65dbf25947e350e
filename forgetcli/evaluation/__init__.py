"""What an edit made a model forget and what it kept, compared with the unedited model.

All models are judged by one judge at equal prompts and seeds:
questions → images (generation) → verdicts (judges) → scores → results, report, gates
"""

from forgetcli.evaluation.questions import Question, of_prompt_set, of_recipe
from forgetcli.evaluation.results import Answer, Evaluation, Run, Subject
from forgetcli.evaluation.run import evaluate

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
