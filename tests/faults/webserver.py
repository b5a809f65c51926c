"""gunicorn, serving `tests.faults.wsgi`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import psutil

from tests.processes import ROOT

__all__ = ["WORKERS", "Gunicorn"]

WORKERS = 4
_SETTINGS = """
import os, signal, threading, time

control_socket_disable = True
graceful_timeout = 20
timeout = 60


def on_starting(server):
    parent = os.getppid()

    def end_with_parent():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
"""


class Gunicorn:
    """A server with four worker processes; killed, if it still runs, when the block is left."""

    def __init__(self, url: str, folder: Path, history: Path, *, preloads: bool, starts: bool) -> None:
        """`starts`: the application starts its executor when it is imported, instead of never."""
        settings = folder / "gunicorn.conf.py"
        settings.write_text(_SETTINGS)
        self._log = folder / "gunicorn.log"
        self._listener = socket.create_server(("127.0.0.1", 0))
        bound = self._listener.fileno()
        options = ["-c", str(settings), "-b", f"fd://{bound}", "-w", str(WORKERS), *["--preload"] * preloads]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *options, "tests.faults.wsgi:application"],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    # From Python 3.12 on every fork beside threads is warned of; this test is about nothing else.
                    "PYTHONWARNINGS": "ignore::DeprecationWarning",
                    "DATABASE": url,
                    "HISTORY": str(history),
                    "STARTS": "yes" if starts else "no",
                },
                pass_fds=[bound],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid
        self.lives: dict[int, dict[str, list[str]]] = {}
        """What each process last told of itself, by its process id: see `tests.faults.wsgi.live`."""
        self.answered: set[tuple[str, int]] = set()
        """Which process has answered what."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        if self._process.poll() is None:
            processes = [psutil.Process(pid) for pid in self.workers()]
            self._process.kill()
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait(30)
        self._listener.close()

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def workers(self) -> set[int]:
        """The process ids of its workers."""
        return {child.pid for child in psutil.Process(self.pid).children()}

    def ask(self, what: str, **options: str) -> Any:
        """The answer to a request; `lives` and `answered` then know who gave it."""
        port = self._listener.getsockname()[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}?{urlencode(options)}", timeout=60) as response:
            found = json.load(response)
        self.lives[found["pid"]] = found["life"]
        self.answered.add((what, found["pid"]))
        return found["answer"]

    def kill_worker(self) -> int:
        """Kills one, which gunicorn replaces; its process id."""
        doomed = min(self.workers())
        os.kill(doomed, signal.SIGKILL)
        return doomed

    def stop(self) -> int:
        """Ends it in order; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)
