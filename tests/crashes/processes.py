"""Worker processes that a test starts, suspends, kills and restarts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from tests.crashes.checker import Crash
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
_numbers = count(1)


class Worker:
    """One process that runs the `main` of a module."""

    def __init__(self, name: str, pid: int, folder: Path) -> None:
        self.name = name
        self.pid = pid
        self.exit_code: int | None = None
        self._log_file = folder / f"{name}.log"
        self._ended = threading.Event()

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log_file.read_text() if self._log_file.exists() else ""

    def is_alive(self) -> bool:
        return not self._ended.is_set()

    def send(self, number: signal.Signals) -> None:
        if self.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> Crash:
        """Kills it with SIGKILL; it is dead on return."""
        self.send(signal.SIGKILL)
        assert self._ended.wait(10), f"{self.name} survived SIGKILL"
        return Crash(self.name, time.monotonic())

    def wait(self, timeout: float) -> int:
        """Its exit code, once it has ended; negative if a signal ended it."""
        assert self._ended.wait(timeout), f"{self.name} has not ended:\n{self.log}"
        assert self.exit_code is not None
        return self.exit_code

    def has_ended(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self._ended.set()


class Workers:
    """Several such processes; they are killed when the block is left."""

    def __init__(self, url: str, folder: Path, module: str = "tests.crashes.worker") -> None:
        self.folder = folder
        self.all: list[Worker] = []
        self._url = url
        self._by_pid: dict[int, Worker] = {}
        self._born: SimpleQueue[int] = SimpleQueue()
        self._lock = threading.Lock()
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes.nursery", module],
            cwd=ROOT,
            env={**os.environ, "HISTORY": str(history_in(folder)), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self, *options: str) -> Worker:
        """Starts one, with options of the module's `main`."""
        name = f"worker-{next(_numbers)}"
        log = str(self.folder / f"{name}.log")
        order = [name, str(self.folder / f"{name}.out"), "--url", self._url, "--log", log, *options]
        assert self._nursery.stdin is not None
        with self._lock:
            self._nursery.stdin.write(json.dumps(order) + "\n")
            self._nursery.stdin.flush()
        worker = Worker(name, self._born.get(timeout=30), self.folder)
        with self._lock:
            self._by_pid[worker.pid] = worker
        self.all.append(worker)
        return worker

    def restart_dead(self, *options: str) -> list[Worker]:
        """Replaces those that have died by new ones; returns the dead."""
        dead = [worker for worker in self.all if not worker.is_alive()]
        for worker in dead:
            self.all.remove(worker)
            self.start(*options)
        return dead

    def _listen(self) -> None:
        assert self._nursery.stdout is not None
        for line in self._nursery.stdout:
            word, pid, *rest = line.split()
            if word == "born":
                self._born.put(int(pid))
            else:
                threading.Thread(target=self._tell_death, args=(int(pid), int(rest[0])), daemon=True).start()

    def _tell_death(self, pid: int, exit_code: int) -> None:
        # Who died at once may not have been entered by `start` yet.
        worker = wait_until(lambda: self._by_pid.get(pid), 10, f"the worker of process {pid}")
        worker.has_ended(exit_code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.all:
            worker.send(signal.SIGKILL)
        self._nursery.communicate()
        self._listener.join(10)


def history_in(folder: Path) -> Path:
    """The history file that workers in this folder write to."""
    return folder / "history.jsonl"


def wait_for_text(worker: Worker, text: str, timeout: float = 15.0) -> None:
    """Waits until the worker has logged `text`."""
    wait_until(lambda: text in worker.log, timeout, lambda: f"{text!r} in the log of {worker.name}:\n{worker.log}")
