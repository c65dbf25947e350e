"""Every reading function, on hostile files: a `ForgetError` or a result, within limits.

`make fuzz` (FORGET_FUZZ=20000) is the long run; in the suite each target gets a few examples, the
same ones every time.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from guarded import described, failure, import_libraries, sweep
from hostile_inputs import split_safetensors
from processes import ROOT
from reading_targets import GOLDEN, TARGETS

from forgetcli.artifact.delta import Delta, name_of
from forgetcli.errors import ForgetError
from forgetcli.pipeline import apply_delta

CORPUS = Path(__file__).parent / "corpus"
# Read before the fixture that hides FORGET_* from the tests.
LONG = int(os.environ.get("FORGET_FUZZ", "0"))
QUICK = 40
# Failures that are known and not mended yet: the beginnings of their kinds, by target. A failure of
# another kind fails the test; an entry whose inputs in the corpus all pass has to go.
OPEN: dict[str, tuple[str, ...]] = {}
CRASHES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.fixture(autouse=True, scope="module")
def ready() -> None:
    import_libraries()


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_files_end_in_an_error_of_ours(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    examples = max(2, round((LONG or QUICK) * target.share))
    keep = ROOT / "build" / "fuzz" if LONG else tmp_path
    result = sweep(target.strategy(), target.read, examples, derandomise=not LONG)
    print(f"{name}: {result.examples} examples, {result.accepted} accepted, {result.seconds:.1f} s")
    known = OPEN.get(name, ())
    result.failures = {k: v for k, v in result.failures.items() if not k.startswith(known)}
    assert not result.failures, described(target, result, keep)


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_without_checks_is_caught(name: str) -> None:
    """The negative control of each strategy: it breaks a reader that trusts the file."""
    target = TARGETS[name]
    result = sweep(target.strategy(), lambda data, _: target.naive(data), 30, derandomise=True)
    assert result.failures


@pytest.mark.parametrize("path", CRASHES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_input_that_failed_once(path: Path, tmp_path: Path) -> None:
    target = TARGETS[path.parent.name]
    data = path.read_bytes()
    try:
        kind = failure(lambda: target.read(data, tmp_path))
    except ForgetError as error:
        assert error.code and error.message
        return
    if kind is not None and kind.startswith(OPEN.get(target.name, ())):
        pytest.xfail(kind)
    assert kind is None


def test_a_delta_that_is_not_checked_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of `applied-delta`: without its checks a changed delta gives another model."""
    target = TARGETS["applied-delta"]
    data = (GOLDEN / "edited-delta.safetensors").read_bytes()
    assert failure(lambda: target.read(data, tmp_path)) is None
    header, body = split_safetensors(data)
    (name, entry) = next((n, e) for n, e in header.items() if e.get("dtype") == "F16")
    at = len(data) - len(body) + entry["data_offsets"][0]
    changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(ForgetError) as refused:
        target.read(changed, tmp_path)
    assert refused.value.code == "delta.damaged" and name in refused.value.message
    monkeypatch.setattr(
        Delta, "value", lambda self, t: self.weights.read_bytes(self.weights.sites[name_of(t)])
    )
    monkeypatch.setattr(apply_delta, "_refuse_other_result", lambda *_: None)
    assert "another result" in str(failure(lambda: target.read(changed, tmp_path)))


def test_slow_and_greedy_readers_are_caught() -> None:
    """The controls of the limits."""

    def slow() -> None:
        while True:
            pass

    def greedy() -> None:
        bytearray(700 << 20)

    def too_greedy() -> None:
        bytearray(3 << 30)

    assert str(failure(slow, seconds=0.2)).startswith("TooSlow")
    assert failure(greedy, seconds=60) == "500 MB exceeded"  # slow machines need seconds
    assert str(failure(too_greedy)).startswith("MemoryError")
    assert failure(lambda: None) is None
