"""The parts, in the order in which they are measured and shown."""

from __future__ import annotations

from benchmarks import (
    alternatives,
    backlog,
    breakdown,
    fan,
    finished,
    handles,
    idle,
    imports,
    many,
    memory,
    mixed,
    naps,
    roundtrip,
    siblings,
    throughput,
)
from benchmarks.setting import Part

__all__ = ["PARTS"]

_ALL = [
    Part(name="throughput", title="Throughput", measure=throughput.measure, duration="2 minutes"),
    Part(name="breakdown", title="Where the time goes", measure=breakdown.measure, duration="1 minute"),
    Part(name="roundtrip", title="Round trips", measure=roundtrip.measure, duration="4 minutes"),
    Part(name="fan", title="Fan-out and fan-in", measure=fan.measure, duration="1 minute"),
    Part(name="children", title="Siblings", measure=siblings.measure, duration="1 minute", is_quick_too=False),
    Part(name="naps", title="Tasks that wait", measure=naps.measure, duration="2 minutes"),
    Part(name="backlog", title="A backlog of others", measure=backlog.measure, duration="1 minute"),
    Part(name="mixed", title="Long and short mixed", measure=mixed.measure, duration="2 minutes"),
    Part(name="finished", title="Finished rows", measure=finished.measure, duration="1 to 5 minutes"),
    Part(name="processes", title="Several processes", measure=many.measure, duration="2 minutes"),
    Part(name="idle", title="An idle process", measure=idle.measure, duration="1 minute"),
    Part(name="memory", title="Memory", measure=memory.measure, duration="1 minute"),
    Part(name="handles", title="Handles that wait", measure=handles.measure, duration="1 minute"),
    Part(name="alternatives", title="Other ways", measure=alternatives.measure, duration="1 minute"),
    Part(name="imports", title="Import", measure=imports.measure, duration="1 minute", uses_database=False),
]
PARTS = {part.name: part for part in _ALL}
"""By the names that `--only` takes."""
