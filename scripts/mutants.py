"""Mutation testing: changes one thing in a module at a time and runs the tests, which have to fail.

    python scripts/mutants.py [MODULE ...] [--seconds 280] [--sample 40] [--again] [--survivors]

MODULE is a part of a path, such as ``linalg`` or ``storage/atomic``. Results are kept in
build/mutants/results.jsonl, and a second call goes on where the first one stopped.

What is changed: operators, comparisons, numbers, booleans and conditions. Returned values become
None. Calls whose value nobody uses and ``raise`` statements are removed. Annotations, decorators
(mypy checks what ``frozen=True`` forbids), texts and the arguments of errors stay as they are.

The tests of a module are run once without a mutant and traced. A mutant is then tested by the tests
that reach its statement, quickest first, and by those that start processes; the first failure ends
the run. Everything happens in a copy of the checkout. Each run is forked from a process that has
imported the libraries.

Mutants that behave like the original are listed in scripts/mutants_equivalent.toml, each with the
reason. They are tested too: one that a test kills must not be on the list.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import hashlib
import inspect
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
RESULTS = BUILD / "results.jsonl"
EQUIVALENT = ROOT / "scripts" / "mutants_equivalent.toml"

# The tests of each module or folder of modules.
TESTS = {
    "forgetcli/linalg/": (
        "tests/linalg",
        "tests/methods/test_rece.py",
        "tests/methods/test_speed.py",
        "tests/methods/test_emcid.py",
    ),
    "forgetcli/evaluation/intervals.py": (
        "tests/evaluation/test_intervals.py",
        "tests/evaluation/test_axes.py",
    ),
    "forgetcli/evaluation/scores.py": (
        "tests/evaluation/test_evaluation.py",
        "tests/evaluation/test_axes.py",
    ),
    "forgetcli/evaluation/gates.py": (
        "tests/evaluation/test_evaluation.py",
        "tests/evaluation/test_axes.py",
    ),
    "forgetcli/storage/": (
        "tests/storage",
        "tests/checkpoint/test_base.py",
        "tests/artifact/test_output_files.py",
    ),
    "forgetcli/verification/": ("tests/verification",),
}
# Tests that take too long to be run for every mutant, by parts of their names.
SLOW = ("embedded_model", "mutation", "the_sweep_fails", "commands_of_the_help", "edit_of_an_edit")
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.MatMult: ast.Mult,
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
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}
LONGEST = 8  # processor seconds of a test that is still run for a mutant
PATIENCE = 10  # processor seconds for the tests of one mutant, beyond three times their own


# Mutants


@dataclass(frozen=True)
class Mutant:
    """One changed copy of a module.

    Attributes:
        path: the module.
        line: of the change, in the original.
        lines: of the code that a test must reach to notice the change.
        name: what was changed where; unique within the module and without line numbers.
        text: the changed module.
        id: of this change of this code; texts do not count, nor does the rest of the module.
    """

    path: str
    line: int
    lines: range
    name: str
    text: str
    id: str


def mutants(path: str) -> list[Mutant]:
    """All mutants of a module, in the order of the source."""
    source = (ROOT / path).read_text(encoding="utf-8")
    lines = source.splitlines()
    tree = ast.parse(source)
    digests = {
        node.name: _digest(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    made, names = [], Counter[str]()
    for node, function, reach in list(_nodes(tree, "module", range(1, len(lines) + 1))):
        before = " ".join(ast.unparse(node).split())
        undo = _mutate(node)
        if undo is None:
            continue
        after = " ".join(ast.unparse(node).split())
        name = f"{function}: {before} → {after}"
        name += f"   in: {lines[node.lineno - 1].strip()}"
        names[name] += 1
        if names[name] > 1:
            name += f"   ({names[name]})"
        key = f"{path}\n{name}\n{digests.get(function, '')}"
        identity = hashlib.sha256(key.encode()).hexdigest()[:16]
        made.append(Mutant(path, node.lineno, reach, name, ast.unparse(tree), identity))
        undo()
    return made


def _digest(function: ast.FunctionDef) -> str:
    """The code of a function without its texts."""
    copied = copy.deepcopy(function)
    for node in ast.walk(copied):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return hashlib.sha256(ast.dump(copied).encode()).hexdigest()


def _nodes(node: ast.AST, function: str, reach: range) -> Iterator[tuple[Any, str, range]]:
    """Every node that may be changed, the function around it, and the lines that a test must
    reach.
    """
    for child in _children(node):
        name, lines = function, reach
        if isinstance(child, ast.FunctionDef):
            name = child.name
            lines = range(child.lineno, child.end_lineno + 1)
        elif isinstance(child, ast.stmt) and function != "module":
            body = getattr(child, "body", None)
            last = body[0].lineno - 1 if body else child.end_lineno
            lines = range(child.lineno, max(last, child.lineno) + 1)
        if hasattr(child, "lineno"):
            yield child, name, lines
        yield from _nodes(child, name, lines)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.AST):
                yield child


def _mutate(node: Any) -> Callable[[], None] | None:
    """Change a node in place and return what undoes it, or None if there is nothing to change."""
    kind, fields = type(node), dict(node.__dict__)

    def undo() -> None:
        node.__class__ = kind
        node.__dict__.clear()
        node.__dict__.update(fields)

    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        if isinstance(node, ast.BinOp) and _is_text(node.right):  # paths: any change is an error
            return None
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        node.ops = [OPERATORS[type(op)]() for op in node.ops[:1]] + node.ops[1:]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        node.value += 1
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        # Clearly another number, whatever its size.
        node.value = node.value * 1.5 if node.value else 0.01
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and isinstance(
        node.test, ast.Name | ast.Attribute | ast.Call
    ):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Return) and not _is_plain(node.value):
        node.value = ast.Constant(None)
    elif isinstance(node, ast.Raise) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        node.__class__ = ast.Pass
    else:
        return None
    return undo


def _is_plain(value: ast.expr | None) -> bool:
    """Whether a return is of nothing or of a boolean, which is changed itself."""
    return value is None or (
        isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, bool))
    )


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.JoinedStr) or (
        isinstance(value, ast.Constant) and isinstance(value.value, str)
    )


# Tests


class Trace:
    """A pytest plugin: which lines of the package each test reaches, and how long it takes."""

    def __init__(self, package: Path) -> None:
        self.package = str(package) + os.sep
        self.tests: dict[str, dict[str, Any]] = {}
        self.ok = True
        self._reached: set[tuple[str, int]] = set()
        self._processes = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _: Any) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
            self._processes = True

    def _call(self, frame: Any, event: str, _: Any) -> Any:
        code = frame.f_code
        # Modules and classes run when they are imported, by whichever test is the first.
        if code.co_filename.startswith(self.package) and code.co_flags & inspect.CO_OPTIMIZED:
            self._reached.add((code.co_filename, frame.f_lineno))
            return self._line
        return None

    def _line(self, frame: Any, event: str, _: Any) -> Any:
        self._reached.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    def _hook(self, item: Any, phase: str) -> Iterator[None]:
        self._reached, self._processes = set(), False
        begun = _cpu_seconds()
        threading.settrace(self._call)
        sys.settrace(self._call)
        yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        test = self.tests.setdefault(item.nodeid, {"seconds": 0.0, "processes": False})
        test["seconds"] += _cpu_seconds() - begun
        test["processes"] |= self._processes
        lines = defaultdict(set)
        for file, line in self._reached:
            lines[file.removeprefix(self.package)].add(line)
        test[phase] = {file: sorted(found) for file, found in lines.items()}


def _cpu_seconds() -> float:
    """Processor time of this process and its children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _trace_plugin(package: Path) -> Any:
    import pytest

    class Plugin(Trace):
        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_setup(self, item: Any) -> Iterator[None]:
            yield from self._hook(item, "setup")

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_call(self, item: Any) -> Iterator[None]:
            yield from self._hook(item, "call")

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_teardown(self, item: Any) -> Iterator[None]:
            yield from self._hook(item, "teardown")

    return Plugin(package)


