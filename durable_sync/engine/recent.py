"""Outputs that this process has just recorded, so that whoever waits for one need not read it back."""

from __future__ import annotations

from collections import deque

__all__ = ["Recent"]

_KEPT = 500
_LONGEST = 2_000
"""Characters; longer ones are read from the database."""


class Recent:
    """The last few outputs whose COMMIT has returned: they never change any more. For any thread."""

    def __init__(self) -> None:
        self._outputs: dict[str, str] = {}
        self._order: deque[str] = deque()

    def put(self, execution_id: str, output: str) -> None:
        """Keeps the output, as JSON text, of an execution that has completed by itself."""
        if len(output) > _LONGEST:
            return
        self._outputs[execution_id] = output
        self._order.append(execution_id)
        if len(self._order) > _KEPT:
            self._outputs.pop(self._order.popleft(), None)

    def get(self, execution_id: str) -> str | None:
        """The output; None if it isn't kept, which says nothing."""
        return self._outputs.get(execution_id)
