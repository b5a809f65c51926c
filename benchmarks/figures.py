"""What was measured, and how it is kept: in benchmarks/figures.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen
from cattrs import Converter

__all__ = ["FIGURES", "Bar", "Figure", "Measured", "Run", "at_least", "at_most", "load", "merged", "save"]

FIGURES = Path(__file__).with_name("figures.json")
_CONVERTER = Converter()


@frozen
class Bar:
    """What a figure has to reach."""

    limit: float
    is_floor: bool
    """At least, or at most."""
    is_of_value: bool
    """Of the value itself, in its unit, or of the ratio."""

    def holds(self, measured: float) -> bool:
        """Whether this is good enough."""
        return measured >= self.limit if self.is_floor else measured <= self.limit

    def margin(self, measured: float) -> float:
        """How far from the bar, as a factor: 1 is just there, 2 is twice as good, 0.5 half as good."""
        better, worse = (measured, self.limit) if self.is_floor else (self.limit, measured)
        return better / worse if worse > 0 else float("inf")


def at_least(ratio: float) -> Bar:
    """A bar for the ratio."""
    return Bar(ratio, is_floor=True, is_of_value=False)


def at_most(limit: float, *, of_value: bool = False) -> Bar:
    """A bar for the ratio, or for the value."""
    return Bar(limit, is_floor=False, is_of_value=of_value)


@frozen(kw_only=True)
class Figure:
    """One thing that was measured, on one database."""

    part: str
    work: str
    value: float
    """The median of the rounds."""
    unit: str
    limits: Mapping[str, float] = field(factory=dict[str, float])
    """What it is held against, measured in the same rounds, in the same unit."""
    against: str = ""
    """With which of these the ratio is."""
    ratio: float | None = None
    """The median of the ratios of each round."""
    bar: Bar | None = None
    note: str = ""
    """What else there is to say of the value."""
    points: Sequence[tuple[float, float]] = ()
    """A course over something else, for a chart."""

    @property
    def judged(self) -> float | None:
        """What the bar is for."""
        return self.value if self.bar is not None and self.bar.is_of_value else self.ratio

    @property
    def holds(self) -> bool:
        """False if the bar is missed."""
        return self.bar is None or self.judged is None or self.bar.holds(self.judged)


@frozen(kw_only=True)
class Run:
    """Where, when and how."""

    date: str
    machine: str
    versions: Mapping[str, str]
    rounds: int
    is_quick: bool


@frozen(kw_only=True)
class Measured:
    """One part on one database; the database is "" where none has a share in it."""

    part: str
    database: str
    run: Run
    seconds: float
    """How long it took in all."""
    figures: Sequence[Figure]


def load(path: Path = FIGURES) -> list[Measured]:
    """What is kept; nothing if there is no such file."""
    if not path.exists():
        return []
    return _CONVERTER.structure(json.loads(path.read_text(encoding="utf-8")), list[Measured])


def save(measured: Iterable[Measured], path: Path = FIGURES) -> None:
    """Keeps these and no others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_CONVERTER.unstructure(list(measured)), indent=1) + "\n", encoding="utf-8")


def merged(old: Iterable[Measured], new: Iterable[Measured]) -> list[Measured]:
    """The new ones in place of the old ones of the same part and database."""
    known = {(one.part, one.database): one for one in old}
    known.update({(one.part, one.database): one for one in new})
    return list(known.values())
