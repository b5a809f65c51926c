"""The shell sessions in docs/ run: their files are written, their commands are run, their output is compared.

`tests/test_documents.py` runs the Python blocks in one process. A page that tells of several programs, or of one
that dies, has this beside it:

- A Python block after `<!-- file: NAME -->` is written to that file.
- A `console` block is a session: lines that begin with `$ ` are run by bash, and what follows must be their output,
  in which `...` stands for anything.

Blocks of other languages (`sh`, `text`, ...) are for readers: what they show can't be run here.
"""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.parsers.myst import CodeBlockParser

ROOT = Path(__file__).parent.parent.parent
FILE = re.compile(
    r"^<!-- file: (?P<name>[\w.-]+) -->\n(?:<!--[^\n]*-->\n)*\n?```python\n(?P<source>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SECONDS = 60


def files(document: Document) -> Iterable[Region]:
    """Find the blocks that are files."""
    for match in FILE.finditer(document.text):
        yield Region(match.start(), match.end(), (match["name"], match["source"]), write)


def write(example: Example) -> None:
    """Write a file into the current directory."""
    name, source = example.parsed
    Path(name).write_text(source, encoding="utf-8")


def run(example: Example) -> None:
    """Run a session, and compare what it prints."""
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for command, expected in commands(example.parsed):
        printed = shell(command)
        if not checker.check_output(expected, printed, flags):
            pytest.fail(f"{example.path}:{example.line}: $ {command}\n--- expected\n{expected}--- printed\n{printed}")


def commands(session: str) -> Iterator[tuple[str, str]]:
    """Split a session into its commands and what each is said to print."""
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def shell(command: str) -> str:
    """Run one command, with this Python as `python`; return what a terminal would show."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = dict(os.environ, PATH=path, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    # bash itself says so only where it is interactive.
    return done.stdout + ("Killed\n" if done.returncode == -signal.SIGKILL else "")


SYBIL = Sybil(parsers=[files, CodeBlockParser("console", run)], encoding="utf-8")
PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "```console\n" in path.read_text(encoding="utf-8")]


@pytest.mark.skipif(os.name == "nt", reason="the sessions are bash's")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_sessions_of_a_page_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who copies a page's files and types its commands, in order, sees what the page shows."""
    monkeypatch.chdir(tmp_path)
    for example in SYBIL.parse(path).examples():
        example.evaluate()


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_python_is_left_out(path: Path) -> None:
    """Every Python block runs: the only ones skipped in the document's own process are files of a session."""
    text = path.read_text(encoding="utf-8")
    skipped = len(re.findall(r"<!--- ?skip|<!-- ?skip|^% ?skip", text, re.MULTILINE))
    written = [match for match in FILE.finditer(text) if "skip: next" in match[0]]
    assert skipped == len(written)
    assert not written or "```console\n" in text
