"""Whether a child costs more the more siblings it has: `benchmarks/children.py`, as a part."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.children import BAR, FEW, MANY, _measure
from benchmarks.figures import Figure, at_most
from benchmarks.setting import Setting

__all__ = ["measure"]

PART = "children"


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database."""
    for label, many, few, ratio in _measure(setting.url, setting.rounds):
        among_few = f"among {FEW}"
        yield Figure(
            part=PART,
            work=f"a child among {MANY:,}, {label}",
            value=many,
            unit="µs",
            limits={among_few: few},
            against=among_few,
            ratio=ratio,
            bar=at_most(BAR),
        )
