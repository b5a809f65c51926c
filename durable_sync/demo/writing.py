"""Where a report is written: two files, each of them whole at any moment."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile

from attrs import frozen

from durable_sync.demo.errors import DemoError
from durable_sync.demo.rendering import to_json, to_markdown
from durable_sync.demo.report import Report

__all__ = ["DEFAULT_REPORT", "Target"]

DEFAULT_REPORT = Path("durable-sync-demo")
"""In the current directory, beside the default database."""


@frozen
class Target:
    """The files of a report."""

    markdown: Path
    json: Path

    @classmethod
    def parse(cls, path: Path) -> Target:
        """`path` with either suffix or none. Raises DemoError if nothing can be written there."""
        base = path.with_suffix("") if path.suffix in {".md", ".json"} else path
        whole = base.absolute()
        target = cls(whole.with_name(whole.name + ".md"), whole.with_name(whole.name + ".json"))
        why = target._obstacle
        if why is not None:
            raise DemoError(f"the report can't be written to {path}: {why}")
        return target

    def __str__(self) -> str:
        return f"{self.markdown} and {self.json}"

    @property
    def files(self) -> frozenset[Path]:
        """As they are found when links are followed."""
        return frozenset({self.markdown.resolve(), self.json.resolve()})

    def holds(self, report: Report) -> bool:
        """True if both files are there, and hold exactly this."""
        try:
            return all(path.read_bytes() == content for path, content in self._contents(report))
        except OSError:
            return False

    def write(self, report: Report) -> None:
        """Raises OSError; then each file is what it was, or whole."""
        for path, content in self._contents(report):
            _replace(path, content)

    def _contents(self, report: Report) -> list[tuple[Path, bytes]]:
        return [(self.markdown, to_markdown(report).encode()), (self.json, to_json(report).encode())]

    @property
    def _obstacle(self) -> str | None:
        parent = self.markdown.parent
        if not parent.is_dir():
            return f"there is no folder {parent}"
        blocked = next((path for path in (self.markdown, self.json) if path.is_dir()), None)
        if blocked is not None:
            return f"{blocked} is a folder"
        try:
            TemporaryFile(dir=parent).close()  # what permissions say is not the whole truth
        except OSError as error:
            return f"{parent} is not writable: {error.strerror}"
        return None


def _replace(path: Path, content: bytes) -> None:
    # Two processes may write at once: each under a name of its own.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - that it replaces is the point
    finally:
        temporary.unlink(missing_ok=True)
