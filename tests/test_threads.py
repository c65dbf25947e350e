"""The number of threads: who decides it, and what is said on a busy machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from forgetcli.cli.sink import Sink
from forgetcli.process import threads


@pytest.fixture
def two_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four CPUs of two cores, nothing chosen."""
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(threads, "_CPUS", tmp_path)
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.delenv(threads.POLICY, raising=False)
    monkeypatch.delenv(threads.SPINS, raising=False)
    monkeypatch.setattr(threads, "others_running", lambda: 0.0)


@pytest.mark.parametrize(
    ("requested", "variable", "used"),
    [(None, None, 2), (None, "1", 1), (None, "3,2", 3), (None, "many", 2), (4, "1", 4)],
)
def test_the_option_wins_then_the_variable_then_cores(
    two_cores, monkeypatch, requested, variable, used
):
    if variable:
        monkeypatch.setenv(threads.VARIABLE, variable)
    assert threads.use(requested) == used
    assert os.environ[threads.VARIABLE] == str(used)  # for the processes that this one starts


@pytest.mark.parametrize(
    ("others", "set_by_us"),
    [(0.0, {"GOMP_SPINCOUNT": "1000"}), (1.0, {"OMP_WAIT_POLICY": "PASSIVE"})],
)
def test_threads_that_wait_sleep_at_once_on_a_busy_machine_and_soon_on_an_idle_one(
    two_cores, monkeypatch, others, set_by_us
):
    monkeypatch.setattr(threads, "others_running", lambda: others)
    threads.use(None)
    kept = {
        name: os.environ[name] for name in (threads.POLICY, threads.SPINS) if name in os.environ
    }
    assert kept == set_by_us


@pytest.mark.parametrize("name", [threads.POLICY, threads.SPINS])
def test_how_threads_wait_is_left_to_who_has_chosen(two_cores, monkeypatch, name):
    monkeypatch.setenv(name, "ACTIVE")
    threads.use(None)
    assert os.environ[name] == "ACTIVE"
    assert not ({threads.POLICY, threads.SPINS} - {name}) & os.environ.keys()


def test_a_quota_limits_the_cores(two_cores, tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert threads.physical_cores() == 1


def test_a_busy_machine_is_told_of_unless_somebody_has_chosen(two_cores, monkeypatch, capsys):
    monkeypatch.setattr(threads, "others_running", lambda: 1.2)
    with Sink("apply").observer():
        pass
    assert "--threads 1 is likely faster than the default of 2" in capsys.readouterr().err
    for sink in (Sink("apply", threads=2), Sink("apply", quiet=True)):
        with sink.observer():
            pass
        assert capsys.readouterr().err == ""
    assert threads.advice(2, cores=2, others=0.4) == ""
    assert threads.advice(2, cores=8, others=5) == ""


def test_what_has_just_ended_is_no_load(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0, 1.0, 1.0))
    monkeypatch.setattr(threads, "_LOAD", tmp_path / "loadavg")
    (tmp_path / "loadavg").write_text("2.00 1.00 1.00 1/400 77\n")
    assert threads.others_running() == 0
    (tmp_path / "loadavg").write_text("2.00 1.00 1.00 4/400 77\n")
    assert threads.others_running() == 2
