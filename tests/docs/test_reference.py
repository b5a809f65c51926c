"""The reference has all that is public."""

from __future__ import annotations

import re
from pathlib import Path

import durable_sync
from durable_sync import DurableExecutor, TaskHandle

REFERENCE = (Path(__file__).parent.parent.parent / "docs" / "reference.md").read_text(encoding="utf-8")


def members(name: str) -> set[str]:
    """The members that the reference lists of a class."""
    listed = re.search(rf"autoclass:: {name}\b.*\n(?:   :.*\n)*?   :members: (.*)", REFERENCE)
    assert listed is not None
    return set(listed[1].split(", "))


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_the_reference_has_every_public_name() -> None:
    """Whatever `durable_sync` exports is in the reference."""
    entries = set(re.findall(r"auto(?:class|exception|function):: (\w+)", REFERENCE))
    assert set(durable_sync.__all__) - entries == {"__version__", "metadata"}
    assert "`durable_sync.metadata`" in REFERENCE


def test_the_reference_has_every_method() -> None:
    """Of an executor and of a handle, everything that a user can call is in the reference."""
    assert members("DurableExecutor") == public(DurableExecutor)
    assert members("TaskHandle") - {"created"} == public(TaskHandle)
