"""The cost of an attack: waiting takes time, computing takes the processor's time too."""

from __future__ import annotations

import time

from forgetcli.robustness.budget import Budget


def test_waiting_is_no_processor_time() -> None:
    """Both clocks add up over blocks. Only the wall clock goes on while the process waits."""
    budget = Budget()
    with budget.metering([]):
        time.sleep(0.3)
    assert budget.seconds >= 0.3
    assert budget.processor_seconds < 0.1

    with budget.metering([]):
        start = time.process_time()
        while time.process_time() < start + 0.2:
            pass
    assert 0.2 <= budget.processor_seconds < 0.4 < budget.seconds
    assert budget.as_dict()["processor_seconds"] == round(budget.processor_seconds, 3)
