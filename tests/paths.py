"""On which databases, and by which way of using them, a test of behaviour runs.

Without a mark: on each database by its best path.
"""

import pytest

DATABASES = ["sqlite", "postgresql", "mariadb"]
EVERY_PATH = DATABASES + [f"{name}-portable" for name in DATABASES]

every_path = pytest.mark.parametrize("database", EVERY_PATH, indirect=True)
"""Also as a database of which nothing is known: what any SQLAlchemy dialect gets."""

one_database = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""What is promised has nothing to do with the database."""
