"""Numbers on the command line that no run can use."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("command", [("generate", "a dog"), ("eval",), ("compare", "objects")])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e999", "x"])
def test_a_guidance_that_is_no_number_is_a_usage_error(forget, tmp_path, command, value):
    run = forget(*command, f"--guidance={value}")
    assert run.code == 2 and "error[usage]" in run.stderr and "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [("--steps", "0"), ("--seed", "-1"), ("--seed", str(2**63)), ("--batch", "0"), ("-n", "0")],
)
def test_counts_and_seeds_out_of_range_are_usage_errors(forget, options):
    run = forget("generate", "a dog", *options)
    assert run.code == 2 and "error[usage]" in run.stderr
