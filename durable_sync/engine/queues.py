"""In which queues to look for a task: those served, or, where all are, those that it was declared for or seen in."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from durable_sync.registry import TaskRegistry

__all__ = ["KnownQueues"]


class KnownQueues:
    """Asked by the claimer, on its thread. To discover queues costs a statement more, so it is done now and then."""

    def __init__(self, served: frozenset[str] | None, registry: TaskRegistry, *, interval: float) -> None:
        self._served = served
        self._registry = registry
        self._interval = interval
        self._seen: dict[str, set[str]] = {}
        self._discovered_at = float("-inf")

    @property
    def are_all_served(self) -> bool:
        """True if there may be queues that nobody has told of."""
        return self._served is None

    @property
    def discovery_is_due(self) -> bool:
        """True if it is time to look for such."""
        return self._served is None and time.monotonic() - self._discovered_at >= self._interval * 0.9

    def discovering(self) -> None:
        """Somebody looks for them now."""
        self._discovered_at = time.monotonic()

    def learn(self, seen: Iterable[tuple[str, str]]) -> bool:
        """Takes in queues by task; False if there are none."""
        learnt = False
        for task_id, queue in seen:
            self._seen.setdefault(task_id, set()).add(queue)
            learnt = True
        return learnt

    def by_task(self, task_ids: Iterable[str]) -> dict[str, Sequence[str]]:
        """Where to look, for each of these tasks."""
        return {task_id: self._of(task_id) for task_id in task_ids}

    def _of(self, task_id: str) -> Sequence[str]:
        if self._served is not None:
            return sorted(self._served)
        task = self._registry.get(task_id)
        declared = set[str]() if task is None else {task.declaration.queue}
        return sorted(declared | self._seen.get(task_id, set()))
