"""Other processes: workers that run the tasks, and processes that measure themselves and tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

__all__ = ["Worker", "told"]

ROOT = Path(__file__).resolve().parent.parent


class Worker:
    """A process with an executor of the benchmark's tasks. It ends when the block is left."""

    def __init__(self, url: str, prefix: str = "durable_", workers: int = 8) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", url, prefix, str(workers)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1
        )
        self._hear("ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        try:
            self._process.communicate(timeout=60)
        finally:
            self._process.kill()

    def start(self) -> None:
        """Has it start its executor, without waiting until it has."""
        assert self._process.stdin is not None
        self._process.stdin.write("start\n")
        self._process.stdin.flush()

    def wait_until_started(self) -> None:
        """Waits until it has."""
        self._hear("started")

    def _hear(self, expected: str) -> None:
        assert self._process.stdout is not None
        heard = self._process.stdout.readline().strip()
        if heard != expected:
            raise RuntimeError(f"a worker process said {heard!r} instead of {expected!r}")


def told(module: str, *arguments: object) -> Any:
    """What a fresh process, which runs this module of the benchmark, prints as JSON."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout)