class Choice:
    """A pytest plugin: only the chosen tests, in the given order; keeps which one failed."""

    def __init__(self, chosen: list[str], failure: Path) -> None:
        self.order = {test: number for number, test in enumerate(chosen)}
        self.failure = failure

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order),
            key=lambda item: self.order[item.nodeid],
        )

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failure.write_text(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failure.write_text(f"{report.nodeid} (import)")


@dataclass(frozen=True)
class Baseline:
    """What the tests of a module do without a mutant.

    Attributes:
        tests: seconds, whether it starts processes, and the lines it reaches, by test.
        libraries: modules that the tests import, outside the package.
    """

    tests: dict[str, dict[str, Any]]
    libraries: list[str]

    def chosen(self, mutant: Mutant) -> list[str]:
        """The tests that reach the mutant's lines, quickest first, file by file; then those that
        start processes.
        """
        file = mutant.path.removeprefix("forgetcli/")
        wanted = set(mutant.lines)
        shared = {  # module fixtures run in the setup of a file's first test
            test.partition("::")[0]
            for test, facts in self.tests.items()
            if wanted & set(facts["setup"].get(file, ()))
        }
        reaching = {
            test
            for test, facts in self.tests.items()
            if test.partition("::")[0] in shared
            or any(
                wanted & set(facts.get(phase, {}).get(file, ())) for phase in ("call", "teardown")
            )
        }
        seconds = defaultdict(list)
        for test in reaching:
            seconds[test.partition("::")[0]].append(self.tests[test]["seconds"])

        def order(test: str) -> tuple:
            facts = self.tests[test]
            name = test.partition("::")[0]
            mean = fmean(seconds[name]) if name in seconds else 0.0
            return facts["processes"], mean, name, facts["seconds"]

        processes = {test for test, facts in self.tests.items() if facts["processes"]}
        quick = {test for test in reaching | processes if self.tests[test]["seconds"] <= LONGEST}
        return sorted(quick or reaching, key=order)


def tests_of(path: str) -> tuple[str, ...]:
    return next(tests for prefix, tests in TESTS.items() if path.startswith(prefix))


class Copy:
    """A copy of the checkout in which the tests run."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutants-"))
        for name in ("forgetcli", "tests", "recipes"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.folder)
        os.chdir(self.folder)
        sys.path[:0] = [str(self.folder), str(self.folder / "tests")]
        os.environ["PYTHONPATH"] = str(self.folder)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False
        # A shell lets its background processes ignore Ctrl-C, which tests send.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(
        self, files: Iterable[str], plugin: Any, seconds: float, done: Any = None
    ) -> int | None:
        """Run pytest in a forked process: its exit code, None if it hangs.

        Args:
            seconds: processor time that the tests need.
        """
        pid = os.fork()
        if pid == 0:
            os.setsid()
            most = int(PATIENCE + 3 * seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
            with open(self.folder / "output.txt", "w") as sink:
                os.dup2(sink.fileno(), 1)
                os.dup2(sink.fileno(), 2)
            import pytest

            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
            options.append(f"--basetemp={self.folder / 'tmp'}")
            options += ["-k", " and ".join(f"not {name}" for name in SLOW)]
            code = int(pytest.main([*options, *files], plugins=[plugin]))
            if done is not None:
                done(plugin)
            sys.stdout.flush()
            os._exit(code)
        end = time.monotonic() + 6 * (PATIENCE + 3 * seconds)  # other programs run, too
        code = None
        while code is None and time.monotonic() < end:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.01)
        with suppress(ProcessLookupError):  # and whatever the tests have left running
            os.killpg(pid, signal.SIGKILL)
        if code is None:
            os.waitpid(pid, 0)
        return code

    @cache  # noqa: B019
    def baseline(self, tests: tuple[str, ...]) -> Baseline:
        """Run the tests without a mutant, or read what the last such run of each file has found.

        Raises:
            SystemExit: they do not pass.
        """
        shared = hashlib.sha256(repr(SLOW).encode())
        for file in sorted([*Path("tests").glob("*.py"), *Path("forgetcli").rglob("*.py")]):
            shared.update(file.read_bytes())
        kept = {}
        for test in tests:
            for file in sorted(Path(test).rglob("test_*.py")) or [Path(test)]:
                digest = shared.copy()
                digest.update(file.read_bytes())
                kept[file.as_posix()] = BUILD / f"{file.stem}-{digest.hexdigest()[:16]}.json"
        files = [file for file, cached in kept.items() if not cached.exists()]
        if files:
            self._run_without_mutant(files, kept)
        result = Baseline({}, [])
        for cached in kept.values():
            facts = json.loads(cached.read_text())
            result.tests.update(facts["tests"])
            result.libraries.extend(facts["libraries"])
        return result

    def _run_without_mutant(self, files: list[str], kept: dict[str, Path]) -> None:
        def done(plugin: Trace) -> None:
            libraries = [
                name
                for name, module in sys.modules.items()
                if "site-packages" in (getattr(module, "__file__", None) or "")
                and not name.startswith("forgetcli")
            ]
            for file in files:
                tests = {
                    test: facts
                    for test, facts in plugin.tests.items()
                    if test.partition("::")[0] == file
                }
                facts = {"tests": tests, "libraries": libraries}
                (self.folder / kept[file].name).write_text(json.dumps(facts))

        begun = time.monotonic()
        if self.run(files, _trace_plugin(self.folder / "forgetcli"), 3600, done) != 0:
            print((self.folder / "output.txt").read_text()[-3000:])
            raise SystemExit(f"the tests do not pass without a mutant: {' '.join(files)}")
        for file in files:
            shutil.copy(self.folder / kept[file].name, kept[file])
        print(f"{' '.join(files)}: {time.monotonic() - begun:.0f} s without a mutant", flush=True)

    def test(self, mutant: Mutant, baseline: Baseline) -> dict[str, Any]:
        """Whether a test fails for a mutant, and which one."""
        chosen = baseline.chosen(mutant)
        record: dict[str, Any] = {"id": mutant.id, "path": mutant.path, "line": mutant.line}
        record |= {"name": mutant.name, "outcome": "survived", "tests": len(chosen)}
        if not chosen:
            return record
        target, failure = self.folder / mutant.path, self.folder / "failure.txt"
        failure.unlink(missing_ok=True)
        original, times = target.read_bytes(), target.stat()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = sum(baseline.tests[test]["seconds"] for test in chosen)
        target.write_text(mutant.text, encoding="utf-8")
        # No cached bytecode is of this time.
        os.utime(target, ns=(times.st_atime_ns, time.time_ns() + 10**12))
        try:
            files = dict.fromkeys(test.partition("::")[0] for test in chosen)
            code = self.run(files, Choice(chosen, failure), seconds)
        finally:
            target.write_bytes(original)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        record["cpu"] = round(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2
        )
        if code != 0:
            record["outcome"] = "killed"
            record["by"] = failure.read_text() if failure.exists() else f"exit {code}"
        return record


def preload(names: Iterable[str]) -> None:
    """Import libraries once for all forked processes."""
    for name in names:
        if name not in sys.modules:
            with suppress(BaseException):
                __import__(name)
    gc.collect()
    gc.freeze()  # pytest collects garbage several times, which would look at all of these modules


# Results


def read_results() -> dict[str, dict[str, Any]]:
    """The last record of each mutant."""
    if not RESULTS.exists():
        return {}
    records = map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
    return {record["id"]: record for record in records}


def read_equivalent() -> dict[tuple[str, str], str]:
    """Reason by path and name."""
    if not EQUIVALENT.exists():
        return {}
    listed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))
    return {
        (path, name): reason for path, table in listed.items() for name, reason in table.items()
    }


def print_table(
    jobs: list[Mutant], all_names: set[tuple[str, str]], results: dict[str, dict], survivors: bool
) -> bool:
    """Print the figures of every module; whether the list of equivalent mutants is right.

    Args:
        jobs: the mutants that were drawn.
        all_names: path and name of every mutant of the same modules.
    """
    equivalent = read_equivalent()
    figures: dict[str, Counter] = defaultdict(Counter)
    right = True
    for job in jobs:
        count = figures[job.path]
        count["all"] += 1
        record = results.get(job.id)
        if record is None:
            continue
        listed = (job.path, job.name) in equivalent
        count["tried"] += 1
        count["killed"] += record["outcome"] == "killed"
        count["equivalent"] += listed and record["outcome"] == "survived"
        count["cpu"] += record.get("cpu", 0.0)
        if listed and record["outcome"] == "killed":
            right = False
            print(f"listed as equivalent, but killed by {record['by']}: {job.path}: {job.name}")
        if survivors and record["outcome"] == "survived" and not listed:
            print(f"{job.path}:{job.line} ({record['tests']} tests) {job.name}")
    paths = {job.path for job in jobs}
    for path, name in equivalent:
        if path in paths and (path, name) not in all_names:
            right = False
            print(f"listed as equivalent, but no mutant: {path}: {name}")
    print(f"{'module':45} killed  tried  equivalent    all   rate")
    for path, count in [*sorted(figures.items()), ("all", sum(figures.values(), Counter()))]:
        rate = 100 * count["killed"] / max(count["tried"] - count["equivalent"], 1)
        print(
            f"{path:45}{count['killed']:7}{count['tried']:7}{count['equivalent']:12}"
            f"{count['all']:7}{rate:6.1f} %"
        )
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", nargs="*", help="part of a path; all modules by default")
    parser.add_argument(
        "--seconds",
        type=float,
        default=280,
        help="begin no mutant after this, counted from the first",
    )
    parser.add_argument("--sample", type=int, help="draw this many mutants of each module")
    parser.add_argument("--again", action="store_true", help="test survivors again")
    parser.add_argument("--survivors", action="store_true", help="list the mutants that survived")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    jobs = []
    all_names = set()
    for prefix in TESTS:
        for file in sorted(ROOT.glob(f"{prefix}*.py" if prefix.endswith("/") else prefix)):
            path = file.relative_to(ROOT).as_posix()
            if options.module and not any(part in path for part in options.module):
                continue
            drawn = mutants(path)
            all_names |= {(path, mutant.name) for mutant in drawn}
            random.Random(0).shuffle(drawn)
            jobs += drawn[: options.sample]
    results = read_results()
    open_jobs = [
        job
        for job in jobs
        if job.id not in results or (options.again and results[job.id]["outcome"] == "survived")
    ]
    random.shuffle(open_jobs)  # for calls that run at the same time
    if open_jobs and options.seconds > 0:
        checkout = Copy()
        preload(("pytest", "hypothesis", "torch", "pydantic", "numpy"))
        try:
            for tests in dict.fromkeys(tests_of(job.path) for job in open_jobs):
                preload(checkout.baseline(tests).libraries)
            begun = time.monotonic()
            for job in open_jobs:
                if time.monotonic() - begun > options.seconds:
                    break
                if read_results().get(job.id) != results.get(job.id):  # another call has tested it
                    continue
                baseline = checkout.baseline(tests_of(job.path))
                results[job.id] = record = checkout.test(job, baseline)
                with RESULTS.open("a", encoding="utf-8") as writer:
                    writer.write(json.dumps(record, ensure_ascii=False) + "\n")
        finally:
            os.chdir(ROOT)
            shutil.rmtree(checkout.folder, ignore_errors=True)
        results = read_results()
    return 0 if print_table(jobs, all_names, results, options.survivors) else 1


if __name__ == "__main__":
    sys.exit(main())
