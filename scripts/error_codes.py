"""Write docs/error_codes.md: every error code of the package, where it is raised, and its message.

    python scripts/error_codes.py

Codes are read from the source: the first string of every call of an exception class, of
`Sheet.problem` (which adds ``recipe.``), of `refusal` and `fault` of prompt sets (``prompts.``) and
of the command line's `ErrorLine`.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "forgetcli"
PAGE = ROOT / "docs" / "error_codes.md"
CODE = re.compile(r"[a-z]+(\.[a-z-]+)?")
MAKERS = re.compile(r"(Forget|Recipe|Model|Edit|Output)Error|ErrorLine")
HEAD = """\
# Error codes

The code in `error[CODE]: …`, also `code` in JSON. Codes are stable: scripts may rely on them.
Written by `python scripts/error_codes.py`; `{…}` stands for what is known when the error occurs.

| code | raised in | meaning |
| --- | --- | --- |
"""


@dataclass(frozen=True)
class Raising:
    """One place that makes an error.

    Attributes:
        code: as users see it.
        module: dotted, without the package's name.
        message: template with ``{…}`` for computed parts; empty if the message is a variable.
    """

    code: str
    module: str
    message: str


def raisings(package: Path = PACKAGE) -> Iterator[Raising]:
    """Every place in the source that makes an error with a code, in file order."""
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package).with_suffix("").parts)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        seen: set[ast.Call] = set()
        for scope in (*functions, tree):
            calls = [node for node in ast.walk(scope) if isinstance(node, ast.Call)]
            assigned = _assigned(scope)
            for call in calls:
                if call not in seen:
                    yield from _raising(call, module.removesuffix(".__init__"), assigned)
            seen.update(calls)


def _assigned(scope: ast.AST) -> dict[str, ast.expr]:
    """What the names of a function are first set to: messages are often built before the error."""
    found: dict[str, ast.expr] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, node.value)
    return found


def _raising(call: ast.Call, module: str, assigned: dict[str, ast.expr]) -> Iterator[Raising]:
    name = getattr(call.func, "id", None) or getattr(call.func, "attr", "")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    prefix, code, message = "", None, None
    if name == "problem" and len(call.args) >= 3:
        prefix, code, message = "recipe.", call.args[0], call.args[2]
    elif name == "refusal" and len(call.args) >= 3:
        prefix, code, message = "prompts.", call.args[0], call.args[2]
    elif name == "fault" and len(call.args) >= 2:
        # Defaults of Document.fault and Sheet.fault.
        receiver = ast.unparse(call.func).split(".")[0]
        in_document = module.endswith(".document") or receiver == "document"
        usual = "bad-value" if in_document else "bad-row"
        given = call.args[3] if len(call.args) > 3 else keywords.get("code", ast.Constant(usual))
        prefix, code, message = "prompts.", given, call.args[1]
    elif name == "find" and (len(call.args) == 5 or {"code", "what"} <= keywords.keys()):
        # plugins.find raises with the code that its caller hands over.
        code, what = call.args[3:] if len(call.args) == 5 else (keywords["code"], keywords["what"])
        message = ast.Constant(f"there is no {_texts(what)[0]} '*'")
    elif name == "validated_options" and (call.args or keywords):
        # plugins.validated_options raises with the prefix that its caller hands over.
        given = call.args[4] if len(call.args) > 4 else keywords.get("code_prefix")
        for prefix in _texts(given):
            yield Raising(f"{prefix}.bad-option", module, "{…} '{…}': {…}: {…}")
            yield Raising(f"{prefix}.unknown-option", module, "{…} '{…}' has no setting '{…}'")
        return
    elif MAKERS.fullmatch(name) and len(call.args) + len(keywords) >= 2:
        code = call.args[0] if call.args else keywords.get("code")
        message = call.args[1] if len(call.args) > 1 else keywords.get("message")
    if isinstance(message, ast.Name):
        message = assigned.get(message.id)
    texts = _texts(message)
    for found in _texts(code):
        if "*" not in found:
            yield Raising(prefix + found, module, texts[0].replace("*", "{…}") if texts else "")


def _texts(node: ast.expr | None) -> list[str]:
    """The strings that an expression may be, with ``*`` for computed parts."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            options = [_texts(part) or ["*"] for part in parts]
            return ["".join(choice) for choice in itertools.product(*options)]
        case ast.FormattedValue(value=value):
            return _texts(value)
        case ast.IfExp(body=body, orelse=orelse):
            return [*_texts(body), *_texts(orelse)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            pairs = itertools.product(_texts(left) or ["*"], _texts(right) or ["*"])
            return ["".join(pair) for pair in pairs]
    return []


def page() -> str:
    """The document: a row for each code, sorted."""
    found: dict[str, list[Raising]] = {}
    for raising in raisings():
        found.setdefault(raising.code, []).append(raising)
    rows = []
    for code, places in sorted(found.items()):
        modules = ", ".join(f"`{module}`" for module in sorted({p.module for p in places}))
        message = next((p.message for p in places if p.message), "{…}")
        cell = " ".join(message.split()).replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{code}` | {modules} | {cell} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
