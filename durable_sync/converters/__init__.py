"""How values become JSON values and come back: a cattrs converter that never changes a value silently.

A `Codec` is the pair of functions that writes and reads one annotation. `build_codec` picks it:
scalars, then containers, records (attrs classes, dataclasses, NamedTuples, TypedDicts) and unions.
The converter asks for it once for each annotation; hooks that a user registers win over ours.
"""

from __future__ import annotations

from durable_sync.converters.codec import Misfit, explain
from durable_sync.converters.converter import StrictConverter, make_converter

__all__ = ["Misfit", "StrictConverter", "explain", "make_converter"]
