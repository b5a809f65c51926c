"""Other Python processes, told and heard by lines of text."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent


class Script:
    """A Python process that runs a text. It is killed when the block is left, if it hasn't ended."""

    def __init__(self, source: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()

    def say(self, line: str) -> None:
        """Sends a line to the script's standard input."""
        self._stdin.write(line + "\n")
        self._stdin.flush()

    def hear(self) -> str:
        """The next line that the script prints; empty once it has ended."""
        return self._stdout.readline().rstrip("\n")

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait(30)
