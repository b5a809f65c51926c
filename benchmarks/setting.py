"""What a part is told: the database, how many rounds, and whether the short form will do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TypeVar

from attrs import frozen

from benchmarks.figures import Bar, Figure

__all__ = ["Part", "Setting", "compared", "percentile", "said", "say", "taking_turns"]

T = TypeVar("T")


@frozen
class Setting:
    """What a part is measured on, and at what size."""

    database: str
    """Its name; "" for a part that uses none."""
    url: str
    rounds: int
    is_quick: bool

    def size(self, full: int, quick: int) -> int:
        """The one or the other."""
        return quick if self.is_quick else full

    def bar(self, bars: Mapping[str, Bar] | Bar) -> Bar | None:
        """That of this database, if it has one."""
        return bars if isinstance(bars, Bar) else bars.get(self.database)


@frozen(kw_only=True)
class Part:
    """A part of the benchmark, which can be measured by itself."""

    name: str
    title: str
    measure: Callable[[Setting], Iterator[Figure]]
    duration: str
    """How long it takes at its full size, on one database."""
    uses_database: bool = True
    is_quick_too: bool = True
    """False: it has no short form."""


def taking_turns(rounds: int, measures: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Each measure once in each round; every second round goes backwards."""
    taken: dict[str, list[T]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in measures if number % 2 == 0 else reversed(list(measures)):
            taken[name].append(measures[name]())
    return taken


def compared(
    part: str,
    work: str,
    taken: Mapping[str, Sequence[float]],
    ours: str,
    against: str,
    *,
    unit: str = "/s",
    bar: Bar | None = None,
    beside: Sequence[str] | None = None,
) -> Figure:
    """One of the measures that took turns, held `against` another; `beside` are others to show, all by default."""
    shown = [name for name in taken if name != ours] if beside is None else [against, *beside]
    return Figure(
        part=part,
        work=work,
        value=median(taken[ours]),
        unit=unit,
        limits={name: median(taken[name]) for name in shown},
        against=against,
        ratio=median(one / other for one, other in zip(taken[ours], taken[against], strict=True)),
        bar=bar,
    )


def percentile(values: Sequence[float], part: float) -> float:
    """The value that so large a part of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def say(text: str) -> None:
    """To whoever waits."""
    print(text, flush=True)


@contextmanager
def said(what: str) -> Iterator[None]:
    """Says how long something took that is not measured."""
    began = time.perf_counter()
    yield
    say(f"    {what}: {time.perf_counter() - began:.0f} s")
