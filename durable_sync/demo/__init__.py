"""`durable-sync demo`: reports on a folder, with a tree of durable tasks, and carries on after any crash.

It uses only the public interface, so it is also an example: `tasks.py` declares the tree, `ledger.py`
enqueues its root in one transaction with a row of its own, `standing.py` reads how far the tree is.
"""

from durable_sync.demo.database import DEFAULT_DATABASE
from durable_sync.demo.errors import DemoError
from durable_sync.demo.run import Options, run
from durable_sync.demo.writing import DEFAULT_REPORT

__all__ = ["DEFAULT_DATABASE", "DEFAULT_REPORT", "DemoError", "Options", "run"]
