"""The examples in README.md and in docs/ run, each document from its top to its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SYBIL = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_a_document_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block works as it stands, in an empty directory, after the blocks above it.

    A block that can't comes after `<!-- skip: next -->`.
    """
    monkeypatch.chdir(tmp_path)
    for example in SYBIL.parse(path).examples():
        example.evaluate()


def test_readme_has_two_commands() -> None:
    """README promises exactly two commands, and CI runs the very second one."""
    section = (ROOT / "README.md").read_text().split("\n## Two commands\n")[1].split("\n## ")[0]
    blocks = [block.split("\n", 1)[1].strip() for block in section.split("```")[1::2]]
    assert blocks == ["python3 dev.py demo", "python3 dev.py test"]
    assert f"exec {blocks[1]}" in (ROOT / ".ci" / "run").read_text().splitlines()
