"""`durable-sync demo`: reads a folder, one durable task a file, and carries on after any crash.

It uses only the public interface, so it is also an example: `ledger.py` enqueues in one transaction
with rows of its own, `run.py` follows the handles.
"""

from durable_sync.demo.database import DEFAULT_DATABASE
from durable_sync.demo.errors import DemoError
from durable_sync.demo.run import Options, run

__all__ = ["DEFAULT_DATABASE", "DemoError", "Options", "run"]
