"""Worker processes that a test starts, stops in mid-flight, kills and restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.crashes.checker import Crash
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
_numbers = count(1)


class Worker:
    """One process of `tests.crashes.worker`."""

    def __init__(self, url: str, folder: Path, *options: str) -> None:
        self.name = f"worker-{next(_numbers)}"
        self.log_file = folder / f"{self.name}.log"
        environment = {
            **os.environ,
            "WORKER": self.name,
            "HISTORY": str(history_in(folder)),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "tests.crashes.worker", "--url", url, "--log", str(self.log_file), *options]
        with (folder / f"{self.name}.out").open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output
            )

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> Crash:
        """Kills it with SIGKILL; it is dead on return."""
        self.process.kill()
        self.process.wait()
        crash = Crash(self.name, time.monotonic())
        self.close()
        return crash

    def close(self) -> None:
        """Ends it, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class Workers:
    """Several processes, ended with the block."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.all: list[Worker] = []

    def start(self, *options: str) -> Worker:
        worker = Worker(self.url, self.folder, *options)
        self.all.append(worker)
        return worker

    def restart_dead(self, *options: str) -> list[Worker]:
        """Replaces those that have died by new ones; returns the dead."""
        dead = [worker for worker in self.all if not worker.is_alive()]
        for worker in dead:
            worker.close()
            self.all.remove(worker)
            self.start(*options)
        return dead

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.all:
            worker.close()


def history_in(folder: Path) -> Path:
    """The history file that workers in this folder write to."""
    return folder / "history.jsonl"


def wait_for_text(worker: Worker, text: str, timeout: float = 15.0) -> None:
    """Waits until the worker has logged `text`."""
    wait_until(lambda: text in worker.log, timeout, lambda: f"{text!r} in the log of {worker.name}:\n{worker.log}")
