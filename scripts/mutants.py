"""Mutation testing of the package's mathematics: changes one operator, number or condition at a
time and runs the tests, which have to fail.

    python scripts/mutants.py SECONDS      prints killed/all for each module, and the survivors

Works on a copy of the checkout. Each mutant is tested in a process forked from one that has torch
loaded. Which mutants are tried within the time is drawn with a fixed seed.
"""

from __future__ import annotations

import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "forgetcli/linalg/*.py": [
        "tests/linalg",
        "tests/methods/test_uce.py",
        "tests/methods/test_speed.py",
        "tests/methods/test_emcid.py",
    ],
    "forgetcli/evaluation/intervals.py": ["tests/evaluation/test_intervals.py"],
    "forgetcli/evaluation/scores.py": [
        "tests/evaluation/test_scores.py",
        "tests/evaluation/test_evaluation.py",
    ],
    "forgetcli/evaluation/gates.py": [
        "tests/evaluation/test_gates.py",
        "tests/evaluation/test_evaluation.py",
    ],
}
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
}
LIMIT = 90  # seconds for the tests of one mutant; a mutant that takes longer counts as killed


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, description and text of each mutant."""
    count = sum(1 for _ in ast.walk(ast.parse(source)))
    for index in range(count):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[index]
        before = ast.unparse(node) if hasattr(node, "lineno") else ""
        if _mutate(node):
            yield node.lineno, f"{before} → {ast.unparse(node)}", ast.unparse(tree)


def _mutate(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        # `X | None` in annotations is no arithmetic.
        node.op = OPERATORS[type(node.op)]()
        return True
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        node.ops[0] = OPERATORS[type(node.ops[0])]()
        return True
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        node.value = node.value + 1 if isinstance(node.value, int) else node.value * 1.5 + 0.01
        return True
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
        return True
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
        return True
    if isinstance(node, ast.Return) and node.value is not None:
        node.value = ast.Constant(None)
        return True
    return False


def passes(tests: list[str]) -> bool:
    """Whether the tests pass, in a forked process."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(LIMIT)
        with open(os.devnull, "w") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))
    return os.waitpid(pid, 0)[1] == 0


def main() -> int:
    budget = float(sys.argv[1])
    work = Path(tempfile.mkdtemp(prefix="mutants-"))
    for name in ("forgetcli", "tests", "recipes"):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", work)
    os.chdir(work)
    sys.path[:0] = [str(work), str(work / "tests")]
    sys.dont_write_bytecode = True
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401

    jobs = [
        (path, mutant, [test for test in tests if Path(test).exists()])
        for pattern, tests in TESTS.items()
        for path in sorted(Path().glob(pattern))
        for mutant in mutants(path.read_text(encoding="utf-8"))
    ]
    random.Random(0).shuffle(jobs)
    begun = time.monotonic()
    tried: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    for path, (line, what, text), tests in jobs:
        if time.monotonic() - begun > budget:
            break
        original = path.read_bytes()
        path.write_text(text, encoding="utf-8")
        survived = passes(tests)
        path.write_bytes(original)
        tried[str(path)] += 1
        killed[str(path)] += not survived
        if survived:
            print(f"survived  {path}:{line}: {what}", flush=True)
    for name in sorted(tried):
        print(f"{name:45}{killed[name]:4} / {tried[name]}")
    print(f"killed {killed.total()} of {tried.total()} tried; {len(jobs)} mutants in all")
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
