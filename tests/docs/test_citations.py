"""What the documents cite is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_cited_files_exist(path: Path) -> None:
    """A document that names a file of the repository names one that is there."""
    text = path.read_text(encoding="utf-8")
    cited = set(re.findall(r"`((?:durable_sync|docs|tests)/[\w./-]+)`", text))
    assert [name for name in sorted(cited) if not (ROOT / name).exists() and not name.startswith("docs/_build")] == []


def test_cited_decisions_exist() -> None:
    """Code that points to a decision points to one that is there."""
    for source in sorted((ROOT / "durable_sync").rglob("*.py")):
        for name in re.findall(r"docs/adr/[\w-]+\.md", source.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{source}: {name}"
