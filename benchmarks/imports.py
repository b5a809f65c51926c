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
EXECUTOR, ENGINE = "durable_sync and a first executor", "sqlalchemy, cattrs, tenacity and a first engine"
BAR = at_most(1.3)
_CODE = {
    OURS: f"import {OURS}",
    ITS_OWN: f"import {ITS_OWN}",
    EXECUTOR: f"import {OURS}; {OURS}.DurableExecutor('sqlite:///unused.db')",
    ENGINE: f"import {ITS_OWN}; sqlalchemy.create_engine('sqlite:///unused.db')",
}
_TIMED = "import time; began = time.perf_counter(); {}; print((time.perf_counter() - began) * 1000)"


def measure(setting: Setting) -> Iterator[Figure]:
    """The start of the interpreter is not counted."""
    for name in _CODE:
        _milliseconds(name)
    processes = setting.size(10, 3) * setting.rounds
    taken = taking_turns(processes, {name: partial(_milliseconds, name) for name in _CODE})
    yield compared(PART, f"import {OURS}", taken, OURS, ITS_OWN, unit="ms", bar=BAR, beside=())
    yield compared(PART, EXECUTOR, taken, EXECUTOR, ENGINE, unit="ms", beside=())


def _milliseconds(name: str) -> float:
    command = [sys.executable, "-c", _TIMED.format(_CODE[name])]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
