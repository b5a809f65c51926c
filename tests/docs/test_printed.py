"""What a page shows as printed is what its Python blocks print.

A `text` block after `<!-- printed -->` is what the Python blocks since the last such block have printed. Durations and
execution ids differ from run to run, so any stands for any other; `...` stands for anything.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parent.parent.parent
PRINTED = re.compile(r"^<!-- printed -->\n```text\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if PRINTED.search(path.read_text(encoding="utf-8"))]
VARYING = {
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}": "<id>",
    r"\b\d+\.\d+ s\b": "<duration>",
    r"\bprocess \d+\b": "process <pid>",
}


def steady(text: str) -> str:
    """The text with what differs from run to run made alike."""
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text)
    return text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_shows_what_is_printed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who runs a page's blocks sees the text that stands below them."""
    monkeypatch.chdir(tmp_path)
    output = io.StringIO()

    def shown(document: Document) -> Iterable[Region]:
        for match in PRINTED.finditer(document.text):
            yield Region(match.start(), match.end(), match["text"], compare)

    def compare(example: Example) -> None:
        expected, printed = steady(example.parsed), steady(output.getvalue())
        output.seek(0)
        output.truncate()
        if not doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS):
            pytest.fail(f"{example.path}:{example.line}\n--- shown\n{expected}--- printed\n{printed}")

    document = Sybil(parsers=[PythonCodeBlockParser(), SkipParser(), shown], encoding="utf-8").parse(path)
    for example in document.examples():
        with contextlib.redirect_stdout(output):
            example.evaluate()
    assert output.getvalue() == "", f"{path}: printed, and not shown"
