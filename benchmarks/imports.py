"""Import time, against what is imported besides, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.figures import Figure, at_most
from benchmarks.setting import Setting, compared, taking_turns

__all__ = ["measure"]

PART = "imports"
OURS, ITS_OWN = "durable_sync", "sqlalchemy, cattrs, tenacity"
BAR = at_most(1.3)
_TIMED = "import time; began = time.perf_counter(); import {}; print((time.perf_counter() - began) * 1000)"


def measure(setting: Setting) -> Iterator[Figure]:
    """The start of the interpreter is not counted."""
    _milliseconds(OURS)
    _milliseconds(ITS_OWN)
    processes = setting.size(10, 3) * setting.rounds
    taken = taking_turns(processes, {name: partial(_milliseconds, name) for name in (OURS, ITS_OWN)})
    yield compared(PART, f"import {OURS}", taken, OURS, ITS_OWN, unit="ms", bar=BAR)


def _milliseconds(names: str) -> float:
    command = [sys.executable, "-c", _TIMED.format(names)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
