"""What each database can do, and how it says no. The only place that names a database.

A `Dialect` is a set of capabilities with the portable answer to each; a database that can do better overrides
it. Everything else asks for the capability, never for the name.
"""

from __future__ import annotations

from durable_sync.storage.dialects.base import MAX_PACKET, Dialect, Fault
from durable_sync.storage.dialects.columns import name_type, partial_index, payload_type
from durable_sync.storage.dialects.selection import PORTABLE_OPTION, dialect_for, require_driver, settled, with_driver

__all__ = [
    "MAX_PACKET",
    "PORTABLE_OPTION",
    "Dialect",
    "Fault",
    "dialect_for",
    "name_type",
    "partial_index",
    "payload_type",
    "require_driver",
    "settled",
    "with_driver",
]
