"""A worker process of the benchmark: says `ready`, starts when told to, and ends with its standard input."""

from __future__ import annotations

import sys

from benchmarks.tasks import make_executor

__all__ = ["main"]


def main(url: str, prefix: str, workers: str) -> None:
    """Serves until nobody is there to tell it more."""
    executor = make_executor(url, prefix, int(workers))
    executor.migrate()
    print("ready", flush=True)
    for _line in sys.stdin:
        executor.start()
        print("started", flush=True)
    executor.shutdown(timeout=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
