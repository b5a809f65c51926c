"""Where the time of a small task goes: the processor time of each kind of thread, and of the database's server."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from benchmarks.figures import Figure
from benchmarks.setting import Setting
from benchmarks.tasks import end_to_end, started

__all__ = ["measure"]

PART = "breakdown"
ROLES = {
    "MainThread": "the caller: enqueue, wait",
    "claim": "the claimer",
    "run": "8 workers: decode, call, encode, judge",
    "record": "the recorder",
    "watch": "telling who waits, here and elsewhere",
    "notify": "telling who waits, here and elsewhere",
    "listen": "telling who waits, here and elsewhere",
}
OTHERS = "lease, reaper, watchdog"
_SERVERS = ("postgres", "mariadbd", "mysqld")


def measure(setting: Setting) -> Iterator[Figure]:
    """Microseconds a task, over one run of many."""
    number = setting.size(40_000, 2_000)
    with started(setting.url) as executor:
        before, server_before, began = _spent(), _server(), time.perf_counter()
        end_to_end(executor, number)
        seconds = time.perf_counter() - began
        spent = _spent() - before
        server = _server() - server_before
    yield Figure(part=PART, work="time on the clock", value=seconds / number * 1e6, unit="µs")
    for role in dict.fromkeys([*ROLES.values(), OTHERS]):
        yield Figure(part=PART, work=role, value=spent[role] / number * 1e6, unit="µs of a processor")
    if server > 0:
        yield Figure(part=PART, work="the server", value=server / number * 1e6, unit="µs of a processor")


def _spent() -> Counter[str]:
    """Seconds of processor time by role."""
    roles = {thread.native_id: _role(thread.name) for thread in threading.enumerate()}
    spent: Counter[str] = Counter()
    for thread in psutil.Process().threads():
        spent[roles.get(thread.id, OTHERS)] += thread.user_time + thread.system_time
    return spent


def _role(name: str) -> str:
    verb = name.split("-")[1] if name.startswith("durable_sync-") else name
    return ROLES.get(verb, OTHERS)


def _server() -> float:
    """Seconds of processor time of all database servers of this machine."""
    total = 0.0
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in _SERVERS:
            times = process.cpu_times()
            total += times.user + times.system
    return total
