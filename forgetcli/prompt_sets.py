"""The documented import path for prompt-set plug-ins; the code is
`forgetcli.evaluation.prompt_sets`.
"""

from __future__ import annotations

from forgetcli.evaluation.prompt_sets import (
    EvalPrompt,
    PromptSet,
    PromptSetError,
    Sheet,
    formats,
    load,
)

__all__ = ["EvalPrompt", "PromptSet", "PromptSetError", "Sheet", "formats", "load"]
