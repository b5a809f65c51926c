"""What the threads of an executor go by."""

from __future__ import annotations

import logging

from attrs import frozen

__all__ = ["Settings"]


@frozen(kw_only=True)
class Settings:
    """The options of an executor that its background needs. Durations are seconds."""

    name: str
    max_workers: int
    queues: frozenset[str] | None
    lease: float
    poll_interval: float
    max_payload_bytes: int
    max_children: int
    logger: logging.Logger | None = None
